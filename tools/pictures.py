#!/usr/bin/env python3
"""pictures.py PROGRAMS: draws the pictures of the documents again: docs/how-to/startup.svg and zone-plan.svg by `coldread` in the directory
PROGRAMS, docs/explanation/performance.svg from the table beside it. (zone.svg needs `make bench-zone`.)

The startup is an example, and simulated: an image of three layers made here, and a store that takes 30 ms and once 9 s."""

import hashlib
import io
import json
import pathlib
import random
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = pathlib.Path(sys.argv[1]).resolve()
LAYERS = [
    {"usr/bin/bash": 1_400_000, "usr/lib/libc.so.6": 2_100_000, "usr/lib/libssl.so.3": 4_900_000},
    {"opt/python/bin/python3": 7_200_000, "opt/python/lib/libpython3.so": 9_400_000, "opt/python/lib/numpy.so": 21_000_000},
    {"app/server.py": 80_000, "app/model.bin": 12_000_000},
]


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o755, 1_700_000_000
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def image(path):
    """Writes a docker archive whose bytes are the same each time."""
    noise = random.Random(1)
    layers = [tar({name: noise.randbytes(size) for name, size in files.items()}) for files in LAYERS]
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    names = [f"layer{number}.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["app:latest"], "Layers": names}])
    members = {"manifest.json": manifest.encode(), "config.json": config.encode(), **dict(zip(names, layers))}
    path.write_bytes(tar(members))


def profile(manifest):
    """A startup that reads the metadata, then programs and libraries, then the model, as text (docs/reference/formats/profile.md)."""
    chance, moment, lines = random.Random(2), 0, []
    first = [layer["first_chunk"] for layer in manifest["layers"]]
    wanted = [0, 1, *range(first[0], first[0] + 12), *range(first[1], first[1] + 40), *range(first[2], first[2] + 22)]
    for number, chunk in enumerate(wanted):
        place = chance.choices(["origin", "disk", "memory"], [6, 3, 1])[0]
        took = {"origin": chance.randint(28_000, 45_000), "disk": chance.randint(300, 900), "memory": 0}[place]
        took = 9_000_000 if number == 40 else took
        name = hashlib.sha256(str(chunk).encode()).hexdigest()
        lines.append(f"{moment} {took} {'origin' if number == 40 else place} {chunk} {name}")
        moment += took // 4 if number != 40 else 2_000
    device = manifest["device_bytes"] // 524_288
    return "\n".join([f"coldpress profile 1\nimage {manifest['root_digest']} {device}", *lines, ""])


def run(directory, program, *arguments):
    command = [PROGRAMS / program, *map(str, arguments)]
    return subprocess.run(command, cwd=directory, check=True, stdout=subprocess.PIPE).stdout


how_to = ROOT / "docs/how-to"
with tempfile.TemporaryDirectory() as directory:
    directory = pathlib.Path(directory)
    image(directory / "app.tar")
    run(directory, "coldpress", "keygen", "-o", "key")
    key = ["--key", "file:key"]
    run(directory, "coldpress", "convert", "docker-archive:app.tar", "--store", "store", *key, "-o", "app.cpm", "--no-cache")
    manifest = json.loads(run(directory, "coldpress", "inspect", "app.cpm", *key, "--json"))
    (directory / "app.profile").write_text(profile(manifest))
    run(directory, "coldread", "report", "app.profile", "app.cpm", "--store", "store", *key, "-o", how_to / "startup.svg")
    traces = ["--make", "zipf:20000,0.9,500000", "--make", "cron:4000,3600,24"]
    run(directory, "coldread", "zone", "plan", *traces, "-o", how_to / "zone-plan.svg")
explanation = ROOT / "docs/explanation"
drawn = subprocess.run(
    [sys.executable, ROOT / "tools/bench_picture.py", explanation / "performance.md"], check=True, stdout=subprocess.PIPE
)
(explanation / "performance.svg").write_bytes(drawn.stdout)
pictures = [str(path) for path in sorted((ROOT / "docs").rglob("*.svg"))]
sys.exit(subprocess.run([sys.executable, ROOT / "tools/check_pictures.py", *pictures], check=False).returncode)
