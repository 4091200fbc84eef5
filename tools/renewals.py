#!/usr/bin/env python3
"""renewals.py COLDPRESS [SECONDS]: a conversion of ten minutes with credentials that live for one.

A service of container credentials gives credentials that live 60 seconds; one renewal in three fails, and for 30 seconds the
service is away. An S3 server takes four objects a second and refuses credentials that have expired, as S3 does. The conversion must
end well, put every chunk, and ask for credentials at most twice a minute. All of it is on loopback.
"""
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

coldpress = os.path.abspath(sys.argv[1])
seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 600
LIFETIME = 60
# Objects a second: with 64 requests in flight, each waits for 16 seconds.
RATE = 4
AWAY = (seconds / 3, seconds / 3 + 30)
began = time.time()
lock, turn = threading.Lock(), threading.Lock()
asked, given, stored, refused = [], {}, {}, 0


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Credentials(Quiet):
    def do_GET(self):
        with lock:
            at = time.time() - began
            asked.append(at)
            if AWAY[0] <= at < AWAY[1] or len(asked) % 3 == 0:
                fails = True
            else:
                fails, name = False, f"AKID{len(asked)}"
                given[name] = time.time() + LIFETIME
        if fails:
            self.reply(500)
            return
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(given[name]))
        self.reply(200, json.dumps({"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": expiry}).encode())


class Store(Quiet):
    def do_PUT(self):
        global refused
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = re.search(r"Credential=([^/]+)/", self.headers["Authorization"]).group(1)
        if given.get(name, 0) < time.time():
            with lock:
                refused += 1
            self.reply(400, b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>", "application/xml")
            return
        with turn:
            time.sleep(1 / RATE)
        with lock:
            there = self.path in stored
            stored.setdefault(self.path, len(body))
        self.reply(412 if there else 200, b"<Error><Code>PreconditionFailed</Code></Error>" if there else b"", "application/xml")


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    with open("noise", "wb") as file:
        file.write(os.urandom(seconds * RATE * 512 * 1024))
    with tarfile.open("root.tar", "w") as tar:
        tar.add("noise")
    os.remove("noise")
    subprocess.run([coldpress, "keygen", "-q", "-o", "key"], check=True)
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{serve(Credentials)}/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-1",
        "HOME": work,
    }
    endpoint = f"http://127.0.0.1:{serve(Store)}"
    began = time.time()
    done = subprocess.run([coldpress, "convert", "tar:root.tar", "--store", "s3://bucket/p", "--store-endpoint", endpoint,
                           "--key", "file:key", "--no-cache", "-q", "-o", "app.cpm", "--json"], env=environment,
                          stdout=subprocess.PIPE, text=True)
    took = time.time() - began
    chunks = json.loads(done.stdout)["put_chunks"] if done.returncode == 0 else 0
    most = max(sum(1 for other in asked if at <= other < at + 60) for at in asked)
    print(f"{took:.0f} s, exit {done.returncode}, {chunks} chunks put, {len(stored)} objects; credentials were asked for "
          f"{len(asked)} times, at most {most} times in a minute; {refused} requests with expired credentials")
    if done.returncode != 0 or len(stored) < chunks or took < seconds or most > 2 or len(asked) > 2 * took / 60 + 1:
        sys.exit("renewals: that is not as it should be")
