#!/bin/bash
# Warm reads through the doors of coldread, each beside the same door serving the exported raw file (examples/raw_door.rs), in turn; of a
# virtual machine's disk beside one that is bare memory (examples/bare_disk.rs). Then reads that all miss, 16 at a time through FUSE and a loop device, from a store
# that takes 20 ms a chunk.
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
"$programs/coldread" serve app.cpm --store store --memory 256MiB --nbd unix:ours.sock --fuse ours.file \
    --vhost-user-blk ours.disk 2>said & pids+=($!)
"$programs/examples/raw_door" app.img nbd raw.sock >ready.nbd & pids+=($!)
"$programs/examples/raw_door" app.img fuse raw.file >ready.fuse & pids+=($!)
until grep -q "is served as" said && grep -q ready ready.nbd && grep -q ready ready.fuse; do sleep 0.1; done
for file in ours.file raw.file; do
    loop=$(losetup --find --show --read-only --direct-io=on "$file"); loops+=("$loop")
    ln -s "$loop" "${file%.file}.loop"
done
python3 - "$work" "$programs" <<'PYTHON'
import json, statistics, subprocess, sys

work, programs = sys.argv[1:]
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


def disk(server):
    if server == "ours":
        return measure("ours.disk")
    bare = subprocess.Popen([f"{programs}/examples/bare_disk", "app.img", "bare.disk"], stdout=subprocess.PIPE)
    bare.stdout.readline()
    figures = measure("bare.disk")
    bare.kill()
    bare.wait()
    return figures


def measure(socket):
    said = subprocess.check_output([f"{programs}/examples/vhost_latency", socket, str(64 << 20), str(48 << 20), "2"], text=True)
    return [float(figure) for figure in said.split()]


runs = {"ours": [], "bare": []}
for server in ["ours", "bare"] * 6:
    runs[server].append(disk(server))
ours, bare = (tuple(statistics.median(values) for values in zip(*runs[server][1:])) for server in ["ours", "bare"])
print("\n| door | reads | coldread | bare memory behind the same crates | ratio of p50 |\n|---|---|---|---|---|")
shown = lambda f: f"p50 {f[0]:.1f} µs, {f[1]:.0f} a second"
print(f"| vhost-user-blk | randread 4k, 1 at a time | {shown(ours)} | {shown(bare)} | {ours[0] / bare[0]:.2f} |", flush=True)
PYTHON
"$programs/coldpress" convert "oci:$COLDPRESS_CORPUS/py-data:latest" --no-cache --store many -o many.cpm -q >/dev/null
mkdir slow
"$programs/examples/slow_store" many slow 20 >ready.slow & pids+=($!)
until grep -q ready ready.slow; do sleep 0.1; done
"$programs/coldpress" export many.cpm --store many -o many.img -q >/dev/null
python3 - "$work" "$programs" <<'PYTHON'
import mmap, os, random, statistics, subprocess, sys, threading, time

work, programs = sys.argv[1:]
CHUNK, READERS = 512 << 10, 16
with open("many.img", "rb") as image:
    chunks = [n for n in range(os.path.getsize("many.img") // CHUNK) if any(os.pread(image.fileno(), CHUNK, n * CHUNK))]
rates = []
for seed in range(5):
    serve = subprocess.Popen([f"{programs}/coldread", "serve", "many.cpm", "--store", "slow", "--fuse", "many.file"], stderr=subprocess.PIPE)
    serve.stderr.readline()
    loop = subprocess.check_output(["losetup", "--find", "--show", "--read-only", "--direct-io=on", "many.file"], text=True).strip()
    random.Random(seed).shuffle(chunks)
    device = os.open(loop, os.O_RDONLY | os.O_DIRECT)

    def read(mine):
        room = mmap.mmap(-1, 4096)
        for chunk in mine:
            assert os.preadv(device, [room], chunk * CHUNK + 8192) == 4096

    threads = [threading.Thread(target=read, args=(chunks[n::READERS],)) for n in range(READERS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates.append(len(chunks) / (time.perf_counter() - begun))
    os.close(device)
    subprocess.check_call(["losetup", "-d", loop])
    serve.terminate()
    serve.wait()
print(f"\n{READERS} readers of {len(chunks)} chunks through FUSE and loop, 20 ms a chunk: {statistics.median(rates):.0f} reads a second ({min(rates):.0f} to {max(rates):.0f})")
PYTHON
