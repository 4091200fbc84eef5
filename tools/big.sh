#!/bin/sh
# big.sh: peak memory of conversions that are large in one way. Makes its images under $COLDPRESS_BIG (default target/big)
# once; the 10 GiB one takes as much disk again in its store. Ends with 1 where a limit is passed.
set -eu
big=${COLDPRESS_BIG:-target/big}
python=${PYTHON:-target/venv/bin/python}
coldpress=target/release/coldpress
work=$(mktemp -d "${COLDPRESS_BENCH_DIR:-target}/big-run.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$big"
"$coldpress" keygen -q -o "$work/key"

# peak IMAGE: KiB
peak() {
    rm -rf "$work/store" "$work/cache"
    /usr/bin/time -f '%M' -o "$work/time" "$coldpress" convert -q --cache "$work/cache" --key "file:$work/key" --store "$work/store" -o "$work/out.cpm" "oci:$1"
    cat "$work/time"
}

failed=0
# judge NAME KIB LIMIT_KIB TEXT
judge() {
    if [ "$2" -le "$3" ]; then verdict=holds; else verdict=FAILS failed=1; fi
    echo "| $1 | $(($2 / 1024)) MiB | $4 | $verdict |"
}

images="million crowd gib:10"
for image in $images; do
    folder=$big/${image%:*}
    [ -e "$folder/index.json" ] || { rm -rf "$folder"; "$python" tools/make_big.py "$folder" "$image"; }
done
[ -e "$big/million-few/index.json" ] || { rm -rf "$big/million-few"; "$python" tools/make_big.py "$big/million-few" few; }
echo '| image | peak resident | limit | |'
echo '|---|---|---|---|'
base=$(peak "$big/million-few")
echo "| a thousand files | $((base / 1024)) MiB | | |"
# 250 bytes a file are 244,140 KiB for a million.
judge 'a million files in 1,000 directories' "$(peak "$big/million")" $((base + 244140)) 'base + 250 bytes a file'
judge 'a million files in one directory' "$(peak "$big/crowd")" $((base + 244140)) 'base + 250 bytes a file'
judge '10 GiB of distinct bytes' "$(peak "$big/gib")" $((400 * 1000000 / 1024)) '400 MB'
if [ -n "${COLDPRESS_CORPUS:-}" ] && [ -e "$COLDPRESS_CORPUS/py-torch" ]; then
    judge 'py-torch' "$(peak "$COLDPRESS_CORPUS/py-torch")" $((400 * 1000000 / 1024)) '400 MB'
fi
exit $failed
