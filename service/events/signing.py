"""Signs deliveries as Standard Webhooks specifies it: HMAC-SHA256, version `v1`."""

import base64
import hmac
from collections.abc import Sequence


def signatures(keys: Sequence[bytes], webhook_id: str, timestamp: str, body: bytes) -> str:
    """The header `webhook-signature`: one signature with each key."""
    signed = b"%s.%s.%s" % (webhook_id.encode(), timestamp.encode(), body)
    digests = (hmac.digest(key, signed, "sha256") for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
