#!/bin/bash
# miss-costs.sh TARGET-DIR: what coldread adds to a chunk that comes from the store, an S3 server (moto) on loopback (examples/miss_costs.rs).
#
# usage: COLDPRESS_CORPUS (an image python-base); ROUNDS, each with a reader that knows nothing
set -eu -o pipefail
cd "$(dirname "$0")/.."
programs=$(realpath "$1") venv=$PWD/target/venv/bin
work=$(mktemp -d)
server= reader=
cleanup() {
    for pid in $reader $server; do kill "$pid" 2>/dev/null || true; done
    wait || true
    rm -rf "$work"
}
trap cleanup EXIT
at=$("$venv/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$venv/moto_server" -H 127.0.0.1 -p "$at" >"$work/moto.log" 2>&1 & server=$!
until curl -s "http://127.0.0.1:$at" >/dev/null; do sleep 0.1; done
export AWS_EC2_METADATA_DISABLED=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=admin-id AWS_SECRET_ACCESS_KEY=admin-secret
"$venv/python" -c "import boto3; boto3.client('s3', endpoint_url='http://127.0.0.1:$at').create_bucket(Bucket='chunks')"
"$programs/coldpress" keygen -q -o "$work/key"
store=(--store s3://chunks --store-endpoint "http://127.0.0.1:$at" --key "file:$work/key")
"$programs/coldpress" convert "oci:${COLDPRESS_CORPUS:?the corpus of real images}/${IMAGE:-python-base}:latest" "${store[@]}" --no-cache -o "$work/app.cpm" -q >/dev/null
for _ in $(seq "${ROUNDS:-3}"); do
    "$programs/coldread" serve "$work/app.cpm" "${store[@]}" --nbd "unix:$work/nbd" --memory 1MiB 2>"$work/said" & reader=$!
    "$programs/examples/miss_costs" "$work/app.cpm" "$work/key" "http://127.0.0.1:$at" "$work/nbd"
    kill "$reader"; wait "$reader" || true; reader=
done
