#!/usr/bin/env python3
"""An independent checker of coldpress's block manifest and its sealed chunks.

Written from docs/reference/formats/block-manifest.md and docs/reference/formats/sealed-chunk.md alone, without a look at the program, to show that the two texts
suffice. It is no reader for use: it wants the salt, which a reader has no need of, and holds everything in memory.

    check_manifest.py MANIFEST.cpm STORE_DIR KEY_FILE [EXPECTED.json]
    check_manifest.py --vectors DIR

Prints one line for each manifest; exits with 1 and says what differs at the first thing that is not as specified.
Needs Python 3.11 and the packages cryptography, blake3 and zstandard.
"""
import hashlib, hmac, json, os, re, struct, sys, tarfile
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ZSTD_HERE = int("%d%02d%02d" % zstandard.ZSTD_VERSION)
MAGIC, CHUNK, ZERO_NONCE = bytes.fromhex("8943504D0D0A1A0A"), 524288, bytes(12)
KEPT = {"ArgsEscaped", "Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "Shell", "StopSignal", "User",
        "Volumes", "WorkingDir"}


class Wrong(Exception):
    """Something is not as specified."""


def need(holds, what):
    if not holds:
        raise Wrong(what)


def same(what, got, wanted):
    show = lambda v: v.hex() if isinstance(v, bytes) else repr(v)
    need(got == wanted, f"{what} is {show(got)}, should be {show(wanted)}")


def mac(key, label, *parts):
    return hmac.digest(key, label.encode() + b"".join(parts), "sha256")


def gcm_open(what, key, nonce, sealed, associated):
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Wrong(f"{what} does not open") from None


class Part:
    """Reads one part of the file; whatever it takes is checked against the bytes that are left."""

    def __init__(self, name, data):
        self.name, self.data, self.at = name, data, 0

    def raw(self, n):
        need(n <= len(self.data) - self.at, f"{self.name}: ends too early at byte {self.at}")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, kind):
        return struct.unpack("<" + kind, self.raw(struct.calcsize(kind)))[0]

    def count(self, kind, each):
        n = self.number(kind)
        need(n * each <= len(self.data) - self.at, f"{self.name}: a count of {n} goes past its end")
        return n

    def text(self):
        raw = self.raw(self.number("H"))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Wrong(f"{self.name}: a text is not UTF-8") from None

    def end(self):
        need(self.at == len(self.data), f"{self.name}: {len(self.data) - self.at} bytes too many")


def split(file):
    p = Part("file", file)
    need(p.raw(8) == MAGIC, "the magic differs")
    same("version", p.number("H"), 1)
    same("reserved", p.number("H"), 0)
    lengths = [p.number("I") for _ in range(3)]
    wraps, clear, sealed = [p.raw(n) for n in lengths]
    p.end()
    return wraps, clear, sealed


def join(wraps, clear, sealed):
    return MAGIC + struct.pack("<HHIII", 1, 0, len(wraps), len(clear), len(sealed)) + wraps + clear + sealed


def wrap_key_id(key):
    return mac(key, "coldpress wrapping key id v1\n")[:16]


def read_wraps(data):
    p, found = Part("wraps", data), []
    for _ in range(p.count("H", 9)):
        kind, key_id, blob = p.number("B"), p.raw(p.number("I")), p.raw(p.number("I"))
        need(kind != 1 or (len(key_id), len(blob)) == (16, 60), "wraps: a key file's key id or blob has another length")
        found.append((kind, key_id, blob))
    p.end()
    return found


def read_clear(data):
    p, c = Part("clear part", data), {}
    c["epoch"], c["codec"], c["level"], c["codec version"] = p.number("H"), p.number("B"), p.number("b"), p.number("I")
    c["chunk size"], c["free"], c["platform"] = p.number("I"), p.number("Q"), p.text()
    c["recipe"] = data[:p.at]
    c["root id"], c["scope id"], c["application"], c["root digest"] = p.text(), p.raw(16), p.text(), p.raw(32)
    c["names"] = names = [p.raw(32) for _ in range(p.count("I", 32))]
    p.end()
    need((c["codec"], c["level"], c["codec version"]) == (0, 0, 0) or c["codec"] == 1 and 1 <= c["level"] <= 19 and c["codec version"],
         f"clear part: codec {c['codec']}, level {c['level']}, codec version {c['codec version']}")
    same("clear part: chunk size", c["chunk size"], CHUNK)
    need(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", c["root id"]) and c["root id"] != "manifests",
         f"clear part: root id {c['root id']!r}")
    need(all(a < b for a, b in zip(names, names[1:])), "clear part: the names are not strictly ascending")
    return c


def read_sealed(data, names):
    p, s = Part("sealed part", data), {}
    s["device chunks"], s["image digest"] = p.number("I"), p.raw(32)
    s["config"], s["config key"] = p.raw(p.number("I")), p.raw(32)
    has_source, s["source"], s["store"] = p.number("B"), p.raw(32), p.text()
    need(re.fullmatch(r"(/.*|(s3|gs|az)://[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?", s["store"]), f"sealed part: store {s['store']!r}")
    need(has_source in (0, 1), f"sealed part: has source is {has_source}")
    need(has_source or s["source"] == bytes(32), "sealed part: a source where there is none")
    s["layers"] = [(p.raw(32), p.number("I"), p.number("I"), p.number("Q")) for _ in range(p.count("I", 48))]
    s["keys"] = [(p.raw(32), p.number("I")) for _ in names]
    s["chunks"] = chunks = [(p.number("I"), p.number("I")) for _ in range(p.count("I", 8))]
    p.end()
    need(all(17 <= length <= 528400 for _, length in s["keys"]), "sealed part: a stored length is out of bounds")
    need(all(a[0] < b[0] for a, b in zip(chunks, chunks[1:])), "sealed part: the chunks are not strictly ascending")
    need(all(index < s["device chunks"] for index, _ in chunks), "sealed part: a chunk lies behind the device's end")
    need(all(name < len(names) for _, name in chunks), "sealed part: a chunk has a name that is none")
    need({name for _, name in chunks} == set(range(len(names))), "sealed part: a name is not used")
    return s


def wrap_context(clear):
    application = clear["application"].encode()
    return b"coldpress wrap v1\n" + clear["root digest"] + struct.pack("<H", len(application)) + application


def find_wrap(wraps, key):
    blobs = [blob for kind, key_id, blob in read_wraps(wraps) if kind == 1 and key_id == wrap_key_id(key)]
    need(blobs, "wraps: none is for this key")
    return blobs[0]


def unwrap(blob, clear, key):
    return gcm_open("the wrap", key, blob[:12], blob[12:], wrap_context(clear))


def unseal(data_key, clear_bytes, sealed):
    return gcm_open("the sealed part", data_key, ZERO_NONCE, sealed, MAGIC + struct.pack("<HH", 1, 0) + clear_bytes)


def open_manifest(file, key):
    wraps, clear_bytes, sealed_bytes = split(file)
    clear = read_clear(clear_bytes)
    sealed = read_sealed(unseal(unwrap(find_wrap(wraps, key), clear, key), clear_bytes, sealed_bytes), clear["names"])
    # The root digest, of what was opened.
    h = hashlib.sha256(b"coldpress root digest v1\n" + clear["recipe"])
    h.update(struct.pack("<II", sealed["device chunks"], len(sealed["chunks"])))
    for index, name in sealed["chunks"]:
        h.update(struct.pack("<I", index) + clear["names"][name] + sealed["keys"][name][0])
    h.update(hmac.digest(sealed["config key"], sealed["config"], "sha256") + sealed["image digest"])
    same("root digest", clear["root digest"], h.digest())
    return clear, sealed


def check_config(config):
    value = json.loads(config)
    need(isinstance(value, dict) and isinstance(value.get("config", {}), dict), "config: not an object")
    normal = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    same("config in normal form", config, normal)
    inner = value.get("config", {})
    need(set(value) <= {"architecture", "os", "variant", "config"} and set(inner) <= KEPT, "config: a field that is not kept")
    need(not any(v is False or v in (None, "", [], {}) for v in [*value.values(), *inner.values()]), "config: an empty field")


def open_chunk(stored, name, key, length, clear, salt):
    """The steps of a reader, and what only who has the salt can check."""
    same("length", len(stored), length)
    need(len(stored) <= 528400, "too long")
    same("SHA-256", hashlib.sha256(stored).digest(), name)
    packed = gcm_open("it", key, ZERO_NONCE, stored, None)
    need(packed and len(packed) % 4096 == 0, f"{len(packed)} bytes packed")
    same("key", key, mac(salt, "coldpress chunk v1\n", packed))
    if clear["codec"] == 0:
        need(len(packed) <= CHUNK, "longer than a chunk")
        trimmed = packed.rstrip(b"\0")
        behind = packed[len(trimmed):]
    else:
        need(packed[:4] == bytes.fromhex("28B52FFD"), "no zstd frame")
        frame = zstandard.get_frame_parameters(packed)
        need(0 < frame.content_size <= CHUNK, f"the frame's content size is {frame.content_size}")
        need(not frame.has_checksum and not frame.dict_id, "the frame has a checksum or a dictionary")
        d = zstandard.ZstdDecompressor().decompressobj()
        trimmed, behind = d.decompress(packed), d.unused_data
        need(d.eof and len(trimmed) == frame.content_size, "the frame is not whole")
        if clear["codec version"] == ZSTD_HERE:  # the same library gives the same bytes
            again = zstandard.ZstdCompressor(level=clear["level"], write_content_size=True).compress(trimmed)
            same("frame made anew", again, packed[:len(packed) - len(behind)])
    need(trimmed and trimmed[-1], "not trimmed: it ends in zeros")
    need(len(behind) < 4096 and not any(behind), "the padding is not fewer than 4096 zeros")
    return trimmed.ljust(CHUNK, b"\0")


def leaves(chunks):
    return b"".join(struct.pack("<I", i) + blake3(chunk.rstrip(b"\0")).digest() for i, chunk in chunks)


def superblock_checksum(superblock):
    crc = 0xFFFFFFFF
    for byte in superblock[:1020]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return struct.pack("<I", crc)


def check_uuid(chunks, counts):
    need(chunks and chunks[0][0] == 0, "the first chunk is not stored, so there is no superblock")
    first = bytearray(chunks[0][1])
    same("superblock's checksum", bytes(first[2044:2048]), superblock_checksum(first[1024:2048]))
    found = bytes(first[1024 + 0x68:1024 + 0x78])
    first[1024 + 0x68:1024 + 0x78] = bytes(16)
    first[2044:2048] = superblock_checksum(first[1024:2048])
    uuid = bytearray(blake3(b"coldpress uuid v1\n" + counts + leaves([(0, bytes(first)), *chunks[1:]])).digest()[:16])
    uuid[6], uuid[8] = uuid[6] & 0x0F | 0x80, uuid[8] & 0x3F | 0x80
    same("file system's UUID", found, bytes(uuid))


def must_fail(what, attempt, *args):
    try:
        attempt(*args)
    except Wrong:
        return
    raise Wrong(f"{what}: it opens all the same")


def flips_must_fail(what, attempt, data):
    """Flips every bit of a small part, one after another, and bits spread over a large one."""
    for bit in range(0, 8 * len(data), len(data) // 1024 * 8 + 1):
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        must_fail(f"{what} with bit {bit} flipped", attempt, bytes(other))


def check_tampering(file, key):
    wraps, clear_bytes, sealed = split(file)
    clear, blob = read_clear(clear_bytes), find_wrap(wraps, key)
    data_key, context = unwrap(blob, clear, key), wrap_context(clear)
    # The seal and the wrap for themselves, then what a reader does with the whole file.
    flips_must_fail("seal, clear part", lambda other: unseal(data_key, other, sealed), clear_bytes)
    flips_must_fail("seal, sealed part", lambda other: unseal(data_key, clear_bytes, other), sealed)
    flips_must_fail("wrap", lambda other: unwrap(other, clear, key), blob)
    flips_must_fail("file, head", lambda other: open_manifest(other + file[24:], key), file[:24])
    flips_must_fail("file, clear part", lambda other: open_manifest(join(wraps, other, sealed), key), clear_bytes)
    flips_must_fail("file, sealed part", lambda other: open_manifest(join(wraps, clear_bytes, other), key), sealed)
    flips_must_fail("file, wrap", lambda other: open_manifest(file.replace(blob, other), key), blob)
    for other in (file + b"\0", file[:-1], join(wraps + b"\0", clear_bytes, sealed), join(wraps, clear_bytes + b"\0", sealed)):
        must_fail("a byte too many or too few", open_manifest, other, key)
    # Another wrapping key, behind a wrap of a kind that nobody knows: only the wraps change.
    new_key, nonce = os.urandom(32), os.urandom(12)
    new_blob = nonce + AESGCM(new_key).encrypt(nonce, data_key, context)
    new_wraps = struct.pack("<HBI7sI", 2, 200, 7, b"unknown", 0)
    new_wraps += struct.pack("<BI16sI60s", 1, 16, wrap_key_id(new_key), 60, new_blob)
    rewritten = join(new_wraps, clear_bytes, sealed)
    need(split(rewritten)[1:] == (clear_bytes, sealed), "a new wrap changes the other parts")
    need(open_manifest(rewritten, new_key) == open_manifest(file, key), "it opens to something else under a new wrap")
    must_fail("the wrapping key that is no longer there", open_manifest, rewritten, key)


def read_key_file(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    values = {name.strip(): bytes.fromhex(value) for name, value in (line.split("=") for line in lines)}
    same("length of the key file's keys", (len(values["wrapping-key"]), len(values["salt"])), (32, 32))
    return values["wrapping-key"], values["salt"]


def check(manifest, *rest):
    try:
        return check_all(manifest, *rest)
    except (Wrong, OSError, ValueError, KeyError) as e:
        raise Wrong(f"{manifest.name}: {e}") from None


def check_all(manifest, store, key_file, expected=None):
    file, (key, salt) = manifest.read_bytes(), read_key_file(key_file)
    clear, sealed = open_manifest(file, key)
    same("scope id", clear["scope id"], mac(salt, "coldpress scope v1\n")[:16])
    same("config key", sealed["config key"], mac(salt, "coldpress config v1\n", sealed["config"]))
    check_config(sealed["config"])

    opened = []
    for name, (chunk_key, length) in zip(clear["names"], sealed["keys"]):
        try:
            stored = (store / clear["root id"] / name.hex()).read_bytes()
            opened.append(open_chunk(stored, name, chunk_key, length, clear, salt))
        except (Wrong, OSError, zstandard.ZstdError) as e:
            raise Wrong(f"chunk {name.hex()}: {e}") from None
    chunks = [(index, opened[name]) for index, name in sealed["chunks"]]
    counts = struct.pack("<II", sealed["device chunks"], len(chunks))
    digest = blake3(b"coldpress image digest v1\n" + counts + leaves(chunks) + blake3(sealed["config"]).digest()).digest()
    same("image digest", sealed["image digest"], digest)
    check_uuid(chunks, counts)
    check_tampering(file, key)

    facts = {"root_digest": "sha256:" + clear["root digest"].hex(), "image_digest": "blake3:" + digest.hex(),
             "device_bytes": sealed["device chunks"] * CHUNK, "chunks": len(chunks), "unique_chunks": len(opened),
             "stored_bytes": sum(length for _, length in sealed["keys"]), "scope_id": clear["scope id"].hex(),
             "platform": clear["platform"], "compression": f"zstd:{clear['level']}" if clear["codec"] else "none"}
    if expected:
        said = json.loads(expected.read_text())
        for field in said.keys() | facts.keys():
            same(f"{field}, compared with {expected.name},", facts.get(field), said.get(field))
    note = "" if clear["codec version"] in (0, ZSTD_HERE) else " (frames not made anew: another version of zstd here)"
    print(f"{manifest.name}: {len(chunks)} chunks, root digest {facts['root_digest']}, image digest {facts['image_digest']}: "
          f"all as specified{note}")
    return {"clear": clear, "sealed": sealed, "data key": unwrap(find_wrap(split(file)[0], key), clear, key)}


def fact(tar):
    return hashlib.sha256(tar).digest(), len(tar)


def image_layers(directory):
    """DiffIDs and lengths of the plain layers in image.oci.tar.gz, the base first."""
    with tarfile.open(directory / "image.oci.tar.gz") as archive:
        blob = lambda digest: archive.extractfile("blobs/sha256/" + digest.split(":")[1]).read()
        index = json.load(archive.extractfile("index.json"))
        return [fact(blob(layer["digest"])) for layer in json.loads(blob(index["manifests"][0]["digest"]))["layers"]]


def check_vectors(directory):
    found = []
    for name in ("none", "zstd", "image"):
        manifest, store, expected = directory / f"{name}.cpm", directory / f"store-{name}", directory / f"{name}.json"
        found.append(v := check(manifest, store, directory / "published-test.key", expected))
        # What the vectors' README says: the layers, and a store with these chunks and this manifest.
        layers = [(diff_id, length) for diff_id, _, _, length in v["sealed"]["layers"]]
        same("layers", layers, image_layers(directory) if name == "image" else [fact((directory / "root.tar").read_bytes())])
        wanted = {store / v["clear"]["root id"] / n.hex() for n in v["clear"]["names"]}
        copy = store / "manifests" / v["clear"]["root id"] / hashlib.sha256(manifest.read_bytes()).hexdigest()
        same("files of the store", {f for f in store.rglob("*") if f.is_file()}, wanted | {copy})
        need(copy.read_bytes() == manifest.read_bytes(), "the store's manifest differs")
    none, zstd, _ = found
    same("image digest of the two", none["sealed"]["image digest"], zstd["sealed"]["image digest"])
    need(none["data key"] != zstd["data key"], "two manifests have one data key")


def main(args):
    try:
        if len(args) == 2 and args[0] == "--vectors":
            check_vectors(Path(args[1]))
        elif len(args) in (3, 4) and not args[0].startswith("-"):
            check(*map(Path, args))
        else:
            sys.exit(__doc__)
    except (Wrong, OSError) as e:
        sys.exit(f"not as specified: {e}")


if __name__ == "__main__":
    main(sys.argv[1:])
