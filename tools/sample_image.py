"""sample_image.py OUT [TEXT]: writes a `docker save` archive of an image with a shell, /app/start and /app/greeting, for the pages of docs/."""

import hashlib
import io
import json
import sys
import tarfile

OUT, TEXT = sys.argv[1], (sys.argv[2:] or ["hello from the image"])[0]


def archive(files):
    """Returns a tar of `files`: path to (mode, bytes); a mode of None is a directory, bytes as text are a link's target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, (mode, data) in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = mode or 0o755, 1_700_000_000
            if mode is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(data, str):
                entry.type, entry.linkname, data = tarfile.SYMTYPE, data, b""
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data or b""))
    return out.getvalue()


with open("/bin/busybox", "rb") as file:
    BUSYBOX = file.read()
LAYER = archive(
    {
        **{name: (None, None) for name in ("app", "bin", "dev", "etc", "proc", "run", "sys", "tmp", "var")},
        "bin/busybox": (0o755, BUSYBOX),
        **{f"bin/{name}": (0o777, "busybox") for name in ("sh", "cat", "echo", "ls", "sleep", "touch")},
        "app/start": (0o755, b"#!/bin/sh\ncat /app/greeting\n"),
        "app/greeting": (0o644, TEXT.encode() + b"\n"),
        "etc/os-release": (0o644, b"NAME=sample\n"),
    }
)
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/app/start"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(LAYER).hexdigest()]},
    }
).encode()
NAME = hashlib.sha256(CONFIG).hexdigest() + ".json"
MANIFEST = json.dumps([{"Config": NAME, "RepoTags": ["app:latest"], "Layers": ["layer.tar"]}]).encode()
with open(OUT, "wb") as out:
    out.write(archive({"layer.tar": (0o644, LAYER), NAME: (0o644, CONFIG), "manifest.json": (0o644, MANIFEST)}))
