"""Reads that may be late: on the standby of DATABASE_READ_URL, else on the primary.

A standby never makes a request fail. If it fails, does not answer, or is no longer a standby, the
primary is asked instead. It is also asked before a refusal is answered, because an account or a
profile that was just created may not have arrived on the standby.
"""

import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec

from service.database.driver import AnyConnection, Pool
from service.database.pool import close_pool, open_pool
from service.database_errors import DatabaseError, Unavailable
from service.deadlines import DeadlinePassed, within
from service.errors import ClientError
from service.settings import Settings

logger = logging.getLogger("viewing_time.reads")

# After a failure all reads go to the primary for this long; then one read tries the standby.
STANDBY_PAUSE_SECONDS: Final = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class Reads:
    """Runs reads, and counts those for a standby by outcome.

    A standby has half of the time of a request, so that the primary has the other half.
    """

    def __init__(self, settings: Settings, primary: Pool, outcomes: Counter[str]) -> None:
        self._seconds = settings.request_timeout_seconds / 2
        self._settings = settings
        self._primary = primary
        self._standby: Pool | None = None
        self._outcomes = outcomes
        self._has_failed = False
        self._try_at = 0.0  # monotonic

    async def start(self) -> None:
        """Prepares the pool; opens no connection, so that a start never waits for a standby."""
        if self._settings.database_read_url:
            options = {"setup": _require_standby}
            size = self._settings.pool_max_size
            self._standby = await open_pool(of_standby(self._settings), (), 0, size, **options)

    async def stop(self) -> None:
        if self._standby is not None:
            await close_pool(self._standby, self._settings.shutdown_grace_seconds / 4)

    async def run(
        self,
        read: Callable[Concatenate[Pool, P], Coroutine[Any, Any, T]],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """The result of `read` with a pool and the arguments; `read` may run twice."""
        if self._standby is None:
            return await read(self._primary, *arguments, **options)
        if monotonic() < self._try_at:
            self._outcomes["skipped"] += 1
            return await read(self._primary, *arguments, **options)
        if self._has_failed:
            self._try_at = monotonic() + STANDBY_PAUSE_SECONDS
        try:
            found = await within(self._seconds, read(self._standby, *arguments, **options))
        except ClientError:
            self._answered("refused")
        except (DatabaseError, DeadlinePassed) as error:
            self._failed(error)
        else:
            self._answered("answered")
            return found
        return await read(self._primary, *arguments, **options)

    def _answered(self, outcome: str) -> None:
        self._outcomes[outcome] += 1
        self._try_at = 0.0
        if self._has_failed:
            self._has_failed = False
            logger.warning("standby_reads_again")

    def _failed(self, error: Exception) -> None:
        self._outcomes["failed"] += 1
        self._try_at = monotonic() + STANDBY_PAUSE_SECONDS
        if not self._has_failed:
            self._has_failed = True
            fields = {"error": f"{type(error).__name__}: {error}"}
            logger.warning("standby_failed", extra={"fields": fields})


def of_standby(settings: Settings) -> Settings:
    """The settings for a connection to a standby at DATABASE_READ_URL."""
    url = settings.database_read_url
    # The last parameter of a name counts.
    standby = f"{url}{'&' if '?' in url else '?'}target_session_attrs=standby"
    seconds = settings.request_timeout_seconds / 2
    # The standby of a Citus node has the cell itself, so the cell is not looked for.
    return msgspec.structs.replace(
        settings, database_url=standby, cells_citus_url="", request_timeout_seconds=seconds
    )


async def _require_standby(connection: AnyConnection) -> None:
    """Raises Unavailable on a connection whose server was promoted after it was opened.

    The server reports it since PostgreSQL 14, with the next result.
    """
    if getattr(connection.get_settings(), "in_hot_standby", "on") == "off":
        raise Unavailable("the server is no longer a standby")
