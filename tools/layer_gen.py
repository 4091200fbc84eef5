"""Random layers for differential.py: `legal` ones that every engine takes, and `odd` ones with one thing wrong.

What docs/design.md ("Flattening") names as a difference to containerd is not generated here; the rows of differential.py show it.
"""
import gzip

from layer_tar import *

N = NO_ID
CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
SYLLABLES = [b"a", b"b", b"c", b"lib", b"bin", b"x y", b"\xc3\xa9", b"\xff\xfe", b"new\nline", b"-", b"..d", b".h", b"n" * 90, b"m" * 200]


class Path:
    """What a layer has, and what it has below."""

    def __init__(self, kind, closed=False):
        self.kind, self.closed = kind, closed


class Layer:
    def __init__(self, rng, lower, was):
        """`lower` is what is seen of the layers below, `was` every path where one of them has no directory."""
        self.rng, self.lower, self.was, self.own, self.out, self.whiteouts, self.implied = rng, lower, was, {}, [], set(), set()

    # Names.

    def directories(self):
        """Directories that the layer may put something into."""
        own = [p for p, e in self.own.items() if e.kind == "d" and not e.closed]
        lower = [p for p, e in self.lower.items() if e.kind == "d" and not e.closed and self.is_seen(p)]
        return own + lower + [b""] * 3

    def is_seen(self, path):
        """Whether a lower entry is still there and can be walked to: neither hidden nor covered by this layer."""
        parts = path.split(b"/")
        for i in range(1, len(parts) + 1):
            above = b"/".join(parts[:i])
            if above in self.whiteouts or above in self.own and self.own[above].kind != "d":
                return False
            if i < len(parts) and above in self.own and getattr(self.own[above], "opaque", False) and path not in self.own:
                return False
            if i < len(parts) and above not in self.own and (above not in self.lower or self.lower[above].kind != "d"):
                return False
        return True

    def new_name(self):
        rng = self.rng
        for _ in range(50):
            parent = rng.choice(self.directories())
            name = rng.choice(SYLLABLES) + b"%d" % rng.randrange(40)
            if rng.random() < 0.1 and len(parent) < 600:
                parent = (parent + b"/" if parent else b"") + b"im%d" % rng.randrange(9)
                if parent in self.own and (self.own[parent].kind != "d" or self.own[parent].closed) or parent in self.whiteouts:
                    continue
                below = self.lower.get(parent)
                if parent not in self.own and below is not None and (below.kind != "d" or below.closed):
                    continue
            path = (parent + b"/" if parent else b"") + name
            if path not in self.own and path not in self.whiteouts and len(path) < 1200 and self.can_imply(path):
                return path
        raise RuntimeError("no name is free")

    def can_imply(self, path):
        """Whether containerd makes directories above `path` as coldpress does: not where a lower layer had something else."""
        above = [path[:i] for i, byte in enumerate(path) if byte == ord("/")]
        return not above or above[-1] in self.own or not self.was.intersection(above)

    def imply_parents(self, path):
        parts = path.split(b"/")[:-1]
        for i in range(1, len(parts) + 1):
            above = b"/".join(parts[:i])
            if above not in self.own:
                self.own[above] = Path("d")
                self.implied.add(above)

    # Fields.

    def decorated(self, path):
        rng = self.rng
        choice = rng.random()
        if choice < 0.6:
            return path
        return rng.choice([b"./" + path, b"/" + path, b"../" + path, b"zz/../" + path, path.replace(b"/", b"//"), path.replace(b"/", b"/./")])

    def numeric(self, value, width):
        rng = self.rng
        octal = b"%o" % value if value >= 0 else b""
        choices = [base256(value, width)] if value < 0 or len(octal) >= width or rng.random() < 0.2 else []
        if value >= 0 and len(octal) < width:
            choices += [number(value, width), octal, octal.rjust(width - 1) + b"\0", octal + b" ", (b" " + octal)[: width - 1] if len(octal) < width - 1 else octal]
        if value >= 0 and len(octal) == width:
            choices.append(octal)
        return rng.choice(choices)

    def owner(self):
        rng = self.rng
        return rng.choice([0, 0, rng.randrange(70000), rng.randrange(1 << 21, 1 << 31), rng.randrange(1 << 31, N), N - 1, -2, -1, N])

    def metadata(self, kind, records):
        """Header fields; what they cannot say goes to `records`."""
        rng = self.rng
        fields = {"mode": self.numeric(rng.randrange(0o10000) | rng.choice([0, 0, 0o100000]), 8)}
        if kind == "d":
            # Children of a directory with the setgid bit would take its group; those are directories without children.
            fields["mode"] = self.numeric(rng.randrange(0o10000) & ~0o2000, 8)
        for key in ("uid", "gid"):
            value = self.owner()
            if rng.random() < 0.3:
                records.append((key.encode(), rng.choice([b"%d", b"%d", b"%05d"]) % value))
                value = rng.randrange(100)
            fields[key] = self.numeric(value, 8)
        seconds = rng.choice([0, 1, rng.randrange(1 << 31), rng.randrange(1 << 33), -rng.randrange(1 << 31), rng.randrange(1 << 31, 9_000_000_000)])
        if rng.random() < 0.4:
            records.append((b"mtime", b"%d" % seconds + rng.choice([b"", b".5", b".000000001", b".1234567899", b"."])))
            seconds = rng.randrange(1000)
        fields["mtime"] = self.numeric(seconds, 12)
        return fields

    def attributes(self, kind, mode_only=False):
        rng, out = self.rng, []
        if rng.random() < 0.6:
            return out
        for _ in range(rng.randrange(1, 4)):
            name = rng.choice([b"user.a", b"user.b", b"user.\xc3\xa9 x", b"security.foo", b"trusted.foo", b"com.apple.q", b"system.nfs4", b"random", b"user.c=d"[:6]])
            out.append(xattr(name, rng.choice([b"", b"v", b"\0\n=\xff", bytes(rng.randrange(256) for _ in range(rng.randrange(300)))])))
        if rng.random() < 0.3:
            perm = lambda: rng.randrange(8)
            entries = [(1, perm(), N)] + [(2, perm(), i) for i in range(rng.randrange(3))] + [(4, perm(), N)] + [(8, perm(), 7 + i) for i in range(rng.randrange(2))]
            if len(entries) > 2 or rng.random() < 0.5:
                entries.append((16, perm(), N))
            out.append(xattr(b"system.posix_acl_access", rng.choice([acl(*entries, (32, perm(), N)), acl(*entries, (32, perm(), 5)), acl(), b"", b"\1\0\0\0rest"])))
        if kind == "f" and rng.random() < 0.2:
            out.append(xattr(b"security.capability", CAPABILITY))
        return out

    # Entries.

    def emit(self, path, flag, data=b"", link=b"", records=None, kind="f", **fields):
        """Writes an entry in a dialect drawn at random that can say all of it."""
        rng = self.rng
        records = list(records or [])
        fields = {**self.metadata(kind, records), **fields}
        records += self.attributes(kind)
        before, name = [], self.decorated(path)
        if flag == b"5" and rng.random() < 0.7:
            name += b"/"
        dialect = rng.choice(["ustar", "ustar", "pax_odd", "gnu", "gnu", "gnu_times", "v7", "star", "go17"])
        if flag in b"34" and dialect == "v7":
            dialect = "ustar"
        magic = {"gnu": GNU, "gnu_times": GNU, "go17": GNU, "v7": V7, "pax_odd": b"ustar\0" + rng.choice([b"  ", b"\0\0", b"11"])}.get(dialect, USTAR)
        over = []
        if dialect == "gnu_times":
            over = [(345, b"%011o\0" % rng.randrange(1 << 33)), (357, base256(rng.randrange(1 << 40), 12))]
        if dialect == "star":
            over = [(476, b"%011o\0" % 5), (488, b"%011o\0" % 6), (508, b"tar\0")]
        if flag == b"0" and rng.random() < 0.2:
            flag = b"\0"
            name = name.rstrip(b"/")
        if flag == b"5" and name.endswith(b"/") and rng.random() < 0.1:
            flag = b"\0"
        limit = {"ustar": 155, "pax_odd": 155, "star": 131, "go17": 155}.get(dialect, 0)
        how = rng.random()
        short, prefix = name, b""
        cut = name.rfind(b"/", 0, limit + 1) if limit else -1
        ascii_prefix = all(byte < 128 for byte in name[: max(cut, 0)])
        # Go looks at the first byte of each time field, and for a number in it.
        go17 = dialect != "go17" or cut > 0 and name[:1] not in b"01234567 \0" and b"\0" not in name[:cut] and (ascii_prefix and name[0] < 0x80)
        if cut > 0 and len(name) - cut - 1 <= 100 and len(name) > cut + 1 and go17 and (len(name) > 100 or how < 0.5):
            short, prefix = name[cut + 1 :], name[:cut]
        elif dialect == "go17":
            magic = GNU
        if len(short) > 100 or not prefix and how > 0.9:
            short = b"other" if rng.random() < 0.5 else name[:100]
            prefix = b""
            if flag == b"\0":
                flag = b"5" if kind == "d" else b"0"
            if rng.random() < 0.5:
                before.append(gnu_long(name, b"L"))
                if rng.random() < 0.3:
                    records.append((b"path", b"not/this"))
            else:
                records.append((b"path", name))
        target = link
        if len(link) > 100 or link and rng.random() < 0.1:
            target = link[:100]
            if rng.random() < 0.5:
                before.append(gnu_long(link, b"K"))
            else:
                records.append((b"linkpath", link))
        size = len(data)
        if flag == b"0" and rng.random() < 0.1:
            records.append((b"size", b"%d" % size))
            size = rng.randrange(10000)
        if flag in b"123456" and rng.random() < 0.1:
            size = rng.randrange(10000)
        if records:
            if rng.random() < 0.2:
                records += [(b"comment", b"\0any \xff"), (b"atime", b"1.5"), (b"VENDOR.key", b"")]
            if len({key for key, _ in records}) == len(records):
                rng.shuffle(records)
            before.insert(rng.randrange(len(before) + 1), pax(records))
            if rng.random() < 0.1:
                before.insert(0, pax([(b"path", b"replaced/by/the/next"), (b"SCHILY.xattr.user.gone", b"1")]))
        block = header(short, flag, size=self.numeric(size, 12), magic=magic, prefix=prefix, link=target, fields=over, **fields)
        if rng.random() < 0.05:
            block = signed_sum(block)
        self.out.append(b"".join(before) + block + padded(data))

    def sparse(self, path):
        rng = self.rng
        pieces, at, data = [], 0, b""
        for _ in range(rng.randrange(4)):
            at += rng.randrange(9000)
            length = rng.randrange(1, 600)
            pieces.append((at, length))
            data += bytes(rng.randrange(1, 256) for _ in range(8)).ljust(length, b"s")[:length]
            at += length
        size = at + rng.randrange(5000)
        flat = b",".join(b"%d,%d" % piece for piece in pieces)
        form = rng.choice(["0.0", "0.1", "1.0"])
        blocks = (b"GNU.sparse.numblocks", b"%d" % len(pieces))
        name = [(b"GNU.sparse.name", path)]
        if form == "1.0":
            head = padded(b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % piece for piece in pieces))
            records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % size)] + name
            return head + data, records
        records = [(b"GNU.sparse.size", b"%d" % size), blocks]
        if form == "0.0":
            for offset, length in pieces:
                records += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
            if not pieces:
                records += [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"0")]
            return data, records + (name if rng.random() < 0.5 else [])
        records += [(b"GNU.sparse.map", flat)] + name
        if not pieces or rng.random() < 0.5:
            records += [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1")]
        return data, records

    def add(self):
        rng = self.rng
        what = rng.choices(
            ["file", "dir", "symlink", "hard", "node", "sparse", "again", "over", "whiteout", "opaque", "global", "leaf"],
            [30, 14, 10, 14, 6, 6, 8, 6, 6, 2, 2, 4],
        )[0]
        if what == "global":
            self.out.append(pax([(b"comment", b"any"), (b"path", b"pax_global_header"), (b"SCHILY.xattr.user.g", b"1")], b"g"))
            return 1
        if what == "whiteout":
            names = [p for p in self.lower if p not in self.own and self.is_seen(p) and self.can_imply(p) and not any(i.startswith(p + b"/") for i in self.own)]
            if not names:
                return 0
            path = rng.choice(names)
            self.imply_parents(path)
            self.whiteouts.add(path)
            self.out.append(whiteout(path))
            return 1
        if what == "opaque":
            # containerd copies what the whiteout hides to directories that are only implied below it.
            covers = lambda path: any(i.startswith(path + b"/") and i in self.lower for i in self.implied)
            names = [p for p, e in self.lower.items() if e.kind == "d" and not e.closed and self.is_seen(p) and self.can_imply(p + b"/x") and not covers(p)]
            if not names:
                return 0
            path = rng.choice(names)
            self.imply_parents(path + b"/x")
            self.own[path].opaque = True
            self.out.append(opaque(path))
            return 1
        if what == "hard":
            targets = [p for p, e in self.own.items() if e.kind not in "d"]
            if not targets:
                return 0
            path, target = self.new_name(), rng.choice(targets)
            self.imply_parents(path)
            self.own[path] = Path(self.own[target].kind)
            self.emit(path, b"1", link=self.decorated(target), kind=self.own[path].kind)
            return 1
        if what == "again":
            names = [p for p, e in self.own.items() if p not in self.implied and not e.closed]
            if not names:
                return 0
            path = rng.choice(names)
            kind = self.own[path].kind
        elif what == "over":
            names = [p for p, e in self.lower.items() if p not in self.own and self.is_seen(p) and not e.closed and self.can_imply(p)]
            if not names:
                return 0
            path, kind = rng.choice(names), "f"
            self.imply_parents(path)
        else:
            path, kind = self.new_name(), "f"
            self.imply_parents(path)
        if what == "dir" or kind == "d":
            self.own[path] = Path("d") if path not in self.own else self.own[path]
            self.emit(path, b"5", kind="d")
        elif what == "leaf":
            self.own[path] = Path("d", closed=True)
            records = [xattr(b"system.posix_acl_default", acl((1, 7, N), (2, 5, 3), (4, 5, N), (16, 7, N), (32, 0, N)))] if rng.random() < 0.5 else []
            self.emit(path, b"5", kind="d", records=records, mode=b"%07o\0" % (0o2000 | rng.randrange(0o2000)))
        elif what == "symlink" or kind == "l":
            self.own[path] = Path("l")
            self.emit(path, b"2", link=rng.choice([b"a", b"../b", b"/abs/\xff", b"t" * 99, b"t" * 300, b"x y\n"]), kind="l")
        elif what == "node":
            flag = rng.choice([b"3", b"4", b"6"])
            self.own[path] = Path("n")
            self.emit(path, flag, kind="n", device=(rng.choice([1, 8, 4095]), rng.choice([0, 3, 255, 256, 1048575])))
        elif what == "sparse":
            data, records = self.sparse(path)
            self.own[path] = Path("f")
            self.emit_sparse(path, data, records)
        else:
            self.own[path] = Path("f")
            self.emit(path, b"0", bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 511, 512, 513, 3000]))), kind="f")
        return 1

    def emit_sparse(self, path, data, records):
        fields = self.metadata("f", records)
        attributes = self.attributes("f")
        named = any(key == b"GNU.sparse.name" for key, _ in records)
        if not named:
            records.append((b"path", path))
        self.out.append(pax(records + attributes) + header(b"GNUSparseFile.0/file", b"0", size=len(data), **fields) + padded(data))

    def tar(self):
        data, rng = b"".join(self.out), self.rng
        end = rng.choice([END, END, END, b"", b"\0" * 512, END + b"behind the end" * 50, b"\0" * 9728])
        return data + end


def signed_sum(block):
    out = bytearray(block)
    out[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in out)
    out[148:156] = b"%06o\0 " % total if total >= 0 else block[148:156]
    return bytes(out)


def merged(lower, layer):
    """The names that are seen with `layer` on top."""
    out = {}
    for path, entry in lower.items():
        parts, seen = path.split(b"/"), True
        for i in range(1, len(parts) + 1):
            above = b"/".join(parts[:i])
            own = layer.own.get(above)
            if above in layer.whiteouts and own is None or own is not None and (own.kind != "d" or i < len(parts) and getattr(own, "opaque", False)):
                seen = False
        if seen:
            out[path] = entry
    out.update(layer.own)
    return out


def legal(rng, entries):
    """Layers of an image that every engine takes, and how many entries they have."""
    layers, lower, was, count = [], {}, set(), 0
    for _ in range(rng.randrange(1, 4)):
        layer = Layer(rng, lower, was)
        for _ in range(entries):
            count += layer.add()
        layers.append(layer.tar())
        lower = merged(lower, layer)
        was = was | layer.whiteouts | {path for path, entry in layer.own.items() if entry.kind != "d"}
    return layers, count


def resummed(block):
    out = bytearray(block)
    out[148:156] = b" " * 8
    out[148:156] = b"%06o\0 " % sum(out)
    return bytes(out)


def odd(rng):
    """A layer of few entries with one thing changed at random."""
    layer = Layer(rng, {}, set())
    for _ in range(rng.randrange(1, 4)):
        layer.add()
    data = bytearray(b"".join(layer.out) + END)
    how = rng.choice(["field", "field", "byte", "record", "cut", "swap"])
    headers = [at for at in range(0, len(data) - 1024, 512) if bytes(data[at + 257 : at + 262]) == b"ustar"]
    if how == "field" and headers:
        at = rng.choice(headers)
        offset, width = rng.choice([(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (148, 8), (156, 1), (257, 8), (329, 8), (337, 8), (345, 12), (357, 12), (500, 12), (0, 4), (157, 4)])
        value = rng.choice([bytes(rng.randrange(256) for _ in range(width)), b"7" * width, b"8" * width, b"\xff" * width, b"\0" * width, b" " * width, b"\x80" + b"\0" * (width - 1), b"1 2\0"[:width], b"-1\0"[:width], b"\x80\0\0\x02"[:width]])
        data[at + offset : at + offset + len(value)] = value
        if offset != 148:
            data[at : at + 512] = resummed(bytes(data[at : at + 512]))
    elif how == "byte" and headers:
        at = rng.choice(headers)
        data[at + rng.randrange(512)] = rng.randrange(256)
        data[at : at + 512] = resummed(bytes(data[at : at + 512]))
    elif how == "record":
        extra = rng.choice([
            b"5 a=\n", b"6 =ab\n", b"99 a=b\n", b"7 a=b\nx\n", b"0 a=b\n", b"-6 a=b\n", b"+6 a=b\n", b"6 a=b", b"6  a=b\n"[:7], b"10 path=\0\n", b"12 uid=+005\n", b"10 uid=-2\n", b"9 uid=x\n",
            b"11 size=-1\n", b"12 mtime=.5\n", b"13 mtime=1e3\n", b"14 mtime=-0.5\n", b"13 atime=now\n", b"23 GNU.sparse.major=1 \n", b"22 GNU.sparse.major=1\n", b"21 GNU.sparse.size=5\n", b"22 GNU.sparse.map=0,1\n",
            b"23 GNU.sparse.name=evil\n", b"22 GNU.sparse.offset=0\n", b"25 SCHILY.xattr.user.=val\n", b"19 SCHILY.xattr.=v\n", b"22 SCHILY.xattr.a\0b=v\n", b"35 SCHILY.xattr.system.posix_acl_=x\n", b"11 uname=\0\n", b"12 gname=a\0\n",
        ])
        body = extra
        flag = rng.choice([b"x", b"x", b"g"])
        data[0:0] = header(b"pax", flag, size=len(body)) + padded(body)
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    else:
        blocks = [bytes(data[i : i + 512]) for i in range(0, len(data), 512)]
        i, j = rng.randrange(len(blocks)), rng.randrange(len(blocks))
        blocks[i], blocks[j] = blocks[j], blocks[i]
        data = bytearray(b"".join(blocks))
    return [bytes(data)]


def packed(rng, layer):
    """The blob of a layer, and its media type's ending."""
    return (gzip.compress(layer, 1, mtime=0), "+gzip") if rng.random() < 0.3 else (layer, "")
