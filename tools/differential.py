#!/usr/bin/env python3
"""differential.py: is what coldpress makes of random layers what containerd unpacks of them?

    differential.py [--cases N] [--seed S] [--only random|table] [--keep DIR]

Needs root, containerd with ctr, umoci and bsdtar; COLDPRESS names the program (default target/release/coldpress).
Starts a containerd of its own, with everything of it in a temporary directory. A case is an entry of a layer in a dialect, with
fields, PAX records, links, whiteouts and attributes drawn by the seed (layer_gen.py); one image in four has one thing wrong, and then
both must refuse it or agree. Compared are path, type, mode, owner, size, content, target, device, attributes, hard links and time.
Then every row of the table in docs/design.md ("Flattening") that says how containerd differs is shown to differ so.

What is left out of the comparison, each named in that table: `trusted.*` attributes, which containerd does not set; the time of
directories that no entry describes, which it gives the time of unpacking; times before 1970 and after 2262, of which it makes 0;
the root's own metadata, which it ignores.
"""
import argparse, concurrent.futures, hashlib, json, os, random, shutil, subprocess, sys, tempfile, time, traceback

from judge import walk
from layer_gen import legal, odd, packed
import flattening_rows

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAST_SECOND = (2**63 - 1) // 10**9


class Refused(Exception):
    """A program did not take an image; what it said."""


def run(*command, **options):
    return subprocess.run([os.fspath(part) for part in command], capture_output=True, **options)


def unmount(where):
    """Others may look at new mounts for a moment."""
    for _ in range(50):
        if run("umount", where).returncode == 0:
            return
        time.sleep(0.1)
    run("umount", "--lazy", where, check=True)


class Containerd:
    """A containerd with its data in `work`, until it is stopped."""

    def __init__(self, work):
        self.work = work
        self.fast = work + "/metadata"
        os.makedirs(self.fast)
        # Its database writes to disk after every step; that is not what is looked at here.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "coldpress-test", self.fast], check=True)
        disabled = ["grpc.v1.cri", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs", "snapshotter.v1.devmapper", "internal.v1.opt"]
        with open(work + "/containerd.toml", "w") as out:
            out.write(f"version = 2\nroot = {json.dumps(self.fast + '/root')}\nstate = {json.dumps(work + '/state')}\n")
            out.write("disabled_plugins = %s\n" % json.dumps(["io.containerd." + name for name in disabled]))
            out.write(f"[grpc]\naddress = {json.dumps(work + '/sock')}\n[ttrpc]\naddress = {json.dumps(work + '/ttrpc')}\n")
            out.write('[plugins."io.containerd.snapshotter.v1.overlayfs"]\nroot_path = %s\n' % json.dumps(work + "/snapshots"))
        self.log = open(work + "/containerd.log", "w")
        self.process = subprocess.Popen(["containerd", "-c", work + "/containerd.toml"], stdout=self.log, stderr=self.log)
        for _ in range(300):
            if self.ctr("version").returncode == 0:
                return
            time.sleep(0.05)
        sys.exit("differential: containerd does not start: " + open(work + "/containerd.log").read()[-2000:])

    def ctr(self, *arguments):
        return run("ctr", "--address", self.work + "/sock", *arguments)

    def mount(self, layout, name, where):
        """Unpacks an OCI layout and mounts what it is."""
        run("tar", "-cf", layout + ".tar", "-C", layout, ".", check=True)
        done = self.ctr("images", "import", "--base-name", "test/" + name, layout + ".tar")
        os.unlink(layout + ".tar")
        if done.returncode:
            raise Refused(done.stderr.decode(errors="replace").strip()[-400:])
        os.makedirs(where)
        done = self.ctr("images", "mount", f"test/{name}:latest", where)
        if done.returncode:
            raise RuntimeError("ctr images mount: " + done.stderr.decode())

    def stop(self):
        self.process.terminate()
        self.process.wait()
        subprocess.run(["umount", "-l", self.fast])


class Bench:
    """The programs, and a directory."""

    def __init__(self, work, coldpress):
        self.work, self.coldpress = work, coldpress
        run(coldpress, "keygen", "-o", work + "/key", "-q", check=True)
        self.containerd = Containerd(work)

    def layout(self, directory, blobs):
        """Writes an OCI layout of (tar, blob, ending of the media type)."""
        os.makedirs(directory + "/blobs/sha256")

        def put(data):
            digest = hashlib.sha256(data).hexdigest()
            with open(f"{directory}/blobs/sha256/{digest}", "wb") as out:
                out.write(data)
            return {"digest": "sha256:" + digest, "size": len(data)}

        diff_ids = ["sha256:" + hashlib.sha256(tar).hexdigest() for tar, _, _ in blobs]
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(config).encode())}}
        manifest["layers"] = [{"mediaType": LAYER + ending, **put(blob)} for _, blob, ending in blobs]
        entry = {"mediaType": MANIFEST, **put(json.dumps(manifest).encode()), "annotations": {"org.opencontainers.image.ref.name": "latest"}}
        with open(directory + "/index.json", "w") as out:
            json.dump({"schemaVersion": 2, "manifests": [entry]}, out)
        with open(directory + "/oci-layout", "w") as out:
            out.write('{"imageLayoutVersion":"1.0.0"}')

    def ours(self, layout, at):
        common = ["--store", at + "/store", "--key", "file:" + self.work + "/key", "-q"]
        done = run(self.coldpress, "convert", "oci:" + layout, "--no-cache", "-o", at + "/cpm", *common)
        if done.returncode:
            raise Refused(done.stderr.decode(errors="replace").strip())
        done = run(self.coldpress, "export", at + "/cpm", "-o", at + "/img", *common)
        if done.returncode:
            raise RuntimeError("coldpress export: " + done.stderr.decode())
        fsck = run("e2fsck", "-fn", at + "/img")
        if fsck.returncode:
            raise RuntimeError("e2fsck: " + fsck.stdout.decode())
        os.makedirs(at + "/ours")
        run("mount", "-t", "ext4", "-o", "loop,ro", at + "/img", at + "/ours", check=True)
        try:
            return walk(at + "/ours")
        finally:
            unmount(at + "/ours")

    def theirs(self, layout, at, name):
        where = at + "/theirs"
        self.containerd.mount(layout, name, where)
        try:
            return walk(where)
        finally:
            unmount(where)

    def umoci(self, layout, at):
        done = run("umoci", "unpack", "--image", layout + ":latest", at + "/bundle")
        if done.returncode:
            raise Refused(done.stderr.decode(errors="replace").strip()[-400:])
        return walk(at + "/bundle/rootfs")

    def bsdtar(self, layers, at):
        """A layer or more as bsdtar unpacks them onto one another; it knows no whiteouts."""
        root = at + "/bsdtar"
        os.makedirs(root)
        for layer in layers:
            done = run("bsdtar", "-xpf", "-", "--numeric-owner", "-C", root, input=layer)
            if done.returncode:
                raise Refused(done.stderr.decode(errors="replace").strip()[-400:])
        return walk(root)


def differences(ours, theirs, started):
    """What differs between two walks, but for what the head of this file names."""
    out = []
    for path in sorted(set(ours) ^ set(theirs)):
        out.append((path, "only in ours" if path in ours else "only in theirs", None, None))
    for path in sorted(set(ours) & set(theirs) - {b""}):
        a, b = dict(ours[path]), dict(theirs[path])
        a["xattrs"] = {name: value for name, value in a["xattrs"].items() if not name.startswith("trusted.")}
        b["xattrs"] = {name: value for name, value in b["xattrs"].items() if not name.startswith("trusted.")}
        if not 0 <= a["mtime"] // 10**9 <= LAST_SECOND:
            a["mtime"] = 0
        if b["mtime"] >= started and b["type"] == 0o040000:
            a["mtime"] = b["mtime"] = None
        for facts in (a, b):
            facts.pop("holes", None)
        out += [(path, key, a.get(key), b.get(key)) for key in sorted(set(a) | set(b)) if a.get(key) != b.get(key)]
    return out


def attempt(look):
    """What `look` sees, or the refusal."""
    try:
        return look(), None
    except Refused as refusal:
        return None, str(refusal)


def judge_random(bench, seed, keep):
    """One image of the seed; how many cases it had, of what kind, and what is wrong."""
    rng = random.Random(seed)
    is_odd = rng.random() < 0.25
    layers, count = (odd(rng), 1) if is_odd else legal(rng, rng.randrange(40, 100))
    at = tempfile.mkdtemp(prefix="image-", dir=bench.work)
    try:
        layout = at + "/layout"
        bench.layout(layout, [(layer, *packed(rng, layer)) for layer in layers])
        started = time.time_ns() - 10**9
        ours, our_refusal = attempt(lambda: bench.ours(layout, at))
        theirs, their_refusal = attempt(lambda: bench.theirs(layout, at, "random-" + str(seed)))
        wrong = []
        if ours is not None and theirs is not None:
            wrong = differences(ours, theirs, started)
        elif (ours is None) != (theirs is None):
            wrong = [] if is_odd and flattening_rows.is_named(our_refusal, their_refusal) else [(b"", "refused by one", our_refusal, their_refusal)]
        elif not is_odd:
            wrong = [(b"", "refused by both", our_refusal, their_refusal)]
        if wrong and keep:
            os.makedirs(keep, exist_ok=True)
            for i, layer in enumerate(layers):
                with open(f"{keep}/{seed}-layer-{i}.tar", "wb") as out:
                    out.write(layer)
        return count, ("both refuse" if ours is None and theirs is None else "named" if ours is None or theirs is None else "equal"), wrong
    finally:
        shutil.rmtree(at, ignore_errors=True)


def judge_row(bench, row):
    """What is wrong with a row of the table; None where it is as it says."""
    at = tempfile.mkdtemp(prefix="row-", dir=bench.work)
    try:
        layout = at + "/layout"
        bench.layout(layout, [(layer, layer, "") for layer in row.layers])
        started = time.time_ns() - 10**9
        ours, our_refusal = attempt(lambda: bench.ours(layout, at))
        theirs, their_refusal = attempt(lambda: bench.theirs(layout, at, "row-%d" % flattening_rows.ROWS.index(row)))
        return row.wrong(bench, at, layout, (ours, our_refusal), (theirs, their_refusal), lambda a, b: differences(a, b, started))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(at, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["random", "table"])
    parser.add_argument("--keep", help="where layers are kept that differ")
    options = parser.parse_args()
    coldpress = os.path.abspath(os.environ.get("COLDPRESS", "target/release/coldpress"))
    for tool in ["containerd", "ctr", "umoci", "bsdtar", "e2fsck"]:
        if shutil.which(tool) is None:
            sys.exit(f"differential: {tool} is missing (Debian: containerd, umoci, libarchive-tools, e2fsprogs)")
    work = tempfile.mkdtemp(prefix="differential-")
    bench, failed = None, 0
    try:
        bench = Bench(work, coldpress)
        if options.only != "random":
            failed += table(bench)
        if options.only != "table":
            failed += randomly(bench, options)
    finally:
        if bench:
            bench.containerd.stop()
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


def table(bench):
    failed = 0
    for row in flattening_rows.ROWS:
        wrong = judge_row(bench, row)
        if wrong:
            failed += 1
            print(f"row `{row.name}`: {wrong}")
    print(f"{len(flattening_rows.ROWS)} rows against containerd, umoci and bsdtar: " + (f"{failed} ARE NOT AS THE TABLE SAYS" if failed else "as the table says"))
    return failed


def randomly(bench, options):
    cases, images, seed, failed, kinds = 0, 0, options.seed * 1_000_000, 0, {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = set()
        while cases < options.cases or running:
            while cases < options.cases and len(running) < 2:
                running.add(pool.submit(judge_seed, bench, seed, options.keep))
                seed += 1
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                at, (count, kind, wrong) = future.result()
                cases, images, kinds[kind] = cases + count, images + 1, kinds.get(kind, 0) + 1
                failed += bool(wrong)
                for path, key, a, b in wrong[:6]:
                    print(f"seed {at}: {path!r}: {key}: coldpress {str(a)[:300]}, containerd {str(b)[:300]}", flush=True)
    print(f"{cases} cases in {images} images (seed {options.seed}): {', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}" + (f"; {failed} DIFFER" if failed else "; no difference that the table does not name"))
    return failed


def judge_seed(bench, seed, keep):
    try:
        return seed, judge_random(bench, seed, keep)
    except Exception:
        return seed, (1, "failed", [(b"", traceback.format_exc(), None, None)])


if __name__ == "__main__":
    main()
