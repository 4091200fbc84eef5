#!/usr/bin/env python3
"""token_server.py PORT KEY CERTIFICATE USER PASSWORD: a token service for a registry, as the distribution specification describes it.

Gives anyone a token that pulls, and one that pushes to USER with PASSWORD. For tests, on loopback.
"""
import base64
import http.server
import json
import sys
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

port, key_path, certificate_path, user, password = sys.argv[1:]
with open(key_path, "rb") as file:
    key = serialization.load_pem_private_key(file.read(), None)
with open(certificate_path, "rb") as file:
    certificate = x509.load_pem_x509_certificate(file.read())


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(service: str, who: str, access: list) -> str:
    der = certificate.public_bytes(serialization.Encoding.DER)
    header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    claims = {"iss": "test", "sub": who, "aud": service, "nbf": now - 10, "iat": now, "exp": now + 300, "jti": str(now),
              "access": access}
    text = encode(json.dumps(header).encode()) + "." + encode(json.dumps(claims).encode())
    return text + "." + encode(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        given = self.headers.get("Authorization", "")
        wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if given and given != wanted:
            self.send_error(401)
            return
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.rsplit(":", 2)[0].split(":", 1)[0], scope.split(":", 1)[1].rsplit(":", 1)[0], scope.rsplit(":", 1)[1]
            allowed = [action for action in actions.split(",") if action == "pull" or given]
            access.append({"type": kind, "name": name, "actions": allowed})
        body = json.dumps({"token": token(query["service"][0], user if given else "", access), "expires_in": 300}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
