"""What the platform publishes: the keys of a JWK set (RFC 7517), from a URL or a file."""

import contextlib
import socket
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any, Final
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import jwt
import msgspec
from jwt import PyJWK

from service.settings import Settings

# By key type and curve.
ALGORITHMS: Final = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
MIN_RSA_BITS: Final = 2048
MAX_KEYS: Final = 50
MAX_DOCUMENT_BYTES: Final = 256 * 1024
FETCH_SECONDS: Final = 5.0


class Jwk(msgspec.Struct, frozen=True, cache_hash=True, omit_defaults=True):
    """A published key; two with equal members are the same key."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: tuple[str, ...] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None
    d: str | None = None


class JwkSet(msgspec.Struct):
    keys: list[msgspec.Raw]


class Unreadable(Exception):
    """The published keys cannot be had; one sentence."""


def read_published(settings: Settings) -> dict[Jwk, PyJWK]:
    """The published keys that can be used; raises Unreadable. Blocks for seconds at worst."""
    try:
        if settings.jwt_jwks_url:
            document = _fetched(settings.jwt_jwks_url)
        else:
            with Path(settings.jwt_jwks_file).open("rb") as file:
                document = file.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    if len(document) > MAX_DOCUMENT_BYTES:
        raise Unreadable(f"it is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        members = msgspec.json.decode(document, type=JwkSet).keys
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"it is no JWK set: {error}") from error
    if len(members) > MAX_KEYS:
        raise Unreadable(f"it holds more than {MAX_KEYS} keys")
    published = dict(pair for member in members if (pair := _usable(member)) is not None)
    if not published:
        raise Unreadable(f"none of its {len(members)} keys is a public one for signatures")
    return published


def _usable(member: msgspec.Raw) -> tuple[Jwk, PyJWK] | None:
    """A key to verify signatures with; None for others, which a set may hold (RFC 7517, 5).

    A private key that was published vouches for nobody, and a short one for no longer.
    """
    try:
        jwk = msgspec.json.decode(member, type=Jwk)
        algorithm = ALGORITHMS.get((jwk.kty, jwk.crv))
        is_for_signatures = jwk.use in (None, "sig") and "verify" in (jwk.key_ops or ("verify",))
        if algorithm is None or jwk.alg not in (None, algorithm):
            return None
        if jwk.d is not None or not is_for_signatures:
            return None
        key = PyJWK(msgspec.to_builtins(jwk), algorithm)
    except (msgspec.DecodeError, jwt.PyJWTError):
        return None
    if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS:
        return None
    return jwk, key


class _NoRedirect(HTTPRedirectHandler):
    """A redirect could lead from an encrypted address to one that is not."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Brief(HTTPConnection):
    """A connection that is cut off after its time: the head of an answer may come a byte at a time.

    A time-out of the socket is that of one byte.
    """

    def connect(self) -> None:
        super().connect()
        _cut_off_later(self.sock)


class _BriefEncrypted(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _cut_off_later(self.sock)


class _Plain(HTTPHandler):
    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_Brief, request)


class _Encrypted(HTTPSHandler):
    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_BriefEncrypted, request)


def _cut_off_later(connected: socket.socket) -> None:
    def cut_off() -> None:
        with contextlib.suppress(OSError):  # it has ended by itself
            connected.shutdown(socket.SHUT_RDWR)

    timer = Timer(FETCH_SECONDS, cut_off)
    timer.daemon = True
    timer.start()


def _fetched(url: str) -> bytes:
    request = Request(url, headers={"Accept": "application/json"})  # noqa: S310 (http or https)
    document, deadline = b"", monotonic() + FETCH_SECONDS
    opener = build_opener(_NoRedirect, _Plain, _Encrypted)
    with opener.open(request, timeout=FETCH_SECONDS) as answer:
        while len(document) <= MAX_DOCUMENT_BYTES and (part := answer.read1(MAX_DOCUMENT_BYTES)):
            document += part
            if monotonic() > deadline:
                raise TimeoutError(f"not read in {FETCH_SECONDS:g} seconds")
    return document
