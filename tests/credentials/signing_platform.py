"""A platform that signs tokens with its own keys and publishes them over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import cache
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from tests.eventually import eventually
from tests.family import EXPIRES

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private_key(algorithm: str, number: int = 0, bits: int = 2048) -> PrivateKey:
    """A key for an algorithm; each number has its own key."""
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, bits)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, key: Any, **members: Any) -> dict[str, Any]:
    """The JWK of a public or private key."""
    encoded: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(key, as_dict=True)
    return {**encoded, **members}


class Platform:
    """Published keys by id; `answer`, if set, is sent instead of them."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.keys: dict[str, tuple[str, PrivateKey]] = {}
        self.readings = 0
        self.answer: bytes | None = None
        self.status = "200 OK"
        self.headers = ""
        self.is_hanging = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def add(self, kid: str, algorithm: str = "ES256", number: int = 0) -> None:
        """Publishes a key."""
        self.keys[kid] = (algorithm, private_key(algorithm, number))

    def bearer(self, kid: str, account: UUID, **claims: Any) -> dict[str, str]:
        """The header with a token signed by a published key."""
        algorithm, key = self.keys[kid]
        claims = {"sub": str(account), "exp": EXPIRES, **claims}
        token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})
        return {"Authorization": f"Bearer {token}"}

    def document(self) -> bytes:
        """The JWK set."""
        published = [
            jwk(algorithm, key.public_key(), kid=kid, use="sig")
            for kid, (algorithm, key) in self.keys.items()
        ]
        return json.dumps({"keys": published}).encode()

    async def read_again(self, times: int = 2) -> None:
        """Waits until the document has been read `times` more times."""
        expected = self.readings + times
        await eventually(lambda: self.readings >= expected)

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request."""
        with closing(writer), suppress(EOFError, OSError):  # the client has gone
            await reader.readuntil(b"\r\n\r\n")
            self.readings += 1
            if self.is_hanging:
                await reader.read()  # until the client closes the connection
                return
            body = self.document() if self.answer is None else self.answer
            head = f"HTTP/1.1 {self.status}\r\n{self.headers}Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()


@asynccontextmanager
async def publishing(platform: Platform) -> AsyncIterator[Platform]:
    """Serves the keys of a platform on its port, or on a free one."""
    async with await asyncio.start_server(platform.reply, "127.0.0.1", platform.port) as server:
        platform.port = server.sockets[0].getsockname()[1]
        yield platform
