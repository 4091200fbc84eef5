#!/bin/bash
# Warm reads through the doors of coldread, each beside the same door serving the exported raw file (examples/raw_door.rs), in turn.
#
# usage: bench-doors.sh TARGET-DIR   (root; COLDPRESS_CORPUS; prints a table of medians)
set -eu -o pipefail
programs=$(realpath "$1")
: "${COLDPRESS_CORPUS:?the corpus of real images}"
work=$(mktemp -d); cd "$work"
pids=() loops=()
cleanup() {
    for loop in "${loops[@]}"; do losetup -d "$loop" || true; done
    kill "${pids[@]}" 2>/dev/null || true; wait || true
    umount raw.file 2>/dev/null || true
    cd /; rm -rf "$work"
}
trap cleanup EXIT
"$programs/coldpress" keygen -q -o coldpress.key
export COLDPRESS_KEY=file:$work/coldpress.key
"$programs/coldpress" convert "oci:$COLDPRESS_CORPUS/python-base:latest" --no-cache --store store -o app.cpm -q >/dev/null
"$programs/coldpress" export app.cpm --store store -o app.img -q >/dev/null
"$programs/coldread" serve app.cpm --store store --memory 256MiB --nbd unix:ours.sock --fuse ours.file 2>said & pids+=($!)
"$programs/examples/raw_door" app.img nbd raw.sock >ready.nbd & pids+=($!)
"$programs/examples/raw_door" app.img fuse raw.file >ready.fuse & pids+=($!)
until grep -q "is served as" said && grep -q ready ready.nbd && grep -q ready ready.fuse; do sleep 0.1; done
for file in ours.file raw.file; do
    loop=$(losetup --find --show --read-only --direct-io=on "$file"); loops+=("$loop")
    ln -s "$loop" "${file%.file}.loop"
done
python3 - "$work" <<'PYTHON'
import json, statistics, subprocess, sys

work = sys.argv[1]
# 48 MiB of files, all of which stays in memory; the first run brings it there.
WHERE = ["--offset=64M", "--size=48M"]


def fio(door, server, kind, block, depth):
    target = {"NBD": ["--ioengine=nbd", f"--uri=nbd+unix:///?socket={work}/{server}.sock"],
              "FUSE and loop": ["--ioengine=libaio", "--direct=1", f"--filename={work}/{server}.loop"]}[door]
    said = subprocess.check_output(["fio", "--name=job", *target, f"--rw={kind}", f"--bs={block}", f"--iodepth={depth}", *WHERE, "--readonly",
                                    "--time_based", "--runtime=2", "--output-format=json"], text=True)
    read = json.loads(said[said.index("{"):])["jobs"][0]["read"]
    return read["iops"], read["bw_bytes"] / 1e6, read["clat_ns"]["percentile"]["50.000000"] / 1e3


print("| door | reads | coldread | a raw file at the same door | ratio |\n|---|---|---|---|---|")
for door in ["NBD", "FUSE and loop"]:
    for kind, block, depth in [("randread", "4k", 1), ("randread", "4k", 16), ("read", "256k", 4)]:
        runs = {"ours": [], "raw": []}
        for server in ["ours", "raw"] * 6:
            runs[server].append(fio(door, server, kind, block, depth))
        ours, raw = (tuple(statistics.median(values) for values in zip(*runs[server][1:])) for server in ["ours", "raw"])
        at = 1 if kind == "read" else 0
        shown = lambda f: f"{f[1]:.0f} MB/s" if kind == "read" else f"{f[0]:.0f} a second, p50 {f[2]:.1f} µs"
        print(f"| {door} | {kind} {block}, {depth} at a time | {shown(ours)} | {shown(raw)} | {ours[at] / raw[at]:.2f} |", flush=True)
PYTHON
