#!/bin/sh
# sharing.sh: what related images put into one store, without compression. Needs COLDPRESS_CORPUS, the folder of the corpus.
set -eu
corpus=${COLDPRESS_CORPUS:?set COLDPRESS_CORPUS to the folder of the corpus}
coldpress=${COLDPRESS:-target/release/coldpress}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$coldpress" keygen -o "$work/key" -q
printf '%-18s %8s %8s %10s\n' image chunks new 'new MB'
for image in debian-base python-base py-web-v1 py-web-v2 py-web-v3 py-data py-data-rebuilt; do
    "$coldpress" convert "oci:$corpus/$image" --no-cache --store "$work/store" --key "file:$work/key" -o "$work/$image.cpm" \
        --compression none --quiet --json |
        python3 -c 'import json, sys; j = json.load(sys.stdin)
print("%-18s %8d %8d %10.1f" % (sys.argv[1], j["chunks"], j["new_chunks"], j["new_bytes"] / 1e6))' "$image"
done
find "$work/store/main" -type f -printf '%s\n' | awk '{ bytes += $1; n++ } END { printf "%-18s %8s %8d %10.1f\n", "together", "", n, bytes / 1e6 }'
