"""Layer tars of every dialect, header field by header field: what differential.py gives to several programs."""
import struct

BLOCK = 512
USTAR, PAX_ODD, GNU, V7 = b"ustar\0" + b"00", b"ustar\0" + b"  ", b"ustar  \0", b""
NO_ID = 0xFFFFFFFF


def base256(value, width):
    """A number in base 256, as GNU tar and Go write what octal does not hold."""
    if value >= 0:
        return b"\x80" + value.to_bytes(width - 1, "big")
    return (256**width + value).to_bytes(width, "big")


def number(value, width):
    """Octal where it fits, else base 256; bytes are taken as they are."""
    if isinstance(value, bytes):
        return value[:width].ljust(width, b"\0")
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def header(name, flag=b"0", *, mode=0o644, uid=0, gid=0, size=0, mtime=1_600_000_000, link=b"", magic=USTAR, device=(0, 0), prefix=b"", fields=()):
    """A header block. `fields` are (offset, bytes) that are put over the others before the block is summed."""
    block = bytearray(BLOCK)

    def put(at, data):
        block[at : at + len(data)] = data

    put(0, name[:100])
    for at, width, value in ((100, 8, mode), (108, 8, uid), (116, 8, gid), (124, 12, size), (136, 12, mtime)):
        put(at, number(value, width))
    put(148, b" " * 8)
    put(156, flag)
    put(157, link[:100])
    put(257, magic)
    if magic:
        put(329, number(device[0], 8) + number(device[1], 8))
    put(345, prefix[:155])
    for at, data in fields:
        put(at, data)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + b"\0" * (-len(data) % BLOCK)


def record(key, value):
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(records, flag=b"x"):
    """An extended header; `records` are (key, value) pairs in bytes."""
    body = b"".join(record(key, value) for key, value in records)
    return header(b"PaxHeaders/entry", flag, size=len(body)) + padded(body)


def gnu_long(text, flag):
    """A GNU long name (`L`) or link target (`K`)."""
    return header(b"././@LongLink", flag, size=len(text) + 1, magic=GNU) + padded(text + b"\0")


def acl(*entries):
    """A POSIX ACL of (tag, permissions, id) as tar and setxattr carry it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def xattr(name, value):
    return (b"SCHILY.xattr." + name, value)


def entry(name, flag=b"0", data=b"", *, records=(), **fields):
    """An entry with PAX `records` before it."""
    if len(name) > 100:
        records = [*records, (b"path", name)]
    before = pax(records) if records else b""
    return before + header(name, flag, size=fields.pop("size", len(data)), **fields) + padded(data)


def file(name, data=b"x", **fields):
    return entry(name, b"0", data, **fields)


def directory(name, **fields):
    return entry(name, b"5", mode=fields.pop("mode", 0o755), **fields)


def symlink(name, target, **fields):
    return entry(name, b"2", link=target, mode=fields.pop("mode", 0o777), **fields)


def hard_link(name, target, **fields):
    return entry(name, b"1", link=target, **fields)


def whiteout(path):
    parent, slash, name = path.rpartition(b"/")
    return file(parent + slash + b".wh." + name, b"")


def opaque(path):
    return file((path + b"/" if path else b"") + b".wh..wh..opq", b"")


END = b"\0" * 1024


def tar(*entries, end=END):
    return b"".join(entries) + end
