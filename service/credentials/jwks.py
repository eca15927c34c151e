"""The keys that the platform publishes: a JWK set (RFC 7517), from a URL or a file."""

import asyncio
import ssl
from pathlib import Path
from typing import Final

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
    """A published key; keys with equal members are equal."""

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
    """The published keys cannot be read; the message is the reason."""


async def read_published(settings: Settings) -> dict[Jwk, PyJWK]:
    """The published keys that can verify signatures; raises Unreadable."""
    if settings.jwt_jwks_url:
        document = await _fetched(settings.jwt_jwks_url)
    else:
        document = await asyncio.to_thread(_content, Path(settings.jwt_jwks_file))
    return await asyncio.to_thread(_keys, document)


async def _fetched(url: str) -> bytes:
    """The document at a URL; redirects are errors, since one could lead to an unencrypted URL.

    The environment's proxies and the system's certificates apply.
    """
    import httpx  # takes 0.2 s to import, and only services with JWT_JWKS_URL need it

    # Without compression, a small response cannot become a large document.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    document = bytearray()
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            context = await asyncio.to_thread(ssl.create_default_context)  # takes 50 ms
            async with (
                httpx.AsyncClient(verify=context, timeout=None) as client,  # noqa: S113
                client.stream("GET", url, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise Unreadable(f"its URL responds with status {response.status_code}")
                async for part in response.aiter_raw():
                    document += part
                    if len(document) > MAX_DOCUMENT_BYTES:
                        break
                    await asyncio.sleep(0)  # one read can return ten thousand chunks
    except TimeoutError as error:
        raise Unreadable(f"its URL did not respond in {FETCH_SECONDS:g} seconds") from error
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
        # The last two: proxies of the environment that httpx cannot use.
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return bytes(document)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _keys(document: bytes) -> dict[Jwk, PyJWK]:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise Unreadable(f"it is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        members = msgspec.json.decode(document, type=JwkSet).keys
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"it is not a JWK set: {error}") from error
    if len(members) > MAX_KEYS:
        raise Unreadable(f"it holds more than {MAX_KEYS} keys")
    published = dict(pair for member in members if (pair := _usable(member)) is not None)
    if not published:
        raise Unreadable(f"none of its {len(members)} keys is a public one for signatures")
    return published


def _usable(member: msgspec.Raw) -> tuple[Jwk, PyJWK] | None:
    """A key that can verify signatures; None for the other keys of a set (RFC 7517, section 5).

    Rejects keys that contain private material, and RSA keys shorter than MIN_RSA_BITS.
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
