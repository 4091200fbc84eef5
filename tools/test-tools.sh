#!/bin/sh
# test-tools.sh VENV: installs what `make test` needs and is not there yet.
set -eu
missing=
for tool in e2fsck:e2fsprogs debugfs:e2fsprogs losetup:mount mount:mount fusermount3:fuse3 setpriv:util-linux faketime:faketime \
    setfattr:attr openssl:openssl docker-registry:docker-registry htpasswd:apache2-utils skopeo:skopeo time:time groff:groff-base zsh:zsh fish:fish nbdcopy:libnbd-bin fio:fio curl:curl jq:jq unshare:util-linux xmllint:libxml2-utils qemu-img:qemu-utils qemu-io:qemu-utils findmnt:util-linux cc:gcc tar:tar bsdtar:libarchive-tools python3:python3 \
    linux.uml:user-mode-linux xz:xz-utils bzip2:bzip2 dockerd:docker.io /usr/bin/docker:docker.io runc:runc crun:crun buildah:buildah podman:podman busybox:busybox-static redis-server:redis-server ip:iproute2 rsvg-convert:librsvg2-bin; do
    command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
done
# What pjdfstest (make fs-suites) is built with.
[ -e /usr/include/sys/acl.h ] || missing="$missing libacl1-dev"
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
"$1/bin/python" -c 'import awscli, blake3, boto3, cryptography, flask_cors, moto, prometheus_client, yaml, zstandard' 2>/dev/null || "$1/bin/pip" install --quiet blake3 cryptography zstandard \
    'moto[s3,kms,iam]' awscli boto3 flask flask-cors pyyaml prometheus_client
