"""The keys that verify access tokens: our secrets, and the keys that the platform publishes.

The published set (RFC 7517) is read at start and then regularly in the background; a reading that
fails changes no key. Each key verifies its own algorithm only. A token's header selects among the
keys, but not the algorithm, so a public key is never used as a secret.
"""

import asyncio
import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import jwt
import msgspec
from jwt import PyJWK

from service.credentials.jwks import ALGORITHMS, FETCH_SECONDS, Jwk, Unreadable, read_published
from service.credentials.tokens import Tokens
from service.observing.supervision import stopped, supervised
from service.settings import Settings

logger = logging.getLogger("viewing_time.keys")

WAIT_SECONDS: Final = 2.0
UNKNOWN_KEY_SECONDS: Final = 60.0
RETRY_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
MAX_TOKEN_BYTES: Final = 8 * 1024


class JoseHeader(msgspec.Struct, frozen=True):
    """The members of a token's header that select its key; not verified."""

    alg: str | None = None
    kid: str | None = None


HEADER: Final = msgspec.json.Decoder(JoseHeader)


class Signed(msgspec.Struct, frozen=True):
    """The claims of a token, and the published key that signed it; None if it was a secret."""

    claims: dict[str, Any]
    signer: Jwk | None


class UnknownKey(jwt.InvalidTokenError):
    """The token names a key that may have been published since the last reading."""


class NoKey(jwt.InvalidSignatureError):
    """The token names a key that does not exist."""


class TooLong(jwt.InvalidTokenError):
    """A token of more than MAX_TOKEN_BYTES."""


class Keys:
    """The keys of one process. When a key is withdrawn, the tokens it signed leave the cache.

    `tokens` is that cache. `published` are the keys of the latest successful reading, `reading` is
    the latest reading.
    """

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self._settings = settings
        self._tokens = tokens
        secrets = (settings.jwt_secret, settings.jwt_secret_previous)
        self._secrets = [(None, _secret(text)) for text in secrets if text]
        self.published: dict[Jwk, PyJWK] = {}
        self.reading: asyncio.Task[bool] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._unknown_key_read_at = -UNKNOWN_KEY_SECONDS

    async def start(self) -> None:
        """Reads the published keys, if they are configured; waits at most 5 seconds."""
        if self._settings.jwt_jwks_url or self._settings.jwt_jwks_file:
            self._keeper = supervised("published keys", self._keep_reading())
            await asyncio.wait({self.read()}, timeout=FETCH_SECONDS)

    async def stop(self) -> None:
        await stopped(self._keeper, self.reading)

    def own(self, token: str) -> dict[str, Any]:
        """The claims of a token signed with a secret; raises jwt.InvalidTokenError."""
        return _signed(token, _header(token), self._secrets).claims

    async def signed(self, token: str) -> Signed:
        """The claims of a token signed with any key; raises jwt.InvalidTokenError.

        For an unknown key it waits at most 2 seconds for the current reading. That may have begun
        before the key was published, so at most once a minute it also waits for another reading.
        """
        header = _header(token)
        while True:
            try:
                return self._signed(token, header)
            except UnknownKey:
                if not await self._read_for_unknown_key():
                    return self._signed(token, header)

    def _signed(self, token: str, header: JoseHeader) -> Signed:
        try:
            return _signed(token, header, [*self._secrets, *self.published.items()])
        except jwt.InvalidSignatureError:
            kids = {jwk.kid for jwk in self.published} - {None}
            if self._keeper is None or header.alg not in ALGORITHMS.values():
                raise
            if header.kid in kids:
                raise
            raise UnknownKey from None

    async def _read_for_unknown_key(self) -> bool:
        """Waits for a reading; returns whether another one may find a newer key."""
        reading = self.reading
        if reading is not None and not reading.done():
            await asyncio.wait({reading}, timeout=WAIT_SECONDS / 2)
            return reading.done() and reading.result()
        now = monotonic()
        if now - self._unknown_key_read_at >= UNKNOWN_KEY_SECONDS:
            self._unknown_key_read_at = now
            await asyncio.wait({self.read()}, timeout=WAIT_SECONDS / 2)
        return False

    async def _keep_reading(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self.read() else failures + 1
            pause = self._settings.jwt_jwks_refresh_seconds
            if failures:
                pause = min(pause, RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1])
            await asyncio.sleep(pause)

    def read(self) -> asyncio.Task[bool]:
        """The current reading, or a new one; its result is whether it succeeded."""
        if self.reading is None or self.reading.done():
            self.reading = supervised("reading of published keys", self._adopt_published())
        return self.reading

    async def _adopt_published(self) -> bool:
        try:
            published = await read_published(self._settings)
        except Exception as error:
            fields = {"error": str(error), "keys_kept": len(self.published)}
            unexpected = None if isinstance(error, Unreadable) else error
            logger.warning("jwks_unreadable", extra={"fields": fields}, exc_info=unexpected)
            return False
        removed = self.published.keys() - published.keys()
        if published.keys() != self.published.keys():
            fields = {"kids": [jwk.kid for jwk in published], "removed": len(removed)}
            logger.info("jwks_changed", extra={"fields": fields})
        self.published = published
        if removed:
            self._tokens.withdraw(removed)
        return True


def _header(token: str) -> JoseHeader:
    """The unverified header of a token; raises jwt.InvalidTokenError."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TooLong("The token is too long")
    try:
        return HEADER.decode(_bytes(token.partition(".")[0]))
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise jwt.DecodeError("The header cannot be read") from error


def _signed(token: str, header: JoseHeader, keys: Iterable[tuple[Jwk | None, PyJWK]]) -> Signed:
    """The claims of a token that one of the keys signed; raises jwt.InvalidTokenError.

    Verifies the signature first, because any client can send JSON that takes long to parse.
    """
    signed, _, encoded = token.rpartition(".")
    try:
        message, signature = signed.encode(), _bytes(encoded)
    except ValueError as error:
        raise jwt.DecodeError("The signature cannot be read") from error
    has_key = False
    for jwk, key in keys:
        kid = jwk.kid if jwk is not None else None
        if header.alg == key.algorithm_name and (header.kid is None or kid in (None, header.kid)):
            has_key = True
            if key.Algorithm.verify(message, key.key, signature):
                return Signed(_claims(token, key.algorithm_name), jwk)
    raise (jwt.InvalidSignatureError if has_key else NoKey)("No key verifies this token")


def _bytes(encoded: str) -> bytes:
    """Decodes base64url without padding, leniently; `_claims` is strict after the signature."""
    return urlsafe_b64decode(encoded + "==")


def _claims(token: str, algorithm: str) -> dict[str, Any]:
    """The claims of a token whose signature is right; raises jwt.InvalidTokenError.

    Rejects what `jwt.decode` rejects, which would verify the signature a second time. `http/auth`
    checks the claims, because it has the clock and the settings.
    """
    encoded_header, _, rest = token.partition(".")
    encoded_claims, _, encoded_signature = rest.rpartition(".")
    try:
        header = json.loads(_strictly_decoded(encoded_header))
        claims = json.loads(_strictly_decoded(encoded_claims))
        _strictly_decoded(encoded_signature)
    except (ValueError, RecursionError) as error:
        raise jwt.DecodeError("The token cannot be read") from error
    if not (isinstance(header, dict) and isinstance(claims, dict)):
        raise jwt.DecodeError("The token has a part that is not an object")
    if "crit" in header or "b64" in header:
        jwt.get_unverified_header(token)  # raises an error for extensions that PyJWT rejects
    if header.get("alg") != algorithm or not isinstance(header.get("kid", ""), str):
        raise jwt.InvalidTokenError("The header has a member of the wrong type")
    return claims


def _strictly_decoded(encoded: str) -> bytes:
    """Decodes base64url with the right padding or none; raises ValueError for other spellings."""
    unpadded = encoded.rstrip("=")
    padding = len(encoded) - len(unpadded)
    decoded = _bytes(unpadded)
    is_padded = padding == 0 or (padding <= 2 and len(encoded) % 4 == 0)
    if not is_padded or urlsafe_b64encode(decoded).rstrip(b"=") != unpadded.encode():
        raise ValueError("not base64url, or not as an encoder writes it")
    return decoded


def _secret(text: str) -> PyJWK:
    encoded = urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    return PyJWK({"kty": "oct", "k": encoded}, "HS256")
