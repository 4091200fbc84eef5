"""azurite.py ENDPOINT KEY CONTAINER: makes a container in the emulator at ENDPOINT (http://HOST:PORT/ACCOUNT), signed with the account's
KEY as Azure's "Shared Key" has it."""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.request

ENDPOINT, KEY, CONTAINER = sys.argv[1:]
ACCOUNT = ENDPOINT.rsplit("/", 1)[1]
HEADERS = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
SIGNED = "\n".join(f"{name}:{value}" for name, value in sorted(HEADERS.items()))
TYPE = "application/octet-stream"
TEXT = "PUT" + "\n" * 5 + TYPE + "\n" * 7 + f"{SIGNED}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
SIGNATURE = base64.b64encode(hmac.new(base64.b64decode(KEY), TEXT.encode(), hashlib.sha256).digest()).decode()
HEADERS |= {"Authorization": f"SharedKey {ACCOUNT}:{SIGNATURE}", "Content-Length": "0", "Content-Type": TYPE}
urllib.request.urlopen(urllib.request.Request(f"{ENDPOINT}/{CONTAINER}?restype=container", b"", HEADERS, method="PUT")).read()
