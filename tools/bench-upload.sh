#!/bin/bash
# bench-upload.sh: benches/upload.rs against moto, which one core of its own limits, and against Ceph's radosgw (tools/radosgw.sh), which shares
# all cores with the client. COLDPRESS_CORPUS names a folder with debian-base, an OCI layout; COLDPRESS_BENCH_SERVERS which servers.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/target/venv/bin
work=$(mktemp -d)
pids=()
finish() {
    touch "$work/ceph/stop" 2>/dev/null || true
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    sleep 1
    rm -rf "$work"
}
trap finish EXIT
port() { "$venv/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
export AWS_EC2_METADATA_DISABLED=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=admin-id AWS_SECRET_ACCESS_KEY=admin-secret
export COLDPRESS_BENCH_IMAGE=${COLDPRESS_BENCH_IMAGE:-oci:$COLDPRESS_CORPUS/debian-base}

run() {
    "$venv/python" -c "import boto3; boto3.client('s3', endpoint_url='http://127.0.0.1:$at').create_bucket(Bucket='chunks')"
    echo "== $1"
    # Both clients in a session of their own that yields to the server, which would else have a machine to itself.
    COLDPRESS_BENCH_S3=http://127.0.0.1:$at setsid --wait nice -n 10 sh -c \
        '(echo 10 >/proc/self/autogroup) 2>/dev/null; exec cargo bench --locked --quiet --bench upload'
}

for server in ${COLDPRESS_BENCH_SERVERS:-moto radosgw}; do
    at=$(port)
    case $server in
    moto)
        "$venv/moto_server" -H 127.0.0.1 -p "$at" >"$work/moto.log" 2>&1 &
        pids+=($!)
        for _ in $(seq 100); do curl -s "http://127.0.0.1:$at" >/dev/null && break; sleep 0.2; done
        ;;
    radosgw)
        if ! command -v radosgw >/dev/null; then
            apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common >/dev/null
        fi
        tools/radosgw.sh "$work/ceph" "$at" &
        pids+=($!)
        for _ in $(seq 300); do [ -e "$work/ceph/ready" ] && break; sleep 0.2; done
        ;;
    esac
    run "$server"
done
