#!/usr/bin/env python3
"""make_big.py DIR KIND: an OCI layout that is large in one way, for `make big`. Needs the package zstandard.

KIND: million   a million small files in 1,000 directories
      few       a thousand small files in one directory
      crowd     a million empty files in one directory
      gib:N     N GiB of distinct bytes in files of 1 to 512 MiB, in four layers
"""
import hashlib
import io
import json
import os
import sys
import tarfile

import zstandard


class Digesting(io.RawIOBase):
    def __init__(self, inner):
        self.inner, self.digest, self.size = inner, hashlib.sha256(), 0

    def write(self, data):
        self.inner.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def put(directory, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{directory}/blobs/sha256/{digest}", "wb") as out:
        out.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}


def layer(directory, fill):
    path = f"{directory}/blobs/layer"
    with open(path, "wb") as file:
        stored = Digesting(file)
        compressor = zstandard.ZstdCompressor(level=1, threads=2).stream_writer(stored, closefd=False)
        plain = Digesting(compressor)
        with tarfile.open(fileobj=plain, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as tar:
            fill(tar)
        compressor.close()
    digest = stored.digest.hexdigest()
    os.rename(path, f"{directory}/blobs/sha256/{digest}")
    descriptor = {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": "sha256:" + digest, "size": stored.size}
    return descriptor, "sha256:" + plain.digest.hexdigest()


def add(tar, name, data=b"", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_700_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    tar.addfile(info, io.BytesIO(data))


def files(tar, directories):
    for directory in range(directories):
        add(tar, f"d{directory:03}", kind=tarfile.DIRTYPE)
        for file in range(1000):
            add(tar, f"d{directory:03}/file-{file:06}.txt", b"%d" % (directory * 1000 + file))


def crowd(tar):
    add(tar, "crowd", kind=tarfile.DIRTYPE)
    for file in range(1_000_000):
        add(tar, f"crowd/file-{file:07}.txt")


class Noise:
    """Distinct blocks of 4 KiB: random bytes, and a number in front of each block."""
    base = bytearray(os.urandom(16 << 20))

    def __init__(self, size, first):
        self.left, self.block = size, first

    def read(self, count):
        count = min(self.left, count)
        start = self.block * 4096 % (len(self.base) - count)
        for at in range(start, start + count, 4096):
            self.base[at : at + 8] = self.block.to_bytes(8, "little")
            self.block += 1
        self.left -= count
        return bytes(self.base[start : start + count])


def bytes_of(total, number):
    sizes = [512 << 20, 64 << 20, 8 << 20, 1 << 20]

    def fill(tar):
        left, at, file = total, number << 40, 0
        while left:
            size = next(size for size in sizes[file % 4 :] + [left] if size <= left)
            info = tarfile.TarInfo(f"layer{number}/file-{file:05}")
            info.size, info.mode = size, 0o644
            tar.addfile(info, Noise(size, at))
            at, left, file = at + size // 4096, left - size, file + 1

    return fill


def main(directory, kind):
    os.makedirs(f"{directory}/blobs/sha256")
    if kind.startswith("gib:"):
        fills = [bytes_of(int(kind[4:]) * (1 << 30) // 4, number) for number in range(4)]
    else:
        fills = [{"million": lambda tar: files(tar, 1000), "few": lambda tar: files(tar, 1), "crowd": crowd}[kind]]
    layers = [layer(directory, fill) for fill in fills]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}}
    config = put(directory, json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
        "layers": [descriptor for descriptor, _ in layers],
    }
    manifest = {"mediaType": manifest["mediaType"], **put(directory, json.dumps(manifest).encode())}
    for name, document in [("index.json", {"schemaVersion": 2, "manifests": [manifest]}), ("oci-layout", {"imageLayoutVersion": "1.0.0"})]:
        with open(f"{directory}/{name}", "w") as out:
            json.dump(document, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
