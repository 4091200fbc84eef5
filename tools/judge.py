#!/usr/bin/env python3
"""judge.py: is what the kernel mounts what another tool unpacks?

    judge.py IMG LAYOUT [--judge umoci|tar] [--work DIR]

IMG is a block image (`coldpress export`), LAYOUT the OCI layout it was made from. Needs root, and umoci or GNU tar.
Checks e2fsck -fn (exit 0 and not a word beyond its passes), mounts IMG, unpacks LAYOUT with the judge, and compares every
entry: type, mode, owner, size, content, link target, device, xattrs, mtime to the nanosecond, hard-link groups, holes.

What a judge cannot tell, and who tells it instead:
- umoci 0.4.7 drops empty xattrs, clips times past 2038-01-19, gives implied directories the time of unpacking, and writes
  holes out. Empty xattrs and times are compared with the layers' own tar headers (read by Python's tarfile), holes with
  what GNU tar makes of the layer that has the file.
- GNU tar, too, gives a root without an entry the time of unpacking.
- umoci refuses sparse members of type S: GNU tar judges gnu-sparse (its layers have no whiteouts). Python's tarfile reads
  no mtime for entries it does not know; there are none.
"""
import argparse, hashlib, json, os, shutil, stat, subprocess, sys, tarfile, tempfile

CLIP = 2**31 - 1


def run(*cmd, **kw):
    return subprocess.run(cmd, check=True, **kw)


def holes(path, size):
    """The file's data stretches, as SEEK_DATA and SEEK_HOLE tell them."""
    out, at = [], 0
    with open(path, "rb") as f:
        while at < size:
            try:
                start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            out.append((start, min(at, size)))
    return out


def walk(top):
    """{relative path: facts}; hard-link groups as the sorted list of their names."""
    top, out, groups = os.fsencode(top), {}, {}
    stack = [b""]
    while stack:
        rel = stack.pop()
        path = os.path.join(top, rel) if rel else top
        try:
            st = os.lstat(path)
        except FileNotFoundError:
            continue  # overlayfs lists a whiteout in a directory that no other layer has, but has no such entry
        facts = dict(type=stat.S_IFMT(st.st_mode), mode=stat.S_IMODE(st.st_mode), uid=st.st_uid, gid=st.st_gid, mtime=st.st_mtime_ns)
        facts["xattrs"] = {x: os.getxattr(path, x, follow_symlinks=False) for x in os.listxattr(path, follow_symlinks=False)}
        if stat.S_ISREG(st.st_mode):
            with open(path, "rb") as f:
                facts["content"] = hashlib.file_digest(f, "sha256").hexdigest()
            facts["size"] = st.st_size
            facts["holes"] = holes(path, st.st_size)
        elif stat.S_ISLNK(st.st_mode):
            facts["target"] = os.readlink(path)
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            facts["device"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
        elif stat.S_ISDIR(st.st_mode):
            stack.extend(os.path.join(rel, n) if rel else n for n in os.listdir(path))
        if not stat.S_ISDIR(st.st_mode):
            groups.setdefault(st.st_ino, []).append(rel)
        out[rel] = facts
    for names in groups.values():
        for name in names:
            out[name]["links"] = sorted(names)
    return out


def layers(layout):
    blob = lambda d: os.path.join(layout, "blobs/sha256", d.split(":")[1])
    manifest = json.load(open(blob(json.load(open(layout + "/index.json"))["manifests"][0]["digest"])))
    return [blob(l["digest"]) for l in manifest["layers"]]


def clean(name):
    parts = [p for p in os.fsencode(name).split(b"/") if p not in (b"", b".")]
    return b"/".join(parts)


def headers(layout):
    """{path: (mtime in ns, {xattr: value})} of the topmost entry of each path, from the tar headers themselves."""
    out = {}
    for path in layers(layout):
        with tarfile.open(path, "r:gz", encoding="utf-8", errors="surrogateescape") as t:
            for m in t:
                text = m.pax_headers.get("mtime")
                if text:
                    sign = -1 if text.startswith("-") else 1
                    whole, _, fraction = text.lstrip("-").partition(".")
                    mtime = sign * (int(whole) * 10**9 + int((fraction + "0" * 9)[:9]))
                else:
                    mtime = int(m.mtime) * 10**9
                xattrs = {k[len("SCHILY.xattr."):]: os.fsencode(v) for k, v in m.pax_headers.items() if k.startswith("SCHILY.xattr.")}
                if not m.islnk():
                    out[clean(m.name)] = (mtime, xattrs)
    return out


def unpack_umoci(layout, work):
    run("umoci", "unpack", "--image", layout + ":latest", work + "/bundle", stdout=subprocess.DEVNULL)
    return work + "/bundle/rootfs"


def unpack_tar(layout, work, only=None):
    root = work + "/root"
    os.makedirs(root)
    for blob in only or layers(layout):
        run("tar", "-xzpf", blob, "-C", root, "--numeric-owner", "--xattrs", "--xattrs-include=*")
    return root


def gnu_holes(layout, wanted, work):
    """Holes of the wanted paths as GNU tar makes them, each layer unpacked alone."""
    out = {}
    for i, blob in enumerate(layers(layout)):
        d = f"{work}/layer{i}"
        os.makedirs(d)
        names = subprocess.run(["tar", "-tzf", blob, "--quoting-style=literal"], check=True, capture_output=True).stdout.split(b"\n")
        mine = [n for n in names if clean(os.fsdecode(n)) in wanted]
        if mine:
            with open(d + ".list", "wb") as f:
                f.write(b"\0".join(mine) + b"\0")
            run("tar", "-xzpf", blob, "-C", d, "--null", "--no-unquote", "-T", d + ".list")
            for n in mine:
                rel = clean(os.fsdecode(n))
                p = os.path.join(os.fsencode(d), rel)
                if os.path.isfile(p) and not os.path.islink(p):
                    out[rel] = holes(p, os.lstat(p).st_size)
        shutil.rmtree(d)
    return out


def compare(ours, theirs, judge, layout, work):
    bad, told = [], {"implied": 0, "clipped": 0, "empty xattr": 0, "holes": 0}
    for rel in sorted(set(ours) ^ set(theirs)):
        bad.append((rel, "only in the image" if rel in ours else "only in what the judge unpacked", "", ""))
    both = sorted(set(ours) & set(theirs))
    named = headers(layout)
    sparse = {r for r in both if ours[r].get("holes") != theirs[r].get("holes")} if judge == "umoci" else set()
    by_tar = gnu_holes(layout, sparse, work) if sparse else {}
    for rel in both:
        a, b = ours[rel], theirs[rel]
        for key in sorted(set(a) | set(b)):
            x, y = a.get(key), b.get(key)
            if x == y:
                continue
            if key == "mtime" and rel not in named:
                told["implied"] += 1
                y = 0
            elif judge == "umoci" and key == "mtime":
                if y == CLIP * 10**9 or named[rel][0] // 10**9 > CLIP:
                    told["clipped"] += 1
                    y = named[rel][0]
            elif judge == "umoci" and key == "xattrs":
                empty = {k: v for k, v in x.items() if v == b"" and named.get(rel, (0, {}))[1].get(k) == b""}
                told["empty xattr"] += len(empty)
                y = {**y, **empty}
            elif judge == "umoci" and key == "holes":
                told["holes"] += 1
                y = by_tar.get(rel)
            if x != y:
                bad.append((rel, key, x, y))
    return bad, told, len(both)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("img"), ap.add_argument("layout")
    ap.add_argument("--judge", choices=["umoci", "tar"], default="umoci")
    ap.add_argument("--work")
    a = ap.parse_args()
    work = tempfile.mkdtemp(prefix="judge-", dir=a.work)
    mnt = work + "/mnt"
    os.makedirs(mnt)
    try:
        fsck = subprocess.run(["e2fsck", "-fn", a.img], capture_output=True, text=True)
        said = [l for l in fsck.stdout.splitlines() if l and not l.startswith("Pass ") and "non-contiguous" not in l]
        if fsck.returncode or said:
            sys.exit(f"judge: {a.img}: e2fsck exits {fsck.returncode} and says: {said[:5]}")
        theirs = walk((unpack_umoci if a.judge == "umoci" else unpack_tar)(a.layout, work))
        run("mount", "-t", "ext4", "-o", "loop,ro", a.img, mnt)
        try:
            ours = walk(mnt)
        finally:
            run("umount", mnt)
        bad, told, count = compare(ours, theirs, a.judge, a.layout, work)
        for rel, key, x, y in bad[:20]:
            print(f"  {rel!r}: {key}: image {str(x)[:200]}, {a.judge} {str(y)[:200]}")
        asides = ", ".join(f"{n} {what}" for what, n in told.items() if n)
        print(f"{os.path.basename(a.layout)}: {count} entries against {a.judge}" + (f" ({asides} told by the tar headers and GNU tar)" if asides else "")
              + (f": {len(bad)} DIFFER" if bad else ": equal"))
        sys.exit(3 if bad else 0)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
