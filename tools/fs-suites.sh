#!/bin/sh
# fs-suites.sh: pjdfstest and fsx on images that are mounted writable, and e2fsck of what they leave; in memory, then in a file.
set -eu
programs=$(realpath "${PROGRAMS:-target/release}")
suites=$(realpath -m target/suites)
for suite in pjdfstest fsx; do
    [ -x "$suites/bin/$suite" ] || cargo install --quiet --locked --root "$suites" "$suite"
done
work=$(mktemp -d)
reader=
# What is mounted goes with its process.
trap '[ -z "$reader" ] || { kill $reader; wait $reader || true; }; rm -rf "$work"' EXIT
cd "$work"
mkdir image mnt other
echo made >image/file
tar -C image -cf image.tar .
"$programs/coldpress" keygen -q -o key
"$programs/coldpress" convert tar:image.tar --no-cache --store store --key file:key --free 2GiB -o image.cpm -q
cat >pjdfstest.toml <<'TOML'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
TOML
cat >fsx.toml <<'TOML'
flen = 1048576
[weights]
close_open = 1
invalidate = 1
fsync = 1
posix_fallocate = 1
punch_hole = 1
TOML
for place in "" "--cow $work"; do
    # What the one before said is no sign that this one is there.
    rm -f log
    # shellcheck disable=SC2086
    "$programs/coldread" mount image.cpm mnt --key file:key --suid --dev --writable --cow-max 2GiB $place 2>log &
    reader=$!
    until mountpoint -q mnt && grep -qs 'is mounted' log; do kill -0 $reader || { cat log >&2; exit 1; }; sleep 0.1; done
    chmod 755 . mnt
    echo "## coldread mount --writable $place"
    "$suites/bin/pjdfstest" -c pjdfstest.toml -p mnt -s other >said || { grep -v ' ok$' said; cat log; exit 1; }
    tail -n 1 said
    for seed in 1 2 3 4; do "$suites/bin/fsx" -f fsx.toml -N 10000 -S $seed -P "$work" mnt/fsx; done
    device=$(findmnt -no SOURCE mnt)
    mount -o remount,ro mnt
    dd if="$device" of=written.img bs=1M conv=sparse status=none
    e2fsck -fn written.img
    umount mnt
    wait $reader
    reader=
    rm written.img
done
