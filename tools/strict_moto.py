"""strict_moto.py PORT: a moto server on loopback that enforces policies for the key that a request of KMS names.

moto itself asks whether KMS requests are allowed for `*`, so that the printed policies, which name one key, would allow nothing."""

import sys

from moto.kms.responses import KmsResponse
from moto.server import main


def key_of(request):
    """Returns the ARN of the key that a request is about; `*` for requests about none, such as CreateKey."""
    named = request._get_param("KeyId") or request._get_param("TargetKeyId")
    if not named:
        blob = request._get_param("CiphertextBlob")
        # moto's blobs begin with the id of their key.
        named = blob[:36].decode() if blob else None
    if not named:
        return "*"
    key = request.kms_backend.keys.get(request.kms_backend.any_id_to_key_id(named))
    return key.arn if key else "*"


KmsResponse._determine_resource = key_of
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
