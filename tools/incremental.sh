#!/bin/sh
# incremental.sh: what a conversion costs when another has been here before: the image again, with one layer changed, and cold.
# From a registry on loopback, whose log says what was pulled; and 10 GiB (COLDPRESS_BIG, default target/big) under a layer of 1 MiB.
set -eu
corpus=${COLDPRESS_CORPUS:?the corpus of real images}
big=${COLDPRESS_BIG:-target/big}
python=${PYTHON:-target/venv/bin/python}
work=$(mktemp -d "${COLDPRESS_BENCH_DIR:-target}/incremental.XXXXXX")
trap 'rm -rf "$work"' EXIT
[ -e "$big/gib/index.json" ] || { mkdir -p "$big"; rm -rf "$big/gib"; "$python" tools/make_big.py "$big/gib" gib:10; }
"$python" tools/incremental.py target/release/coldpress "$corpus" "$big/gib" "$work"
