#!/usr/bin/env python3
"""An independent maker of the zone's shards.

Written from docs/reference/formats/zone-shard.md alone, without a look at the program, to show that the text suffices: ids, shards of data and parity,
tags, and the servers they lie on.

    check_shards.py VECTORS.json            checks the vectors, and that any k shards make the chunk
    check_shards.py --make >VECTORS.json    makes them

Needs Python 3.11 and the package cryptography.
"""
import hashlib, hmac, itertools, json, struct, sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# GF(2^8) with the polynomial 0x11D, by logarithms of the generator 2.
EXP = [1]
for _ in range(254):
    EXP.append(EXP[-1] << 1 if EXP[-1] < 128 else EXP[-1] << 1 ^ 0x11D)
LOG = {value: power for power, value in enumerate(EXP)}


def times(a, b):
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def power(a, n):
    return 1 if n == 0 else times(a, power(a, n - 1))


def product(a, b):
    column = lambda c: [row[c] for row in b]
    return [[sum_of(times(x, y) for x, y in zip(row, column(c))) for c in range(len(b[0]))] for row in a]


def sum_of(values):
    total = 0
    for value in values:
        total ^= value
    return total


def inverse(matrix):
    """By elimination (Gauss and Jordan)."""
    size = len(matrix)
    rows = [list(row) + [int(r == c) for c in range(size)] for r, row in enumerate(matrix)]
    for c in range(size):
        pivot = next(r for r in range(c, size) if rows[r][c])
        rows[c], rows[pivot] = rows[pivot], rows[c]
        scale = EXP[(255 - LOG[rows[c][c]]) % 255]
        rows[c] = [times(scale, value) for value in rows[c]]
        for r in range(size):
            if r != c and rows[r][c]:
                factor = rows[r][c]
                rows[r] = [value ^ times(factor, other) for value, other in zip(rows[r], rows[c])]
    return [row[size:] for row in rows]


def code(k, m):
    """The k + m rows that make shards of data."""
    v = [[power(r, c) for c in range(k)] for r in range(k + m)]
    return product(v, inverse(v[:k]))


def mac(key, label):
    return hmac.digest(key, label, "sha256")


def chunk_id(key):
    return mac(key, b"coldpress zone id v1\n")[:16]


def shards(key, stored, k, m):
    length = -(-len(stored) // k)
    data = [stored[i * length:(i + 1) * length].ljust(length, b"\0") for i in range(k)]
    tag_key, made = AESGCM(mac(key, b"coldpress zone shard v1\n")), []
    for index, row in enumerate(code(k, m)):
        payload = bytes(sum_of(times(factor, part[at]) for factor, part in zip(row, data)) for at in range(length))
        fields = b"cpz1" + bytes([k, m, index, 0]) + struct.pack("<I", len(stored))
        made.append(payload + fields + tag_key.encrypt(fields, b"", payload + fields))
    return made


def joined(some, length, k, m):
    """The chunk, of any k shards."""
    rows = [code(k, m)[shard[-22]] for shard in some]
    back = product(inverse(rows), [list(shard[:-28]) for shard in some])
    return b"".join(map(bytes, back))[:length]


def places(names, key, count):
    score = lambda name: hashlib.sha256(hashlib.sha256(name.encode()).digest() + chunk_id(key)).digest()
    ranked = sorted(names, key=score)
    where = lambda p: f"coldpress:{chunk_id(key).hex()}" + (f":{p // len(names)}" if p >= len(names) else "")
    return [[ranked[p % len(names)], where(p)] for p in range(count)]


def vector(number, k, m, servers, length):
    key = hashlib.sha256(b"key %d" % number).digest()
    stored = b"".join(hashlib.sha256(b"%d %d" % (number, n)).digest() for n in range(length // 32 + 1))[:length]
    names = [f"cache-{n}.zone:6379" for n in range(1, servers + 1)]
    return {"key": key.hex(), "stored": stored.hex(), "code": f"{k}+{m}", "servers": names, "id": chunk_id(key).hex(),
            "shards": [shard.hex() for shard in shards(key, stored, k, m)], "places": places(names, key, k + m)}


VECTORS = [(1, 4, 2, 8, 333), (2, 4, 2, 4, 64), (3, 1, 1, 2, 50), (4, 4, 1, 6, 17), (5, 6, 3, 16, 999), (6, 1, 0, 3, 1)]


def main(args):
    made = [vector(*wanted) for wanted in VECTORS]
    if args == ["--make"]:
        print(json.dumps(made, indent=1))
        return
    for number, (wanted, got) in enumerate(zip(json.load(open(args[0])), made, strict=True), 1):
        assert got == wanted, f"vector {number} differs"
        (k, m), length = map(int, wanted["code"].split("+")), len(wanted["stored"]) // 2
        for some in itertools.combinations([bytes.fromhex(shard) for shard in wanted["shards"]], k):
            assert joined(some, length, k, m).hex() == wanted["stored"], f"vector {number}: {k} shards make another chunk"
        print(f"{wanted['code']} of {length} bytes on {len(wanted['servers'])} servers: as specified, and any {k} shards make it")


main(sys.argv[1:])
