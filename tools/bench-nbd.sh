#!/bin/sh
# bench-nbd.sh: warm reads, and writes with reads of what was written, over NBD from coldread beside those from qemu-nbd serving the exported file, in turn, by fio.
set -eu
corpus=${COLDPRESS_CORPUS:?the corpus of real images}
programs=${PROGRAMS:-target/release}
work=$(mktemp -d "${COLDPRESS_BENCH_DIR:-target}/nbd.XXXXXX")
"$programs/coldpress" keygen -q -o "$work/key"
"$programs/coldpress" convert "oci:$corpus/tiny" --no-cache --store "$work/store" --key "file:$work/key" -o "$work/image.cpm" -q
"$programs/coldpress" export "$work/image.cpm" --key "file:$work/key" -o "$work/image.img" -q
"$programs/coldread" serve "$work/image.cpm" --key "file:$work/key" --nbd "unix:$work/ours" 2>"$work/log" &
ours=$!
qemu-nbd --read-only --format raw --persistent --shared 8 --export-name image --socket "$(realpath "$work")/theirs" "$work/image.img" &
theirs=$!
cp "$work/image.img" "$work/written.img"
qemu-nbd --format raw --persistent --shared 8 --export-name image --socket "$(realpath "$work")/raw" "$work/written.img" &
raw=$!
"$programs/coldread" serve "$work/image.cpm" --key "file:$work/key" --nbd "unix:$work/memory" --writable 2>"$work/log" &
memory=$!
"$programs/coldread" serve "$work/image.cpm" --key "file:$work/key" --nbd "unix:$work/file" --writable --cow "$work" 2>"$work/log" &
file=$!
trap 'kill $ours $theirs $raw $memory $file; rm -rf "$work"' EXIT
sleep 1
python3 - "$(realpath "$work")" <<'PYTHON'
import json, os, statistics, subprocess, sys
work = sys.argv[1]
# What stays in the readers' memory: 24 MiB from the device's start on.
def fio(server, kind, block, depth):
    said = subprocess.check_output(["fio", "--name=job", "--ioengine=nbd", f"--uri=nbd+unix:///image?socket={work}/{server}", f"--rw={kind}", f"--bs={block}",
                                    f"--iodepth={depth}", "--size=24M", "--time_based", "--runtime=3", "--output-format=json"], text=True)
    read = json.loads(said[said.index("{"):])["jobs"][0]["write" if "write" in kind else "read"]
    return read["iops"], read["bw_bytes"] / 1e6, read["clat_ns"]["percentile"]["50.000000"] / 1e3
shown = lambda figures: f"{figures[0]:.0f} a second, {figures[1]:.0f} MB/s, p50 {figures[2]:.0f} µs"
print("| reads | coldread | qemu-nbd, raw file | ratio |\n|---|---|---|---|")
for kind, block, depth in [("randread", "4k", 1), ("randread", "4k", 16), ("read", "256k", 4)]:
    runs = {"ours": [], "theirs": []}
    for server in ["ours", "theirs"] * 4:
        runs[server].append(fio(server, kind, block, depth))
    ours, theirs = (tuple(statistics.median(values) for values in zip(*runs[server][1:])) for server in ["ours", "theirs"])
    print(f"| {kind} {block}, {depth} at a time | {shown(ours)} | {shown(theirs)} | {ours[0] / theirs[0]:.2f} |", flush=True)
servers = ["memory", "file", "raw"]
print("\n| writes, then reads of what was written | coldread, memory | coldread, file | qemu-nbd, raw file |\n|---|---|---|---|")
for kind, block, depth in [("write", "1M", 4), ("randwrite", "4k", 1), ("randwrite", "4k", 16), ("randread", "4k", 1), ("randread", "4k", 16)]:
    runs = {server: [] for server in servers}
    for server in servers * 3:
        runs[server].append(fio(server, kind, block, depth))
    medians = [tuple(statistics.median(values) for values in zip(*runs[server])) for server in servers]
    print(f"| {kind} {block}, {depth} at a time | " + " | ".join(map(shown, medians)) + " |", flush=True)
PYTHON
