"""Carries out a request once, even if it arrives several times with one Idempotency-Key.

The response is stored in the transaction of the change and returned to the same request for
24 hours, on every instance. A request that changed nothing stores nothing, and can be repeated.

The PIN or password of a repeated request is checked again before the stored response is returned,
as a counted attempt. If it is wrong by now, the refusal replaces the stored response, and the next
repetition is refused without being counted.
"""

import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.context import Context
from service.database.driver import Source
from service.database.statement import Statement
from service.errors import (
    KEY_OF_ANOTHER_REQUEST,
    ClientError,
    Overloaded,
    Sentence,
    invalid_idempotency_key,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import PRIVATE, Endpoint
from service.http.transaction import transaction

KEY_HEADER: Final = "idempotency-key"
KEY: Final = re.compile(r"[!-~]{1,64}")
MAX_KEYS: Final = 1000  # of an account


class FoundRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    digest: bytes | None
    status: int | None
    answer: str | None


class KeptRow(msgspec.Struct, frozen=True):
    is_kept: bool


FIND: Final = Statement("request_key_find", FoundRow)
KEEP: Final = Statement("request_key_keep", KeptRow)
REFUSE: Final = Statement("request_key_refuse", KeptRow)


class KeyUsed(ClientError):
    """The key was used for another request; rolls back this one."""


class Overtaken(Overloaded):
    """A copy of the request has stored its response first; rolls back this one."""


def repeatable(endpoint: Endpoint) -> Endpoint:
    """An endpoint that runs again, and finds the stored response, if a copy was faster."""

    @wraps(endpoint)
    async def again(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Overtaken:
            return await endpoint(request)
        except ClientError:
            # The change may be impossible only because the copy has already made it.
            once: RequestedOnce | None = getattr(request.state, "once", None)
            if once is None or not await once.is_overtaken():
                raise
            return await endpoint(request)

    return again


class RequestedOnce:
    """A request that is carried out once.

    Without a key it is an ordinary request: `effect` opens no transaction, nothing is stored.
    """

    def __init__(self, context: Context, account_id: UUID, key: str | None, body: object) -> None:
        self._context = context
        self._account_id = account_id
        self._has_key = key is not None
        self._stored_digest: bytes | None = None  # of the request that the key was used for
        self._stored_answer: bytes | None = None
        if key is None:
            return
        mark = blake2b(key.encode(), digest_size=16, key=account_id.bytes).digest()
        self._mark = UUID(bytes=mark)
        # Digests of this request by each secret; keyed, because there are only 10,000 PINs.
        message = b"request" + lenient_json.encode(body)
        secrets = (context.settings.jwt_secret, context.settings.jwt_secret_previous)
        self._digests = [hmac.digest(text.encode(), message, "sha256") for text in secrets if text]

    @property
    def is_used(self) -> bool:
        """Whether the key was used, for this request or for another."""
        return self._stored_digest is not None

    @property
    def is_repeated(self) -> bool:
        """Whether this request has been carried out already."""
        return self._stored_answer is not None

    async def read_stored(self, profile_id: UUID | None) -> None:
        """Reads the stored response; raises ClientError 401, 403, or the stored refusal.

        `require_same` raises 422 for the key of another request only after the PIN is checked. An
        earlier 422 would reveal that this PIN differs from the one of the stored request.
        """
        if not self._has_key:
            return
        row = auth.owned(await self._find(self._context.pool, profile_id))
        if row.status is None or row.answer is None:
            return
        self._stored_digest = row.digest
        if self._is_own(row.digest):
            if row.status >= 400:
                raise ClientError(Sentence(row.status, msgspec.json.decode(row.answer)["detail"]))
            self._stored_answer = row.answer.encode()

    async def is_overtaken(self) -> bool:
        """Whether a copy of the request has stored a response since `read_stored` found none."""
        if not self._has_key or self.is_used:
            return False
        return self._is_own(await self._find_digest(self._context.pool))

    async def _find(self, source: Source, profile_id: UUID | None) -> FoundRow | None:
        return await FIND.maybe(source, self._account_id, self._mark, profile_id)

    async def _find_digest(self, source: Source) -> bytes | None:
        row = await self._find(source, None)
        return None if row is None else row.digest

    def _is_own(self, digest: bytes | None) -> bool:
        return digest is not None and any(hmac.compare_digest(digest, d) for d in self._digests)

    def require_same(self) -> None:
        """Raises ClientError 422 if the key was used for another request."""
        if self.is_used and not self._is_own(self._stored_digest):
            raise KeyUsed(KEY_OF_ANOTHER_REQUEST)

    @asynccontextmanager
    async def effect(self) -> AsyncIterator[Source]:
        """Runs the statements that change something, and `keep`, in one transaction."""
        if not self._has_key:
            yield self._context.pool
            return
        async with transaction(self._context) as connection:
            yield connection

    async def keep(self, source: Source, status: int, answer: bytes) -> None:
        """Stores the response; raises Overtaken or KeyUsed if another request was faster."""
        if not self._has_key or self.is_repeated or await self._kept(source, status, answer):
            return
        digest = await self._find_digest(source)
        if digest is None or self._is_own(digest):
            raise Overtaken(1)
        raise KeyUsed(KEY_OF_ANOTHER_REQUEST)

    async def refuse(self, source: Source, refusal: ClientError) -> None:
        """Stores `refusal` as the response to a repetition of this request; raises Overtaken.

        A key of another request is left unchanged, because the counted attempt must not be undone.
        """
        if not self._has_key:
            return
        answer = lenient_json.encode({"detail": refusal.detail})
        if self.is_repeated:
            key = (self._account_id, self._mark, self._stored_digest)
            is_kept = await REFUSE.maybe(source, *key, refusal.status, answer.decode()) is not None
        else:
            is_kept = not self.is_used and await self._kept(source, refusal.status, answer)
        if is_kept:
            self._stored_digest = self._digests[0]
        elif self._is_own(await self._find_digest(source)):
            raise Overtaken(1)

    async def _kept(self, source: Source, status: int, answer: bytes) -> bool:
        key = (self._account_id, self._mark, self._digests[0])
        return await KEEP.maybe(source, *key, status, answer.decode(), MAX_KEYS) is not None

    async def answer(self, work: Callable[[Source], Awaitable[msgspec.Struct]]) -> Response:
        """As `outcome`, as a response."""
        return _response(await self.outcome(work))

    async def outcome(self, work: Callable[[Source], Awaitable[msgspec.Struct]]) -> bytes:
        """The stored response, or else that of `work`, which changes something.

        Raises ClientError 422 if the key was used for another request, and errors of `work`.
        """
        self.require_same()
        if self._stored_answer is not None:
            return self._stored_answer
        async with self.effect() as source:
            answer = lenient_json.encode(await work(source))
            await self.keep(source, 200, answer)
        return answer

    async def first_answer(self, answer: bytes) -> Response:
        """The stored response, or else `answer`, of work that can be done twice without harm."""
        try:
            await self.keep(self._context.pool, 200, answer)
        except KeyUsed:
            return _response(answer)  # the work was done before the key was found in use
        except Overtaken:
            await self.read_stored(None)
        return _response(self._stored_answer or answer)


def _response(answer: bytes) -> Response:
    return Response(answer, 200, PRIVATE, "application/json")


async def begin_once(
    request: Request, account_id: UUID, body: object, profile_id: UUID | None = None
) -> RequestedOnce:
    """Reads the key and its stored response; raises as `read_stored`, and FieldError."""
    key = request.headers.get(KEY_HEADER)
    if key is not None and not KEY.fullmatch(key):
        raise invalid_idempotency_key()
    route: Route = request.scope["route"]
    once = RequestedOnce(request.state.context, account_id, key, (route.path, body))
    await once.read_stored(profile_id)
    request.state.once = once
    return once
