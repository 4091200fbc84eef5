#!/bin/sh
# test-tools.sh VENV: installs what `make test` needs and is not there yet.
set -eu
missing=
for tool in e2fsck:e2fsprogs debugfs:e2fsprogs losetup:mount mount:mount fusermount3:fuse3 setpriv:util-linux faketime:faketime \
    setfattr:attr time:time cc:gcc tar:tar python3:python3; do
    command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing for the tests: $missing (Debian packages; as root this installs them)" >&2
        exit 1
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
[ -x "$1/bin/python" ] || python3 -m venv "$1"
"$1/bin/python" -c 'import blake3, boto3, cryptography, flask_cors, moto, zstandard' 2>/dev/null || "$1/bin/pip" install --quiet blake3 cryptography zstandard \
    'moto[s3,kms,iam]' boto3 flask flask-cors
