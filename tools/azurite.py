"""azurite.py ENDPOINT KEY CONTAINER [RIGHTS…]: makes a container in the emulator at ENDPOINT (http://HOST:PORT/ACCOUNT), signed with the
account's KEY as Azure's "Shared Key" has it. Prints a shared access signature of the container for each RIGHTS (letters of `sp`), a line each."""

import base64
import datetime
import email.utils
import hashlib
import hmac
import sys
import urllib.error
import urllib.parse
import urllib.request

ENDPOINT, KEY, CONTAINER, *RIGHTS = sys.argv[1:]
ACCOUNT = ENDPOINT.rsplit("/", 1)[1]


def sign(text):
    return base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()


def make_container():
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "\n".join(f"{name}:{value}" for name, value in sorted(headers.items()))
    media = "application/octet-stream"
    text = "PUT" + "\n" * 5 + media + "\n" * 7 + f"{signed}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{sign(text)}", "Content-Length": "0", "Content-Type": media}
    request = urllib.request.Request(f"{ENDPOINT}/{CONTAINER}?restype=container", b"", headers, method="PUT")
    try:
        urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # It is there.
            raise


def signature(rights):
    """A service signature of the container: "Create a service SAS", version 2020-12-06."""
    version, protocol = "2020-12-06", "https,http"
    expiry = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    parts = [rights, "", expiry, f"/blob/{ACCOUNT}/{CONTAINER}", "", "", protocol, version, "c", "", "", "", "", "", "", ""]
    fields = {"sp": rights, "se": expiry, "spr": protocol, "sv": version, "sr": "c", "sig": sign("\n".join(parts))}
    return urllib.parse.urlencode(fields)


make_container()
for rights in RIGHTS:
    print(signature(rights))
