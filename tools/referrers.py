#!/usr/bin/env python3
"""referrers.py PORT UPSTREAM: a registry with the referrers API, made of one without (HOST:PORT): it remembers what manifests are put
with a subject, and tells of them one a page, as the OCI distribution specification has it. For tests, on loopback.
"""
import hashlib
import http.client
import http.server
import json
import sys
import urllib.parse

port, upstream = sys.argv[1:]
referrers: dict[str, list] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, headers, body):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), len(body))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, subject, query):
        wanted = query.get("artifactType", [None])[0]
        all_there = [entry for entry in referrers.get(subject, []) if wanted in (None, entry["artifactType"])]
        page = int(query.get("page", ["0"])[0])
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": all_there[page:page + 1]}
        headers = [("Content-Type", index["mediaType"]), ("OCI-Filters-Applied", "artifactType")]
        if page + 1 < len(all_there):
            query["page"] = [str(page + 1)]
            path = urllib.parse.urlparse(self.path).path
            headers.append(("Link", f'<{path}?{urllib.parse.urlencode(query, doseq=True)}>; rel="next"'))
        self.answer(200, headers, json.dumps(index).encode())

    def pass_on(self):
        url = urllib.parse.urlparse(self.path)
        if self.command == "GET" and "/referrers/" in url.path:
            self.tell(url.path.rsplit("/", 1)[1], urllib.parse.parse_qs(url.query))
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(upstream)
        # With the same Host, so that uploads go on here.
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        headers, answer = response.getheaders(), response.read()
        if self.command == "PUT" and "/manifests/" in url.path and response.status == 201:
            manifest = json.loads(body)
            if subject := manifest.get("subject"):
                entry = {
                    "mediaType": self.headers["Content-Type"], "digest": "sha256:" + hashlib.sha256(body).hexdigest(),
                    "size": len(body), "artifactType": manifest.get("artifactType"), "annotations": manifest.get("annotations", {}),
                }
                known = referrers.setdefault(subject["digest"], [])
                if entry not in known:
                    known.append(entry)
                headers.append(("OCI-Subject", subject["digest"]))
        self.answer(response.status, headers, answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = pass_on

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
