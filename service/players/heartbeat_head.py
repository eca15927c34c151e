"""The headers of a heartbeat, and its idempotency key."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple
from uuid import UUID

from service.errors import invalid_idempotency_key
from service.http import lenient_json
from service.http.decided import has_preference
from service.players.heartbeat_body import HeartbeatBody

KEY: Final = re.compile(rb"[\x21-\x7e]{1,64}")


class Head(NamedTuple):
    """The headers of a request that a heartbeat uses; `prefers_decision` is from `Prefer`.

    A request with `Origin` comes from a browser.
    """

    authorization: str | None
    content_type: str | None
    key: bytes | None
    request_id: bytes | None
    traceparent: bytes | None
    prefers_decision: bool
    has_origin: bool


def read_head(headers: Sequence[tuple[bytes, bytes]]) -> Head:
    """Reads the headers; the first of a repeated header counts."""
    first = dict(reversed(headers))
    authorization = first.get(b"authorization")
    content_type = first.get(b"content-type")
    prefers_decision = False
    if b"prefer" in first:
        preferences = b",".join(value for name, value in headers if name == b"prefer")
        prefers_decision = has_preference(preferences.decode("latin-1"))
    return Head(
        None if authorization is None else authorization.decode("latin-1"),
        None if content_type is None else content_type.decode("latin-1"),
        first.get(b"idempotency-key"),
        first.get(b"x-request-id"),
        first.get(b"traceparent"),
        prefers_decision,
        b"origin" in first,
    )


class KeyHash(NamedTuple):
    """An idempotency key: the session that its beat may start, and the bytes to store."""

    session_id: UUID
    stored: bytes


def key_hash(body: HeartbeatBody, key: bytes) -> KeyHash:
    """Hashes an idempotency key; raises FieldError if it is not 1 to 64 visible ASCII characters.

    The id is derived from the key and the profile, so a repeated first beat finds its session
    although its player never received the id. The stored bytes are 8 of the key's hash and 2 of the
    request's. The latter hash excludes the session, because a player may repeat its first beat
    after it has received the id.
    """
    if not KEY.fullmatch(key):
        raise invalid_idempotency_key()
    digest = blake2b(key, digest_size=16, key=body.profile_id.bytes).digest()
    request = (body.title_id, body.device_id, body.device_type, body.is_paused)
    of_request = blake2b(lenient_json.encode(request), digest_size=2).digest()
    return KeyHash(UUID(bytes=digest, version=4), digest[:8] + of_request)
