"""What `coldread serve` costs before anything is read of it: the time from its start to the first byte, and its memory.

usage: serve_costs.py PROGRAMS MANIFEST STORE   (COLDPRESS_KEY as for coldread; prints a table)
"""

import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

programs, manifest, store = sys.argv[1:]
ROUNDS = 21


def serve(images, path, *options):
    """The process, once its socket takes connections, and a connection."""
    command = [f"{programs}/coldread", "serve", *images, "--store", store, "--nbd", f"unix:{path}", *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            return process, connection
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, "coldread ended"
            time.sleep(0.0002)


def take(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        assert more, "hung up on"
        data += more
    return data


def read(connection, offset, length):
    """Chooses the first export, and reads."""
    take(connection, 18)
    connection.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
    take(connection, 10)
    connection.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, offset, length))
    assert struct.unpack(">IIQ", take(connection, 16)) == (0x67446698, 0, 7)
    return take(connection, length)


def end(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def memory(process):
    """Resident bytes, and those of them that are no file's, in MB."""
    lines = open(f"/proc/{process.pid}/status").read().splitlines()
    of = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss") or line.startswith("VmRSS")}
    return int(of["VmRSS"]) / 1000, int(of["RssAnon"]) / 1000


with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "nbd.sock")
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        process, connection = serve([manifest], path)
        assert read(connection, 1024 + 56, 2) == b"\x53\xef", "the superblock's magic"
        times.append(time.perf_counter() - begun)
        end(process)
    print(f"start to first byte: median {statistics.median(times) * 1e3:.1f} ms of {ROUNDS}, most {max(times) * 1e3:.1f} ms")
    for count in (1, 100):
        process, connection = serve([f"image{n}={manifest}" for n in range(count)], path)
        read(connection, 0, 4096)
        time.sleep(0.5)
        resident, anonymous = memory(process)
        print(f"{count} images, idle: {resident:.1f} MB resident, {anonymous:.1f} of them its own")
        end(process)
