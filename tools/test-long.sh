#!/bin/bash
# test-long.sh: the suite that every store passes, and a whole conversion by who may only put, against servers that take a while to get:
# Ceph's radosgw (Debian's radosgw ceph-mon ceph-osd ceph-common, which this installs as root) and azurite (npm).
# COLDPRESS_CORPUS names a folder with py-web-v1, an OCI layout; without it a small image is made.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/target/venv/bin/python
programs=$PWD/target/release
work=$(mktemp -d)
finish() {
    touch "$work/ceph/stop" 2>/dev/null || true
    for pid in "${pids[@]:-}"; do [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; done
    sleep 1
    rm -rf "$work"
}
pids=()
trap finish EXIT
export AWS_EC2_METADATA_DISABLED=true AWS_REGION=us-east-1 HOME="$work/home" COLDPRESS_CACHE="$work/cache"
mkdir -p "$HOME"
export CARGO_HOME="${CARGO_HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)/.rustup}"

# suite NAME STORE ENDPOINT: the conformance suite, with the credentials of the environment.
suite() {
    echo "== the suite: $1"
    COLDPRESS_CONFORMANCE_STORE=$2 COLDPRESS_CONFORMANCE_ENDPOINT=$3 \
        cargo nextest run --locked --no-capture -E 'test(stores::the_suite_that_every_store_passes)' 2>&1 | grep -E 'store .*If-None-Match|panicked|does not hold|Summary' || return 1
}

# port: one that is free.
port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

image=${COLDPRESS_CORPUS:+oci:$COLDPRESS_CORPUS/py-web-v1}
if [ -z "$image" ]; then
    tar -C /usr/share -cf "$work/image.tar" common-licenses
    image=tar:$work/image.tar
fi

# convert ENDPOINT: a whole conversion by the converter, and what the server refuses it.
convert() {
    "$programs/coldpress" keygen -q -o "$work/key"
    AWS_ACCESS_KEY_ID=converter-id AWS_SECRET_ACCESS_KEY=converter-secret "$programs/coldpress" convert "$image" \
        --store s3://chunks/p --store-endpoint "$1" --key "file:$work/key" -o "$work/app.cpm" | sed 's/^/   /'
    AWS_ACCESS_KEY_ID=worker-id AWS_SECRET_ACCESS_KEY=worker-secret "$programs/coldpress" verify "$work/app.cpm" \
        --store s3://chunks/p --store-endpoint "$1" --key "file:$work/key" | sed 's/^/   /'
    AWS_ACCESS_KEY_ID=converter-id AWS_SECRET_ACCESS_KEY=converter-secret "$python" - "$1" <<'EOF'
import sys
import boto3, botocore

s3 = boto3.client("s3", endpoint_url=sys.argv[1])
admin = boto3.client("s3", endpoint_url=sys.argv[1], aws_access_key_id="admin-id", aws_secret_access_key="admin-secret")
key = admin.list_objects_v2(Bucket="chunks", Prefix="p/main/")["Contents"][0]["Key"]


def status(call):
    try:
        call()
        return 200
    except botocore.exceptions.ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]


found = {
    "GET": status(lambda: s3.get_object(Bucket="chunks", Key=key)),
    "HEAD": status(lambda: s3.head_object(Bucket="chunks", Key=key)),
    "LIST": status(lambda: s3.list_objects_v2(Bucket="chunks")),
    "DELETE": status(lambda: s3.delete_object(Bucket="chunks", Key=key)),
}
print("   the converter is refused:", found)
assert set(found.values()) == {403}, found
EOF
    set +e
    AWS_ACCESS_KEY_ID=converter-id AWS_SECRET_ACCESS_KEY=converter-secret "$programs/coldpress" doctor --as converter \
        --store s3://chunks/p --store-endpoint "$1" >"$work/doctor" 2>&1
    code=$?
    set -e
    grep -E '^store' "$work/doctor" | sed 's/^/   /'
    # Every right but the one that this server cannot refuse.
    [ $code = 3 ] && grep -q 'can do more than a converter: store overwrite$' "$work/doctor"
}

echo "== radosgw"
if ! command -v radosgw >/dev/null; then
    apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common >/dev/null
fi
at=$(port)
tools/radosgw.sh "$work/ceph" "$at" &
pids+=($!)
for _ in $(seq 300); do [ -e "$work/ceph/ready" ] && break; sleep 0.2; done
"$python" - "http://127.0.0.1:$at" <<'EOF'
import json, sys
import boto3

s3 = boto3.client("s3", endpoint_url=sys.argv[1], aws_access_key_id="admin-id", aws_secret_access_key="admin-secret")
s3.create_bucket(Bucket="chunks")
who = {"AWS": ["arn:aws:iam:::user/converter"]}
objects, bucket = "arn:aws:s3:::chunks/*", "arn:aws:s3:::chunks"
# Who put an object owns it here, and may read it unless that is denied.
deny = ["s3:GetObject", "s3:DeleteObject", "s3:ListBucket"]
policy = [
    {"Effect": "Allow", "Principal": who, "Action": "s3:PutObject", "Resource": objects},
    {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/worker"]}, "Action": "s3:GetObject", "Resource": objects},
    {"Effect": "Deny", "Principal": who, "Action": deny, "Resource": [objects, bucket]},
]
s3.put_bucket_policy(Bucket="chunks", Policy=json.dumps({"Version": "2012-10-17", "Statement": policy}))
EOF
AWS_ACCESS_KEY_ID=admin-id AWS_SECRET_ACCESS_KEY=admin-secret suite radosgw s3://chunks/suite "http://127.0.0.1:$at"
convert "http://127.0.0.1:$at"

echo "== azurite"
[ -x target/azurite/node_modules/.bin/azurite-blob ] || npm install --silent --no-fund --no-audit --prefix target/azurite azurite
at=$(port)
AZURE_STORAGE_ACCOUNT_NAME=tests AZURE_STORAGE_ACCOUNT_KEY=$(head -c 32 /dev/urandom | base64)
export AZURE_STORAGE_ACCOUNT_NAME AZURE_STORAGE_ACCOUNT_KEY
AZURITE_ACCOUNTS=tests:$AZURE_STORAGE_ACCOUNT_KEY target/azurite/node_modules/.bin/azurite-blob --silent --disableTelemetry --skipApiVersionCheck --location "$work/azurite" --blobHost 127.0.0.1 --blobPort "$at" &
pids+=($!)
for _ in $(seq 100); do curl -s "http://127.0.0.1:$at" >/dev/null && break; sleep 0.2; done
endpoint=http://127.0.0.1:$at/tests
"$python" tools/azurite.py "$endpoint" "$AZURE_STORAGE_ACCOUNT_KEY" chunks
suite azurite az://chunks/suite "$endpoint"

# as RIGHTS COMMAND…: a command with a shared access signature of these rights, and nothing else.
as() {
    local sas
    sas=$("$python" tools/azurite.py "$endpoint" "$AZURE_STORAGE_ACCOUNT_KEY" chunks "$1")
    shift
    env -u AZURE_STORAGE_ACCOUNT_KEY -u AZURE_STORAGE_ACCOUNT_NAME AZURE_STORAGE_ACCOUNT=tests "AZURE_STORAGE_SAS_TOKEN=$sas" \
        "$programs/coldpress" "$@" --store az://chunks/p --store-endpoint "$endpoint"
}

# letters ROLE: the rights that doctor prints for it.
letters() {
    as c doctor --as "$1" --print --json | "$python" -c 'import json, sys; print(json.load(sys.stdin)["policies"][0]["policy"]["sp"])'
}

# may RIGHTS ROLE CODE: what doctor ends with.
may() {
    local code=0
    as "$1" doctor --as "$2" >"$work/doctor" 2>&1 || code=$?
    [ $code = "$3" ] || { cat "$work/doctor"; echo "doctor --as $2 with sp=$1 ended with $code, not $3"; return 1; }
}

echo "   a conversion with sp=$(letters converter), twice"
"$programs/coldpress" keygen -q -o "$work/azure-key"
for n in 1 2; do
    as "$(letters converter)" convert "$image" --key "file:$work/azure-key" --no-cache -o "$work/azure-$n.cpm" | sed 's/^/   /'
done
as "$(letters worker)" verify "$work/azure-2.cpm" --key "file:$work/azure-key" | sed 's/^/   /'
as "$(letters collector)" scrub --all | sed 's/^/   /'
echo "   doctor: each role's printed rights are enough, one less is not, one more is too much"
for role in converter worker collector; do
    may "$(letters $role)" $role 0
    # The collector deletes what it is tried on.
    as "$(letters converter)" convert "$image" --key "file:$work/azure-key" --no-cache -o "$work/x.cpm" --quiet
done
may r converter 3
may l worker 3
for less in rd rl dl; do
    may $less collector 1
    as "$(letters converter)" convert "$image" --key "file:$work/azure-key" --no-cache -o "$work/x.cpm" --quiet
done
may cw converter 3
may rw worker 3

echo "== ten minutes with credentials that live for one"
python3 tools/renewals.py "$programs/coldpress" | sed 's/^/   /'

echo "all passed"
