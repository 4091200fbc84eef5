#!/bin/sh
# serve-costs.sh TARGET-DIR: tools/serve_costs.py on py-data, its manifest and key in files.
set -eu
tools=$(dirname "$0") programs=$1
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$programs/coldpress" keygen -q -o "$work/key"
export COLDPRESS_KEY="file:$work/key"
"$programs/coldpress" convert "oci:${COLDPRESS_CORPUS:?the corpus of real images}/py-data:latest" --no-cache --store "$work/store" -o "$work/app.cpm" -q >/dev/null
python3 "$tools/serve_costs.py" "$programs" "$work/app.cpm" "$work/store"
