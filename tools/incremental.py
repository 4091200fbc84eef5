#!/usr/bin/env python3
"""incremental.py COLDPRESS CORPUS GIB WORK: times conversions with and without a cache; ends with 1 where a limit is passed."""
import json
import os
import shutil
import socket
import subprocess
import statistics
import sys
import time

from make_big import add, layer, put

coldpress, corpus, gib, work = (os.path.abspath(path) for path in sys.argv[1:])
RUNS = 5
# Most MB that a conversion may read and write that pays for a small layer.
MOST_MOVED = 15
failed = False


def run(image, store, options):
    """Seconds, and MB that the process read and wrote by system calls, files and sockets alike."""
    begun = time.monotonic()
    process = subprocess.Popen([coldpress, "convert", image, "--store", store, "--key", f"file:{work}/key", "-o", f"{work}/out.cpm", "-q",
                                *options])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - begun
    with open(f"/proc/{process.pid}/io") as file:
        io = dict(line.split(": ") for line in file)
    if process.wait():
        sys.exit(f"{image}: failed")
    return seconds, (int(io["rchar"]) + int(io["wchar"])) / 1e6


def median(runs):
    return statistics.median(seconds for seconds, _ in runs), statistics.median(moved for _, moved in runs)


def root_digest():
    return json.loads(subprocess.check_output([coldpress, "inspect", f"{work}/out.cpm", "--key", f"file:{work}/key", "--json"]))["root_digest"]


def judge(what, figures, limit, text):
    global failed
    seconds, moved = figures
    holds = seconds <= limit and moved <= MOST_MOVED
    failed |= not holds
    print(f"| {what} | {seconds:.3f} | {moved:.1f} | {text} | {'holds' if holds else 'FAILS'} |", flush=True)


def registry():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = "127.0.0.1:%d" % free.getsockname()[1]
    with open(f"{work}/registry.yml", "w") as file:
        json.dump({"version": "0.1", "storage": {"filesystem": {"rootdirectory": f"{work}/registry"}}, "http": {"addr": host}}, file)
    log = open(f"{work}/registry.log", "w")
    process = subprocess.Popen(["docker-registry", "serve", f"{work}/registry.yml"], stdout=log, stderr=log)
    time.sleep(1)
    for name in ["py-web-v1", "py-web-v2"]:
        subprocess.check_call(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{corpus}/{name}",
                               f"docker://{host}/app:{name}"])
    return process, host


def pulled(since):
    """Blobs that the registry served since a place in its log."""
    with open(f"{work}/registry.log") as file:
        file.seek(since)
        return sum('"GET /v2/app/blobs/' in line for line in file)


def small_changes():
    process, host = registry()
    plain, one, two = ["--plain-http"], f"docker://{host}/app:py-web-v1", f"docker://{host}/app:py-web-v2"
    try:
        cold, warm, same = [], [], []
        for _ in range(RUNS):
            for path in ["store", "cold", "cache"]:
                shutil.rmtree(f"{work}/{path}", ignore_errors=True)
            cold.append(run(two, f"{work}/cold", [*plain, "--no-cache"]))
            wanted = root_digest()
            run(one, f"{work}/store", [*plain, "--cache", f"{work}/cache"])
            before = os.path.getsize(f"{work}/registry.log")
            warm.append(run(two, f"{work}/store", [*plain, "--cache", f"{work}/cache"]))
            blobs = pulled(before)
            assert blobs == 2, f"{blobs} blobs pulled, not the config and the changed layer alone"
            assert root_digest() == wanted, "another root digest"
            same.append(run(two, f"{work}/store", [*plain, "--cache", f"{work}/cache"]))
            assert root_digest() == wanted, "another root digest"
    finally:
        process.terminate()
        process.wait()
    seconds, moved = median(cold)
    print(f"| py-web-v2 from a registry, cold | {seconds:.3f} | {moved:.1f} | | |")
    judge(f"py-web-v2 after py-web-v1; {blobs} blobs pulled, the config and the changed layer", median(warm), max(0.15, 0.05 * seconds),
          f"5 % of cold, or 0.15 s; {MOST_MOVED} MB")
    judge("py-web-v2 again", median(same), 0.3, f"0.3 s; {MOST_MOVED} MB")


def a_layer_on_ten_gib():
    image = f"{work}/gib-and-one"
    shutil.copytree(gib, image, copy_function=os.link)
    with open(f"{image}/index.json") as file:
        index = json.load(file)
    read = lambda descriptor: json.load(open(f"{image}/blobs/sha256/" + descriptor["digest"][7:]))
    manifest = read(index["manifests"][0])
    config = read(manifest["config"])
    descriptor, diff_id = layer(image, lambda tar: add(tar, "top", os.urandom(1 << 20)))
    manifest["layers"].append(descriptor)
    config["rootfs"]["diff_ids"].append(diff_id)
    manifest["config"].update(put(image, json.dumps(config).encode()))
    index["manifests"][0].update(put(image, json.dumps(manifest).encode()))
    os.remove(f"{image}/index.json")
    with open(f"{image}/index.json", "w") as file:
        json.dump(index, file)
    for path in ["store", "cache"]:
        shutil.rmtree(f"{work}/{path}", ignore_errors=True)
    cache = ["--cache", f"{work}/cache"]
    cold = run(f"oci:{gib}", f"{work}/store", cache)
    print(f"| 10 GiB, cold | {cold[0]:.3f} | {cold[1]:.1f} | | |")
    judge("10 GiB and a layer of 1 MiB on it", run(f"oci:{image}", f"{work}/store", cache), 2, f"2 s; {MOST_MOVED} MB")
    judge("the same again", median([run(f"oci:{image}", f"{work}/store", cache) for _ in range(RUNS)]), 0.3, f"0.3 s; {MOST_MOVED} MB")


subprocess.check_call([coldpress, "keygen", "-q", "-o", f"{work}/key"])
print("| conversion | seconds | MB read and written | limit | |\n|---|---|---|---|---|")
small_changes()
a_layer_on_ten_gib()
sys.exit(failed)
