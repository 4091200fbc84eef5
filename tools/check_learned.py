#!/usr/bin/env python3
"""An independent maker of learned profiles.

Written from docs/reference/formats/learned-profile.md alone, without a look at the program, to show that the text suffices.

    check_learned.py VECTORS.json            checks the vectors
    check_learned.py --make >VECTORS.json    makes them

Needs Python 3.11 and the package cryptography.
"""
import hashlib, hmac, json, struct, sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"cplearn\x01"


def derived(key, label):
    return hmac.new(key, label, hashlib.sha256).digest()


def part_id(key):
    return derived(key, b"coldpress learned profile id v1\n")[:16].hex()


def seal(key, nonce, entries):
    text = b"".join(bytes.fromhex(prefix) + struct.pack("<IB", at, age) for prefix, at, age in entries)
    secret = derived(key, b"coldpress learned profile key v1\n")
    return MAGIC + nonce + AESGCM(secret).encrypt(nonce, text, MAGIC)


def unseal(key, part):
    """The entries of a part, or None where a reader passes over it."""
    if len(part) > 213_028 or not part.startswith(MAGIC):
        return None
    nonce, sealed = part[8:20], part[20:]
    try:
        text = AESGCM(derived(key, b"coldpress learned profile key v1\n")).decrypt(nonce, sealed, MAGIC)
    except (InvalidTag, ValueError):
        return None
    if len(text) % 13:
        return None
    return [[text[at:at + 8].hex(), *struct.unpack("<IB", text[at + 8:at + 13])] for at in range(0, len(text), 13)]


def make():
    vectors = []
    for number, count in enumerate([0, 1, 3]):
        key = hashlib.sha256(b"a key of a chunk %d" % number).digest()
        nonce = hashlib.sha256(b"a nonce %d" % number).digest()[:12]
        names = [hashlib.sha256(b"a chunk %d" % at).hexdigest()[:16] for at in range(count)]
        entries = [[name, 40 * at, at] for at, name in enumerate(names)]
        part = seal(key, nonce, entries)
        vectors.append({"key": key.hex(), "id": part_id(key), "nonce": nonce.hex(), "entries": entries, "part": part.hex()})
    json.dump(vectors, sys.stdout, indent=1)
    print()


def check(path):
    with open(path) as file:
        vectors = json.load(file)
    for vector in vectors:
        key, part = bytes.fromhex(vector["key"]), bytes.fromhex(vector["part"])
        assert part_id(key) == vector["id"], "id"
        assert seal(key, bytes.fromhex(vector["nonce"]), vector["entries"]) == part, "part"
        assert unseal(key, part) == vector["entries"], "entries"
        for at in range(len(part)):
            assert unseal(key, part[:at] + bytes([part[at] ^ 1]) + part[at + 1:]) is None, f"byte {at}"
    print(f"{path}: {len(vectors)} learned profiles are as docs/reference/formats/learned-profile.md says")


if __name__ == "__main__":
    make() if sys.argv[1:] == ["--make"] else check(sys.argv[1])
