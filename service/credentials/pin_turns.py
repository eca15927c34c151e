"""Turns at the hasher: one at a time for an account, and PINs before passwords."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from service.errors import TOO_MANY_PIN_REQUESTS, ClientError

MAX_WAITING: Final = 5  # of an account's PINs, and of its passwords
MAX_PASSED: Final = 5


class _Account:
    """The requests of one account that wait for the one that has its turn."""

    def __init__(self) -> None:
        self.pins: deque[asyncio.Future[None]] = deque()
        self.passwords: deque[asyncio.Future[None]] = deque()
        self._passed = 0

    def pop(self) -> asyncio.Future[None] | None:
        """The next to go: a PIN, unless MAX_PASSED of them have gone before a password."""
        if self.passwords and (not self.pins or self._passed >= MAX_PASSED):
            self._passed = 0
            return self.passwords.popleft()
        if self.pins:
            self._passed += bool(self.passwords)
            return self.pins.popleft()
        return None


class Turns:
    """The accounts that have requests, and for each the requests that wait.

    A child's device has the family's token, so it can send as many requests as it likes. No other
    account waits for them. A parent's PIN waits for one reset at most, and a reset for MAX_PASSED
    PINs.
    """

    def __init__(self) -> None:
        self._accounts: dict[UUID, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    @asynccontextmanager
    async def turn(self, account_id: UUID, *, is_password: bool = False) -> AsyncIterator[None]:
        """Waits for the account's turn; raises ClientError 429 where too many wait already."""
        account = self._accounts.get(account_id)
        if account is None:
            self._accounts[account_id] = _Account()
        else:
            await self._wait(account_id, account.passwords if is_password else account.pins)
        try:
            yield
        finally:
            self._pass_on(account_id)

    async def _wait(self, account_id: UUID, waiting: deque[asyncio.Future[None]]) -> None:
        if len(waiting) >= MAX_WAITING:
            raise ClientError(TOO_MANY_PIN_REQUESTS, {"Retry-After": "1"})
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                if turn in waiting:
                    waiting.remove(turn)
            else:  # it came in the same moment
                self._pass_on(account_id)
            raise

    def _pass_on(self, account_id: UUID) -> None:
        """Gives the turn to the next request; one that was cancelled is left out."""
        account = self._accounts[account_id]
        while (turn := account.pop()) is not None:
            if not turn.done():
                turn.set_result(None)
                return
        del self._accounts[account_id]
