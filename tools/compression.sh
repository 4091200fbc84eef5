#!/bin/sh
# compression.sh: stored bytes and time of each codec, every image into an empty store. Needs COLDPRESS_CORPUS.
set -eu
corpus=${COLDPRESS_CORPUS:?set COLDPRESS_CORPUS to the folder of the corpus}
coldpress=${COLDPRESS:-target/release/coldpress}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$coldpress" keygen -o "$work/key" -q
echo '| codec | image | stored MB | of none | padding | convert, CPU s | verify --store, CPU s |'
echo '|---|---|---|---|---|---|---|'
for image in debian-base py-data node-app; do
    for codec in none zstd:1 zstd:3 zstd:6; do
        rm -rf "$work/store"
        python3 - "$coldpress" "$work" "$corpus/$image" "$codec" <<'END'
import json, os, resource, subprocess, sys
coldpress, work, layout, codec = sys.argv[1:]
def cpu(*args):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([coldpress, *args, "--key", f"file:{work}/key", "--quiet", "--json"], check=True, capture_output=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(out), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
j, convert = cpu("convert", "oci:" + layout, "--store", work + "/store", "-o", work + "/a.cpm", "--compression", codec, "--no-cache")
_, verify = cpu("verify", work + "/a.cpm", "--store", work + "/store")
name = os.path.basename(layout)
note = f"{work}/{name}.none"
if codec == "none":
    open(note, "w").write(str(j["stored_bytes"]))
none = int(open(note).read())
# A frame ends anywhere in its last 4 KiB: half of that a chunk, on average.
padding = 0 if codec == "none" else j["unique_chunks"] * 2048 / j["stored_bytes"]
print(f"| {codec} | {name} | {j['stored_bytes'] / 1e6:.1f} | {j['stored_bytes'] / none:.2f} | {100 * padding:.1f} % | {convert:.1f} | {verify:.1f} |")
END
    done
done
