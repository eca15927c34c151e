"""Turns at the hasher: one request of an account at a time, and PINs before passwords."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from uuid import UUID

from service.errors import TOO_MANY_PIN_REQUESTS, ClientError

MAX_WAITING: Final = 5  # requests of an account with a PIN, and as many with a password


class _Account:
    """The queue of one account. Only one password at a time waits in it."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.password = asyncio.Lock()
        self.waiting = {"pin": 0, "password": 0}


class Turns:
    """The queues of the accounts that have requests.

    A child's device has the family's token, so it can send any number of requests. They delay no
    other account. A PIN waits for at most one password. The first waiting password waits for at
    most MAX_WAITING PINs.
    """

    def __init__(self) -> None:
        self._accounts: dict[UUID, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    @asynccontextmanager
    async def turn(self, account_id: UUID, *, is_password: bool = False) -> AsyncIterator[None]:
        """Waits for the account's turn; raises ClientError 429 if too many requests wait."""
        kind = "password" if is_password else "pin"
        account = self._accounts.setdefault(account_id, _Account())
        if account.waiting[kind] >= MAX_WAITING:
            raise ClientError(TOO_MANY_PIN_REQUESTS, {"Retry-After": "1"})
        account.waiting[kind] += 1
        try:
            async with AsyncExitStack() as locks:
                try:
                    if is_password:
                        await locks.enter_async_context(account.password)
                    await locks.enter_async_context(account.turn)
                finally:
                    account.waiting[kind] -= 1
                yield
        finally:
            if not (account.turn.locked() or any(account.waiting.values())):
                self._accounts.pop(account_id, None)
