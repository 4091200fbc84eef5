#!/bin/sh
# test-corpus.sh: converts and exports every image of the corpus and lets others judge: e2fsck, the kernel's mount against
# what umoci or GNU tar unpack, and the readers of mkext4 and ext4-view; then compares 10,000 random entries of layers with what
# containerd unpacks (differential.py; COLDPRESS_SEED draws others). Needs root, umoci, containerd, bsdtar, and COLDPRESS_CORPUS.
set -eu
corpus=${COLDPRESS_CORPUS:?set COLDPRESS_CORPUS to the folder of the corpus}
coldpress=${COLDPRESS:-$PWD/target/release/coldpress}
missing=
for tool in umoci:umoci containerd:containerd ctr:containerd runc:runc bsdtar:libarchive-tools e2fsck:e2fsprogs; do
    command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "test-corpus needs: $missing (Debian packages; as root this installs them)" >&2
        exit 1
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
cargo build --release --locked --example other_readers
work=$(mktemp -d)
mkdir "$work/mnt"
trap 'umount "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
"$coldpress" keygen -o "$work/key" -q
failed=0 passed=0
for image in tiny debian-base python-base py-web-v1 py-web-v2 py-web-v3 py-data py-data-rebuilt node-app whiteouts gnu-sparse; do
    judge=umoci
    [ $image != gnu-sparse ] || judge=tar
    rm -rf "$work/store"
    "$coldpress" convert "oci:$corpus/$image" --no-cache --store "$work/store" --key "file:$work/key" -o "$work/image.cpm" -q
    "$coldpress" export "$work/image.cpm" --key "file:$work/key" -o "$work/image.img" -q
    if python3 tools/judge.py "$work/image.img" "$corpus/$image" --judge $judge --work "$work" &&
        mount -o loop,ro "$work/image.img" "$work/mnt" &&
        target/release/examples/other_readers "$work/image.img" "$work/mnt"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    umount "$work/mnt"
done
# One image in every form that the corpus has it in gives one root digest.
for image in py-web-v1 node-app whiteouts; do
    digests=$(for form in "oci:$corpus/$image" "oci:$corpus/$image-zstd" "oci-archive:$corpus/$image.oci.tar" "docker-archive:$corpus/$image.docker.tar"; do
        "$coldpress" convert "$form" --no-cache --dry-run --key "file:$work/key" --json -q | python3 -c 'import json, sys; print(json.load(sys.stdin)["root_digest"])'
    done | sort -u)
    if [ "$(echo "$digests" | wc -l)" = 1 ]; then
        echo "$image: one root digest from oci, zstd, oci-archive and docker-archive: $digests"
        passed=$((passed + 1))
    else
        echo "$image: the forms differ: $digests"
        failed=$((failed + 1))
    fi
done
if COLDPRESS=$coldpress python3 tools/differential.py --cases 10000 --seed "${COLDPRESS_SEED:-1}"; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
