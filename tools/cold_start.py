#!/usr/bin/env python3
"""What a startup costs: `coldread mount` and one command in the image, beside the same command in a raw image on a loop device.

    cold_start.py PROGRAMS     (root; COLDPRESS_CORPUS; umoci and redis-server; the examples are built)

The store is a server that speaks like S3 on loopback and takes DELAY milliseconds (30) a request (examples/slow_s3.rs). Before each run the
kernel's caches are dropped and the programs of the host are read once, since on a host they are in use. Each column is the median of
ROUNDS (5) runs in milliseconds, and the columns of a row take turns:

    demand        --no-cache --prefetch off: nothing but what is read, so the requests are the chunks that the startup reads
    raw           the exported image, mounted by a loop device
    first         default options, an empty disk cache, nothing learned
    near          the same with --no-cache: only chunks near reads are prefetched
    cached        every chunk is in the disk cache; nothing learned
    second        the second startup on the host
    profile       a recorded startup profile, an empty disk cache
    second host   another host of the zone, with an empty disk cache of its own, after the first one ended
    update        the image is the next version of one that started before on this host (the first columns are those of the new version)
    unpacked      umoci unpacks the local OCI layout first

Behind each time stand the requests to the store in the last run. DELAY, ROUNDS, IMAGES=NAME,… and COLUMNS_WANTED=NAME,… choose less.
"""
import os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

PROGRAMS = Path(sys.argv[1]).resolve()
CORPUS = Path(os.environ["COLDPRESS_CORPUS"])
DELAY, ROUNDS = os.environ.get("DELAY", "30"), int(os.environ.get("ROUNDS", "5"))
PYTHON = lambda modules: ["python3", "-c", f"import {modules}"]
IMAGES = {
    "python-base": (PYTHON("json, ssl, sqlite3"), None),
    "py-web-v1": (PYTHON("flask, sqlalchemy"), None),
    "py-web-v2": (PYTHON("flask, sqlalchemy"), "py-web-v1"),
    "py-data": (PYTHON("numpy, pandas, sklearn"), None),
    "node-app": (["node", "-e", 'const r = require("module").createRequire("/app/"); r("express"); r("typescript")'], None),
}
COLUMNS = ["raw", "demand", "first", "near", "cached", "second", "profile", "second host", "update", "unpacked"]
IN_IMAGE = 'mount -t tmpfs tmpfs "$0/tmp" && exec chroot "$0" "$@"'
HOST_TOOLS = ["losetup", "mount", "umount", "unshare", "chroot", "sh"]


class Bench:
    def __init__(self, work):
        self.work, self.number = work, 0
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("COLDREAD_")}
        self.environment |= {
            "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "COLDPRESS_KEY": f"file:{work}/key", "COLDREAD_RUN_DIR": f"{work}/run",
        }
        for name in ["mnt", "raw", "run"]:
            (work / name).mkdir()
        self.coldpress("keygen", "-q", "-o", "key")

    def run(self, *command):
        subprocess.run([str(word) for word in command], cwd=self.work, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def coldpress(self, *words):
        self.run(PROGRAMS / "coldpress", *words)

    def fresh(self):
        self.number += 1
        return self.work / f"cache-{self.number}"

    def start(self, directory, command):
        self.run("unshare", "--mount", "sh", "-c", IN_IMAGE, directory, *command)

    def mounted(self, command, *options, settle=0):
        """Seconds from the start of coldread to the end of the command."""
        log, begun = self.work / "log", time.monotonic()
        words = [PROGRAMS / "coldread", "mount", "app.cpm", "mnt", "--store", "s3://bucket", "--store-endpoint", self.server, *options]
        with open(log, "w") as file:
            reader = subprocess.Popen([str(word) for word in words], cwd=self.work, env=self.environment, stderr=file)
        while "is mounted at" not in log.read_text():
            assert reader.poll() is None, log.read_text()
            time.sleep(0.001)
        try:
            self.start("mnt", command)
            took = time.monotonic() - begun
            time.sleep(settle)
        finally:
            self.run("umount", "mnt")
            reader.wait()
        return took

    def raw(self, command, image):
        begun = time.monotonic()
        self.run("mount", "-o", "ro,loop", image, "raw")
        try:
            self.start("raw", command)
            return time.monotonic() - begun
        finally:
            self.run("umount", "raw")

    def unpacked(self, command, name):
        begun = time.monotonic()
        self.run("umoci", "--log=error", "raw", "unpack", "--image", f"{CORPUS}/{name}:latest", "whole")
        self.start("whole", command)
        took = time.monotonic() - begun
        shutil.rmtree(self.work / "whole")
        return took


def drop_caches():
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    for path in [PROGRAMS / "coldread", *(shutil.which(tool) for tool in HOST_TOOLS), *Path("/lib/x86_64-linux-gnu").glob("lib*.so*")]:
        Path(path).read_bytes()


class Store:
    """examples/slow_s3 while this is open; then `requests` is how many there were."""

    def __init__(self, bench):
        self.bench = bench

    def __enter__(self):
        command = [str(PROGRAMS / "examples/slow_s3"), "store", DELAY]
        self.process = subprocess.Popen(command, cwd=self.bench.work, stdout=subprocess.PIPE, text=True)
        self.bench.server = self.process.stdout.readline().split()[1]
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.requests = int(self.process.stdout.read().split()[0])
        self.process.wait()


def column(bench, kind, name, command, warm):
    """Seconds and requests of one run."""
    zone, options = None, ["--cache", bench.fresh()]
    if kind == "raw":
        return bench.raw(command, "app.img"), 0
    if kind == "unpacked":
        return bench.unpacked(command, name), 0
    if kind in ("near", "demand"):
        options = ["--no-cache", *(["--prefetch", "off"] if kind == "demand" else [])]
    if kind in ("cached", "second"):
        options = ["--cache", warm["all"], *(["--no-learn"] if kind == "cached" else [])]
    if kind == "update":
        # What the start of the version before has left on the host, copied since a run adds to it.
        shutil.copytree(warm["before"], options[1], symlinks=True)
    if kind == "profile":
        options += ["--profile", "start.profile"]
    try:
        if kind == "second host":
            port = str(7000 + bench.number)
            zone = subprocess.Popen(["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", str(bench.work)],
                                    stdout=subprocess.DEVNULL)
            options += ["--zone", f"redis://127.0.0.1:{port}", "--zone-code", "1+0"]
            with Store(bench):
                bench.mounted(command, "--cache", bench.fresh(), *options[2:], settle=3)
        drop_caches()
        with Store(bench) as store:
            took = bench.mounted(command, *options)
        return took, store.requests
    finally:
        if zone:
            zone.terminate()
            zone.wait()


def row(bench, name, command, before, columns):
    convert = lambda image: bench.coldpress("convert", f"oci:{CORPUS}/{image}:latest", "--store", "store", "-o", "app.cpm", "--no-cache", "-q")
    warm = {"all": bench.fresh(), "before": bench.fresh()}
    if before:
        convert(before)
        with Store(bench):
            bench.mounted(command, "--cache", warm["before"], settle=8)
    convert(name)
    bench.coldpress("export", "app.cpm", "--store", "store", "-o", "app.img", "-q")
    with Store(bench):
        bench.mounted(command, "--cache", warm["all"], "--record", "start.profile", settle=8)
    runs = {kind: [] for kind in columns}
    for _ in range(ROUNDS):
        for kind in columns:
            drop_caches()
            runs[kind].append(column(bench, kind, name, command, warm))
    (bench.work / "app.img").unlink()
    cells = []
    for kind in columns:
        took = 1000 * statistics.median(seconds for seconds, _ in runs[kind])
        cells.append(f"{took:.0f}" + (f" ({runs[kind][-1][1]})" if kind not in ("raw", "unpacked") else ""))
    return cells


def main():
    wanted = os.environ.get("COLUMNS_WANTED", ",".join(COLUMNS)).split(",")
    images = os.environ.get("IMAGES", ",".join(IMAGES)).split(",")
    print(f"Milliseconds, and (requests to the store); {DELAY} ms a request; medians of {ROUNDS}.\n")
    print("| image | " + " | ".join(wanted) + " |\n|---|" + "---|" * len(wanted), flush=True)
    for name in images:
        command, before = IMAGES[name]
        with tempfile.TemporaryDirectory() as work:
            bench = Bench(Path(work))
            columns = [kind for kind in wanted if kind != "update" or before]
            cells = dict(zip(columns, row(bench, name, command, before, columns)))
            print(f"| {name} | " + " | ".join(cells.get(kind, "–") for kind in wanted) + " |", flush=True)


if __name__ == "__main__":
    main()
