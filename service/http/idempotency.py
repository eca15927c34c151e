"""A request that comes twice with one Idempotency-Key is carried out once.

Its answer is stored in the transaction of what it changed and returned to the same request for
24 hours, on every instance. A request that changed nothing leaves nothing, and can be repeated.
Without the header nothing of this costs anything.

A stored answer proves nothing: a request with a PIN or a password is checked first, as a counted
attempt, also when it comes again. Only a wrong one that comes again is not counted again, since its
refusal is stored, in place of an answer from before the PIN was changed.
"""

import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.context import Context
from service.database.driver import Source, translated
from service.database.statement import Statement
from service.errors import (
    KEY_OF_ANOTHER_REQUEST,
    ClientError,
    Overloaded,
    Sentence,
    invalid_idempotency_key,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import PRIVATE

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]

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


class BegunRow(msgspec.Struct, frozen=True):
    idle_limit: str
    transaction_limit: str | None


BEGIN: Final = Statement("request_key_begin", BegunRow)
FIND: Final = Statement("request_key_find", FoundRow)
KEEP: Final = Statement("request_key_keep", KeptRow)
REFUSE: Final = Statement("request_key_refuse", KeptRow)


class KeyUsed(ClientError):
    """The key was used for another request; undoes what this one has changed."""

    def __init__(self) -> None:
        super().__init__(KEY_OF_ANOTHER_REQUEST)


class Overtaken(Overloaded):
    """A copy of the request has stored its answer meanwhile; undoes what this one has changed."""

    def __init__(self) -> None:
        super().__init__(1)


def repeatable(endpoint: Endpoint) -> Endpoint:
    """An endpoint that finds the answer of a copy of its request that was faster."""

    @wraps(endpoint)
    async def again(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Overtaken:
            return await endpoint(request)
        except ClientError:
            # What it asked for may be impossible for the very reason that its copy has done it.
            carried_out: Once | None = getattr(request.state, "once", None)
            if carried_out is None or not await carried_out.is_overtaken():
                raise
            return await endpoint(request)

    return again


class Once:
    """A request that is carried out once.

    Without a key it is an ordinary request: `effect` opens no transaction, nothing is stored.
    """

    def __init__(self, context: Context, account_id: UUID, key: str | None, asked: object) -> None:
        self._context = context
        self._account_id = account_id
        self._key = key
        self._asked = b"" if key is None else lenient_json.encode(asked)
        self._digest: bytes | None = None  # of the request that the key was used for
        self._answer: bytes | None = None

    @property
    def is_used(self) -> bool:
        """Whether the key was used, for this request or for another."""
        return self._digest is not None

    @property
    def is_repeated(self) -> bool:
        """Whether this request has been carried out already."""
        return self._answer is not None

    async def look(self, profile_id: UUID | None) -> None:
        """Looks for the answer; raises ClientError: 401, 403, a stored refusal of the same request.

        Another request with this key is refused with 422: by `require_same`, after the check of a
        PIN, since a 422 before it would tell a guesser that the PIN is not the one of the request
        that has been answered.
        """
        if self._key is None:
            return
        row = auth.owned(await self._found(self._context.pool, profile_id))
        if row.status is None or row.answer is None:
            return
        self._digest = row.digest
        if self._is_own(row.digest):
            if row.status >= 400:
                raise ClientError(Sentence(row.status, msgspec.json.decode(row.answer)["detail"]))
            self._answer = row.answer.encode()

    async def is_overtaken(self) -> bool:
        """Whether a copy of the request has stored an answer since `look` found none."""
        if self._key is None or self.is_used:
            return False
        return self._is_own(await self._stored(self._context.pool))

    async def _found(self, source: Source, profile_id: UUID | None) -> FoundRow | None:
        return await FIND.maybe(source, self._account_id, self._mark, profile_id)

    async def _stored(self, source: Source) -> bytes | None:
        """The digest of the request that the key was used for."""
        row = await self._found(source, None)
        return None if row is None else row.digest

    def _is_own(self, digest: bytes | None) -> bool:
        return digest is not None and any(
            hmac.compare_digest(digest, own) for own in self._digests()
        )

    def require_same(self) -> None:
        """Raises KeyUsed, a ClientError 422, where the key was used for another request."""
        if self.is_used and not self._is_own(self._digest):
            raise KeyUsed

    @asynccontextmanager
    async def effect(self) -> AsyncIterator[Source]:
        """Where the statements run that change something, and `keep`: all of them or none."""
        context = self._context
        if self._key is None:
            yield context.pool
            return
        most_ms = max(1, int(1000 * context.settings.request_timeout_seconds))
        with translated(context.pool):
            async with context.pool.acquire() as connection:
                with translated(connection):
                    async with connection.transaction():
                        await BEGIN.maybe(connection, most_ms)
                        yield connection

    async def keep(self, source: Source, status: int, answer: bytes) -> None:
        """Stores the answer; raises Overtaken, KeyUsed where another request was faster."""
        if self._key is None or self.is_repeated or await self._kept(source, status, answer):
            return
        digest = await self._stored(source)
        raise Overtaken if digest is None or self._is_own(digest) else KeyUsed

    async def refuse(self, source: Source, wrong: ClientError) -> None:
        """Stores `wrong` for the request when it comes again; raises Overtaken.

        The key of another request stays as it is: that is no reason to undo a verdict.
        """
        if self._key is None:
            return
        answer = lenient_json.encode({"detail": wrong.detail})
        if self.is_repeated:
            asked = (self._account_id, self._mark, self._digest, wrong.status, answer.decode())
            is_kept = await REFUSE.maybe(source, *asked) is not None
        else:
            is_kept = not self.is_used and await self._kept(source, wrong.status, answer)
        if is_kept:
            self._digest = next(self._digests())
        elif self._is_own(await self._stored(source)):
            raise Overtaken

    async def _kept(self, source: Source, status: int, answer: bytes) -> bool:
        digest = next(self._digests())
        asked = (self._account_id, self._mark, digest, status, answer.decode(), MAX_KEYS)
        return await KEEP.maybe(source, *asked) is not None

    async def answer(self, work: Callable[[Source], Awaitable[msgspec.Struct]]) -> Response:
        """The stored answer, else that of `work`, which changes something.

        Raises ClientError 422 where the key was used for another request, and what `work` raises.
        """
        self.require_same()
        if self._answer is not None:
            return _response(self._answer)
        async with self.effect() as source:
            answer = lenient_json.encode(await work(source))
            await self.keep(source, 200, answer)
        return _response(answer)

    async def first_answer(self, answer: bytes) -> Response:
        """The stored answer, else `answer`: to work that can be done twice without harm."""
        try:
            await self.keep(self._context.pool, 200, answer)
        except KeyUsed:
            return _response(answer)  # the work is done
        except Overtaken:
            await self.look(None)
        return _response(self._answer or answer)

    @property
    def _mark(self) -> UUID:
        key = (self._key or "").encode()
        return UUID(bytes=blake2b(key, digest_size=16, key=self._account_id.bytes).digest())

    def _digests(self) -> Iterator[bytes]:
        """The digest of this request by each secret; keyed, since a PIN has 10,000 values only."""
        settings = self._context.settings
        for secret in (settings.jwt_secret, settings.jwt_secret_previous):
            if secret:
                yield hmac.digest(secret.encode(), b"request" + self._asked, "sha256")


def _response(answer: bytes) -> Response:
    return Response(answer, 200, PRIVATE, "application/json")


async def once(
    request: Request, account_id: UUID, asked: object, profile_id: UUID | None = None
) -> Once:
    """The request of an account, looked for where it has an Idempotency-Key.

    `asked` is what it asks for, as it was read. Raises FieldError for a key that is not 1 to 64
    visible ASCII characters, and ClientError as `Once.look`.
    """
    key = request.headers.get(KEY_HEADER)
    if key is not None and not KEY.fullmatch(key):
        raise invalid_idempotency_key()
    route: Route = request.scope["route"]
    carried_out = Once(request.state.context, account_id, key, (route.path, asked))
    await carried_out.look(profile_id)
    request.state.once = carried_out
    return carried_out
