#!/bin/sh
# bundle-corpus.sh: py-data as a runtime bundle, started by runc; what numpy computes in it, and what of the image was fetched for that.
set -eu
corpus=${COLDPRESS_CORPUS:?the corpus of real images}
programs=${PROGRAMS:-target/release}
work=$(realpath "$(mktemp -d "${COLDPRESS_BENCH_DIR:-target}/bundle.XXXXXX")")
"$programs/coldpress" keygen -q -o "$work/key"
"$programs/coldpress" convert "oci:$corpus/py-data" --no-cache --store "$work/store" --key "file:$work/key" -o "$work/image.cpm" -q
"$programs/coldread" -v bundle "$work/image.cpm" "$work/bundle" --key "file:$work/key" \
    -- python3 -c 'import numpy; print(numpy.arange(10).sum())' 2>"$work/log" &
reader=$!
trap 'kill $reader 2>/dev/null || true; wait $reader || true; rm -rf "$work"' EXIT
begun=$(date +%s)
until grep -q 'is mounted at' "$work/log"; do
    if ! kill -0 $reader 2>/dev/null || [ $(($(date +%s) - begun)) -gt 30 ]; then cat "$work/log" >&2; exit 1; fi
    sleep 0.1
done
first=$(date +%s%N)
said=$(runc --root "$work/runc" run -b "$work/bundle" "bundle-$$")
second=$(date +%s%N)
again=$(runc --root "$work/runc" run -b "$work/bundle" "bundle-$$")
last=$(date +%s%N)
umount "$work/bundle/rootfs"
wait $reader
trap 'rm -rf "$work"' EXIT
echo "runc run: $said, $again in $(((second - first) / 1000000)) and $(((last - second) / 1000000)) ms; $(tail -1 "$work/log")"
[ "$said $again" = "45 45" ]
