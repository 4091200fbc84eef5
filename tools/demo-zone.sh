#!/bin/bash
# demo-zone.sh PROGRAMS WORK: the whole chain once. A store and a key service (moto), six cache servers, two hosts: an image is converted, started on both,
# two of the servers are killed, and it is started again; where every byte came from is printed. Needs what `make test-tools` installs, and root for the mounts.
set -eu -o pipefail
programs=$(cd "$1" && pwd) tools=$(cd "$(dirname "$0")" && pwd) venv=$(pwd)/target/venv
rm -rf "$2" && mkdir -p "$2" && cd "$2"
PATH=$programs:$PATH
say() { printf '\n$ %s\n' "$*"; "$@"; }
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true' EXIT
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
await() { for _ in $(seq 500); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.02; done; echo "nothing listens on $1" >&2; exit 1; }

# A store and a key service, with users who may do one thing each.
s3=$(port)
"$venv/bin/moto_server" -H 127.0.0.1 -p "$s3" >moto.log 2>&1 & pids+=($!)
await "$s3"
"$venv/bin/python" "$tools/servers.py" "http://127.0.0.1:$s3" users.json
as() { eval "$("$venv/bin/python" - "$1" <<'PYTHON'
import json, sys
for name, value in json.load(open("users.json"))["users"][sys.argv[1]].items():
    print(f"export {name}={value}")
PYTHON
)"; }
export AWS_REGION=us-east-1 COLDPRESS_STORE=s3://chunks/demo COLDPRESS_KEY=aws-kms://alias/shop
service=(--store-endpoint "http://127.0.0.1:$s3" --kms-endpoint "http://127.0.0.1:$s3")

# Six cache servers.
urls=()
declare -A server
for _ in 1 2 3 4 5 6; do
    at=$(port)
    redis-server --port "$at" --bind 127.0.0.1 --save '' --appendonly no --maxmemory 256mb --maxmemory-policy allkeys-lru >/dev/null & pids+=($!)
    server[$at]=$!; await "$at"; urls+=("redis://127.0.0.1:$at")
done
zone=$(IFS=,; echo "${urls[*]}")
echo "a store and a key service on port $s3, cache servers on ports ${!server[*]}"

# An image: Python as it is on this machine, without what was installed for it.
python=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
libraries=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir -p "root$libraries"
tar -C "$libraries" --exclude=site-packages --exclude=dist-packages --exclude=test -cf - . | tar -C "root$libraries" -xf -
shared=$(ldd "$python" "$libraries"/lib-dynload/*.so 2>/dev/null | grep -o '/[^ :]*' | sort -u)
for file in "$python" $shared; do [ -e "root$file" ] || { mkdir -p "root${file%/*}"; cp -L "$file" "root$file"; }; done
tar -C root -cf app.tar .

as converter
coldpress keygen -q -o scope.key
say coldpress convert tar:app.tar "${service[@]}" --salt-file scope.key -o app.cpm
as worker

# start HOST SAYING: mounts the image there, starts a program in it, and says where what was read came from.
start() {
    printf '\n%s\n' "$2"
    rm -rf "$1.cache" "$1.said" && mkdir -p "$1"
    coldread mount app.cpm "$1" "${service[@]}" --zone "$zone" --cache "$1.cache" --metrics "unix:$1.metrics" 2>"$1.said" & local reader=$!
    pids+=($reader)
    until grep -qs "is mounted at" "$1.said"; do sleep 0.02; kill -0 $reader || { cat "$1.said"; exit 1; }; done
    chroot "$1" "$python" -c 'import decimal, email.parser, http.server, json, sys; print("hello from", sys.version.split()[0], "in", len(sys.modules), "modules")'
    coldread status "unix:$1.metrics"
    # And every file, for the comparison.
    find "$1" -type f -print0 | sort -z | xargs -0 cat | sha256sum >"$1.sum"
    umount "$1"; wait $reader
}
start host-1 "host 1, on an empty zone: all from the store"
start host-2 "host 2: all from the zone"
cmp host-1.sum host-2.sum
gone=(${!server[@]})
kill -9 "${server[${gone[0]}]}" "${server[${gone[1]}]}"; wait "${server[${gone[0]}]}" "${server[${gone[1]}]}" 2>/dev/null || true
start host-2 "host 2 again, its disk emptied, two of six servers killed: all from the four that are left"
cmp host-1.sum host-2.sum
printf '\n$ coldread zone status --zone …\n'
coldread zone status --zone "$zone" || [ $? = 4 ]
printf '\nEvery start read the same bytes.\n'
