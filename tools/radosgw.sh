#!/bin/sh
# radosgw.sh DIRECTORY PORT: a Ceph cluster of one (monitor, one store in memory, S3 gateway) on loopback, with the users
# `admin`, `converter` and `worker`, whose keys are NAME-id and NAME-secret; DIRECTORY/ready says that it serves, DIRECTORY/stop ends it.
set -eu
directory=$1 port=$2
mkdir -p "$directory"
cd "$directory"
directory=$(pwd)
mon=$((port + 1))
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >ceph.conf <<EOF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$mon]
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
mon data = $directory/mon
mon allow pool size one = true
osd data = $directory/osd
run dir = $directory
admin socket =
pid file = $directory/\$name.pid
log file = $directory/\$name.log
keyring = $directory/keyring
mon data avail crit = 1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $directory/rgw
rgw enable apis = s3
EOF
export CEPH_CONF="$directory/ceph.conf"
ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *' >/dev/null
ceph-authtool keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
ceph-authtool keyring --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx' >/dev/null
ceph-authtool keyring --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd' >/dev/null
monmaptool --create --addv a "[v2:127.0.0.1:$mon]" --fsid "$fsid" monmap >/dev/null
ceph-mon --mkfs -i a --monmap monmap --keyring keyring --setuser root --setgroup root
ceph-mon -i a --setuser root --setgroup root
uuid=$(cat /proc/sys/kernel/random/uuid)
[ "$(ceph osd new "$uuid")" = 0 ]
mkdir -p osd rgw
ceph-osd -i 0 --mkfs --osd-uuid "$uuid" --setuser root --setgroup root >/dev/null 2>&1
ceph auth import -i keyring >/dev/null 2>&1
ceph-osd -i 0 --setuser root --setgroup root >/dev/null 2>&1
radosgw -n client.rgw --setuser root --setgroup root
stop() {
    for pid in "$directory"/*.pid; do kill "$(cat "$pid")" 2>/dev/null || true; done
}
trap stop EXIT
trap 'exit 1' INT TERM
for _ in $(seq 200); do curl -s "http://127.0.0.1:$port/" >/dev/null && break; sleep 0.3; done
for user in admin converter worker; do
    radosgw-admin user create --uid="$user" --display-name="$user" --access-key="$user-id" --secret-key="$user-secret" >/dev/null 2>&1
done
: >ready
while [ ! -e stop ]; do sleep 0.2; done
