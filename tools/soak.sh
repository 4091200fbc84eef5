#!/bin/bash
# soak.sh TARGET-DIR: an image read for MINUTES through NBD, a file by FUSE, a loop device on that and vhost-user-blk at once, by random reads
# of every alignment and size, each compared with the exported file (examples/soak.rs). The store takes 5 ms a chunk, the disk cache holds a third of the image and the
# memory 16 MiB, so that all tiers are at work.
#
# usage: root; COLDPRESS_CORPUS (an image python-base); MINUTES
set -eu -o pipefail
programs=$(realpath "$1")
work=$(mktemp -d); cd "$work"
loop= pids=()
cleanup() {
    [ -z "$loop" ] || losetup -d "$loop" || true
    # The store goes last.
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" || true; done
    cd /; rm -rf "$work"
}
trap cleanup EXIT
"$programs/coldpress" keygen -q -o coldpress.key
export COLDPRESS_KEY=file:$work/coldpress.key
"$programs/coldpress" convert "oci:${COLDPRESS_CORPUS:?the corpus of real images}/${IMAGE:-python-base}:latest" --no-cache --store store -o app.cpm -q >/dev/null
"$programs/coldpress" export app.cpm --store store -o app.img -q >/dev/null
bytes() { find "$1" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }'; }
stored=$(bytes store)
mkdir slow
"$programs/examples/slow_store" store slow 5 >ready & slow=$!
until grep -q ready ready; do sleep 0.1; done
"$programs/coldread" serve app.cpm --store slow --cache cache --cache-max "$((stored / 3))" --memory 16MiB \
    --nbd unix:nbd.sock --fuse app.file --vhost-user-blk disk.sock 2>said & pids+=($! "$slow")
until grep -q "is served as" said; do sleep 0.1; done
loop=$(losetup --find --show --read-only --direct-io=on app.file)
echo "$(stat -c %s app.img) bytes of device, $((stored / 1000000)) MB stored, $(date -u +%F)"
"$programs/examples/soak" "${MINUTES:-5}" app.img nbd.sock app.file "$loop" disk.sock
echo "the cache has $(bytes cache/chunks) bytes of $((stored / 3))"
grep -c "a read failed" said && { cat said; exit 1; } || echo "no read failed"
