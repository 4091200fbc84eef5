#!/bin/bash
# What a start costs before the image is there: a mount over a store each of whose objects takes 30 ms more, without and with a
# recorded profile and with a disk cache that is empty, beside the same from a local raw image, and beside getting the whole image first.
#
# usage: cold-start.sh TARGET-DIR   (root; COLDPRESS_CORPUS; prints a table of medians in milliseconds)
set -eu -o pipefail
programs=$(realpath "$1")
: "${COLDPRESS_CORPUS:?the directory of tools/make-images}"
rounds=${ROUNDS:-5} delay=${DELAY:-30}
work=$(mktemp -d); cd "$work"
slow=
cleanup() {
    for at in mnt raw; do umount "$work/$at" 2>/dev/null || true; done
    [ -z "$slow" ] || { kill "$slow"; wait "$slow" || true; }
    cd /; rm -rf "$work"
}
trap cleanup EXIT
"$programs/coldpress" keygen -o coldpress.key -q
export COLDPRESS_KEY=file:$work/coldpress.key
mkdir mnt raw slow store

now() { date +%s%N; }
median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }
# The chunks that were fetched, of what coldread --verbose says.
fetched() { sed -n 's/.*fetched \([0-9]*\) of \([0-9]*\) chunks/\1 \2/p' said; }

# start DIRECTORY: the program's start, in the image mounted there, with a /tmp to write to.
in_image='mount -t tmpfs tmpfs "$0/tmp" && exec chroot "$0" "$@"'
start() { unshare --mount sh -c "$in_image" "$1" "${command[@]}" >/dev/null; }

# mounted OPTION…: milliseconds from the command to the end of the start.
mounted() {
    # What the last one said and fetched is not of this one.
    rm -rf said cache
    local begun; begun=$(now)
    "$programs/coldread" -v mount app.cpm mnt --store slow --cache cache "$@" 2>said &
    local reader=$!
    until grep -q "is mounted at" said 2>/dev/null; do sleep 0.002; done
    start mnt
    echo $((($(now) - begun) / 1000000))
    umount mnt; wait $reader
}

raw() {
    local begun; begun=$(now)
    mount -o ro,loop app.img raw
    start raw
    echo $((($(now) - begun) / 1000000))
    umount raw
}

whole() {
    local begun; begun=$(now)
    "$programs/coldpress" export app.cpm --store slow -o whole.img -q
    mount -o ro,loop whole.img raw
    start raw
    echo $((($(now) - begun) / 1000000))
    umount raw; rm whole.img
}

unpacked() {
    local begun; begun=$(now)
    umoci --log=error raw unpack --image "$COLDPRESS_CORPUS/$image:latest" whole
    start whole
    echo $((($(now) - begun) / 1000000))
    rm -rf whole
}

repeat() { for _ in $(seq "$rounds"); do cold; "$@"; done | median; }

echo "| image, start | chunks | raw image | mounted cold | chunks read | with a profile | whole image first | unpacked by umoci |"
echo "|---|---|---|---|---|---|---|---|"
while IFS=: read -r image line; do
    eval "command=($line)"
    "$programs/coldpress" convert "oci:$COLDPRESS_CORPUS/$image:latest" --store store -o app.cpm --no-cache -q >/dev/null
    "$programs/coldpress" export app.cpm --store store -o app.img -q >/dev/null
    "$programs/examples/slow_store" store slow "$delay" >ready & slow=$!
    until grep -q ready ready; do sleep 0.01; done
    rm -f app.cpm.profile
    plain=$(repeat mounted --no-profile); read -r chunks all < <(fetched)
    cold
    "$programs/coldread" profile record app.cpm --store slow -o app.cpm.profile -- unshare --mount sh -c "$in_image" {} "${command[@]}" >/dev/null
    planned=$(repeat mounted)
    whole=$(repeat whole)
    kill "$slow"; wait "$slow" || true; slow=
    local_raw=$(repeat raw)
    unpacked=$(ROUNDS=3 repeat unpacked)
    echo "| $image, \`${command[*]}\` | $all | $local_raw ms | $plain ms | $chunks | $planned ms | $whole ms | $unpacked ms |"
done <<'IMAGES'
python-base:ls -lR /
python-base:python3 -c "import json, ssl, sqlite3"
py-web-v1:python3 -c "import flask, sqlalchemy"
py-data:python3 -c "import numpy, pandas, sklearn"
IMAGES
