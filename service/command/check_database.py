"""Checks everything that the service needs of its database: a finding for each subject."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec

from service.database import cures, in_force, schema, storage, tables
from service.database.cells import check_name
from service.database.driver import Connection
from service.database.pool import connect, reach
from service.database.reads import of_standby
from service.database.statement import Statement
from service.database_errors import DatabaseError, WrongTables
from service.settings import Settings
from service.viewing import config_loader

logger = logging.getLogger("viewing_time.check")

VERSIONS: Final = (13, 18)
SKEW_WARN_SECONDS: Final = 1.0
# The length of one heartbeat: beyond it, two machines disagree about the counted seconds.
SKEW_FAULT_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 10.0


class ServerRow(msgspec.Struct, frozen=True):
    version: int
    clock: datetime
    is_standby: bool
    connections_most: int
    connections_elsewhere: int


SERVER: Final = Statement("check_server", ServerRow)


class Finding(msgspec.Struct, frozen=True):
    """A sentence about one subject, and a remedy unless it is ok."""

    level: Literal["ok", "warn", "FAULT"]
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<5} {self.text}" + (f": {self.remedy}" if self.remedy else "")


Findings = Iterator[Finding]


async def database(
    settings: Settings, instances: int, now: Callable[[], datetime], cells: int = 1
) -> list[Finding]:
    """The findings about the database of `settings`, which `instances` share.

    `cells` are on its server.
    """
    try:
        connection = await connect(settings)
    except WrongTables as error:
        return _wrong_tables(error)
    except DatabaseError as error:
        remedy = cures.cure(error) or cures.UNREACHED
        return [Finding("FAULT", f"database cannot be reached ({_reason(error)})", remedy)]
    try:
        sent_at = now()
        server = await SERVER.one(connection, timeout=ANSWER_SECONDS)
        middle = sent_at + (now() - sent_at) / 2
        found = await in_force.problems(connection, settings)
        missing = await tables.missing_rights(connection)
        if not (settings.cell or missing):
            await check_name(connection, "")
        return [
            *_version(server),
            *_findings(found, "settings of the connection are correct"),
            *await _schema(connection),
            *_findings(missing, "the role has all rights that the service needs"),
            *_clock((server.clock - middle).total_seconds()),
            *_connections(settings, server, instances, cells),
            *await _listening(settings),
            *await _reading(settings),
        ]
    except WrongTables as error:
        return _wrong_tables(error)
    except DatabaseError as error:
        remedy = cures.cure(error) or "read the server's log"
        return [Finding("FAULT", f"database does not answer ({_reason(error)})", remedy)]
    finally:
        connection.terminate()


def _wrong_tables(error: WrongTables) -> list[Finding]:
    text, _, remedy = str(error).partition(": ")
    return [Finding("FAULT", text, remedy)]


async def startup_error(settings: Settings) -> str:
    """The error that stops the service from serving, with its remedy; empty if there is none."""
    connection = await connect(settings)
    try:
        found = await in_force.problems(connection, settings)
        if refusal := _first_refusal("database_setting", found):
            return refusal
        state = await schema.state(connection)
        if state.error:
            return f"{state.error}: {state.remedy}"
        if not settings.cell:
            await check_name(connection, "")
        return _first_refusal("database_table", await tables.problems(connection))
    finally:
        connection.terminate()


def _first_refusal(event: str, found: list[cures.Problem]) -> str:
    """The first finding that stops the service from starting; the others are logged."""
    for problem in found:
        if problem.level == "refuse":
            return f"{problem.text}: {problem.remedy}"
        fields = {"what": problem.text, "remedy": problem.remedy}
        logger.warning(event, extra={"fields": fields})
    return ""


def _version(server: ServerRow) -> Findings:
    major = server.version // 10_000
    text = f"database is PostgreSQL {major}.{server.version % 10_000}"
    if server.is_standby:
        remedy = "point DATABASE_URL at the primary"
        yield Finding("FAULT", f"{text}, a standby that only reads", remedy)
    elif major < VERSIONS[0]:
        yield Finding("FAULT", text, f"upgrade it to {VERSIONS[0]} or later")
    elif major > VERSIONS[1]:
        yield Finding("warn", text, f"{VERSIONS[0]} to {VERSIONS[1]} are tested; try a copy first")
    else:
        yield Finding("ok", text)


def _findings(found: list[cures.Problem], otherwise: str) -> list[Finding]:
    """A finding for each problem; `otherwise` if there is none."""
    return [
        Finding("warn" if one.level == "warn" else "FAULT", one.text, one.remedy) for one in found
    ] or [Finding("ok", otherwise)]


async def _schema(connection: Connection) -> list[Finding]:
    state = await schema.state(connection)
    if state.error:
        return [Finding("FAULT", state.error, state.remedy)]
    found = await tables.problems(connection)
    return [
        *_migrations(state),
        *_findings(found, "tables allow reading and writing all rows"),
        *_findings(await storage.problems(connection), "tables of heartbeats are stored well"),
    ]


def _migrations(state: schema.State) -> list[Finding]:
    count = len(schema.ours())
    if state.unknown:
        text = f"migrations: {state.unknown[-1]} belongs to another version"
        return [Finding("warn", text, "run the version that migrated the database, or a later one")]
    if not state.is_readable:
        return [Finding("ok", "migrations: all tables exist; the role may not read more")]
    return [Finding("ok", f"migrations: all {count} are applied")]


def _clock(skew: float) -> Findings:
    """`skew` is the server's clock minus ours, in seconds."""
    level: Literal["ok", "warn", "FAULT"] = "ok"
    if abs(skew) > SKEW_WARN_SECONDS:
        level = "FAULT" if abs(skew) > SKEW_FAULT_SECONDS else "warn"
    text = f"clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the database's"
    yield Finding(level, text, "" if level == "ok" else "synchronize both by NTP")


def connections(settings: Settings) -> int:
    """The most connections that one process opens."""
    # Also one each to listen, for readiness checks, events, an import and background deletions.
    others = config_loader.CONNECTIONS + 5 + bool(settings.webhook_url)
    others += 3 * bool(settings.retention_interval_hours)
    return settings.pool_max_size + settings.heartbeat_connections + others


def _connections(settings: Settings, server: ServerRow, instances: int, cells: int) -> Findings:
    if settings.statement_cache_size == 0:
        yield Finding("ok", "connections are limited by the pooler (STATEMENT_CACHE_SIZE=0)")
        return
    each, maximum = connections(settings), server.connections_most
    processes = settings.web_concurrency
    needed, free = each * processes * instances * cells, maximum - server.connections_elsewhere
    factors = f"{instances} x {each}" if processes == 1 else f"{instances} x {processes} x {each}"
    if cells > 1:
        factors = f"{cells} cells x {factors}"
    text = f"connections: {factors}, of {maximum} that the server allows"
    lower = "POOL_MAX_SIZE" if processes == 1 else "POOL_MAX_SIZE or WEB_CONCURRENCY"
    remedy = f"lower {lower}, raise max_connections, or put a pooler between"
    if needed > maximum:
        yield Finding("FAULT", text, remedy)
    elif needed > free:
        others = f", of which other clients use {server.connections_elsewhere}"
        yield Finding("warn", text + others, remedy)
    else:
        yield Finding("ok", text)


async def _listening(settings: Settings) -> list[Finding]:
    if settings.database_direct_url:
        await reach(settings, direct=True)
        return [Finding("ok", "database can be reached at DATABASE_DIRECT_URL too")]
    if settings.statement_cache_size == 0:
        text = "changes made by other instances are not received through a pooler"
        return [Finding("warn", text, "set DATABASE_DIRECT_URL to the server's own address")]
    return []


async def _reading(settings: Settings) -> list[Finding]:
    if not settings.database_read_url:
        return []
    try:
        await reach(of_standby(settings))
    except DatabaseError as error:
        text = f"no standby can be read at DATABASE_READ_URL ({_reason(error)})"
        return [Finding("warn", text, "start a standby there; until then the primary is read")]
    return [Finding("ok", "a standby can be read at DATABASE_READ_URL")]


def _reason(error: DatabaseError) -> str:
    first = error.__cause__ or error
    return " ".join(f"{type(first).__name__}: {first}".split()).rstrip(".: ")
