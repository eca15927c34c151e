"""What would keep the service from working with its database: one finding a subject."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec

from service.database import cures, in_force, schema, tables
from service.database.driver import Connection
from service.database.pool import connect, reach
from service.database.statement import Statement
from service.errors import DatabaseError
from service.settings import Settings
from service.viewing import config_loader

VERSIONS: Final = (13, 18)
SKEW_WARN_SECONDS: Final = 1.0
# One heartbeat: beyond it, two machines disagree about what has been counted.
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
    """What was found out about one subject; `remedy` says what to do where it is not ok."""

    level: Literal["ok", "warn", "FAULT"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<5} {self.what}" + (f": {self.remedy}" if self.remedy else "")


Findings = Iterator[Finding]


async def database(chosen: Settings, instances: int, now: Callable[[], datetime]) -> list[Finding]:
    try:
        connection = await connect(chosen)
    except DatabaseError as error:
        remedy = cures.cure(error) or (
            "check DATABASE_URL, and that the server runs and lets this machine in"
        )
        return [Finding("FAULT", f"database cannot be reached ({_reason(error)})", remedy)]
    try:
        asked = now()
        server = await SERVER.one(connection, timeout=ANSWER_SECONDS)
        middle = asked + (now() - asked) / 2
        return [
            *_version(server),
            *await _in_force(connection, chosen),
            *await _schema(connection),
            *await _rights(connection),
            *_clock((server.clock - middle).total_seconds()),
            *_connections(chosen, server, instances),
            *await _listening(chosen),
        ]
    except DatabaseError as error:
        remedy = cures.cure(error) or "look into the server's log"
        return [Finding("FAULT", f"database does not answer ({_reason(error)})", remedy)]
    finally:
        connection.terminate()


def _version(server: ServerRow) -> Findings:
    major = server.version // 10_000
    what = f"database is PostgreSQL {major}.{server.version % 10_000}"
    if server.is_standby:
        remedy = "point DATABASE_URL at the primary"
        yield Finding("FAULT", f"{what}, a standby that only reads", remedy)
    elif major < VERSIONS[0]:
        yield Finding("FAULT", what, f"upgrade it to {VERSIONS[0]} or later")
    elif major > VERSIONS[1]:
        yield Finding("warn", what, f"tested are {VERSIONS[0]} to {VERSIONS[1]}; try a copy first")
    else:
        yield Finding("ok", what)


async def _in_force(connection: Connection, chosen: Settings) -> list[Finding]:
    wrong = await in_force.problems(connection, chosen)
    return _wrong(wrong, "settings of the connection are as they must be")


def _wrong(found: list[cures.Problem], otherwise: str) -> list[Finding]:
    """A finding for each; one that says `otherwise` where there is nothing wrong."""
    return [
        Finding("warn" if one.level == "warn" else "FAULT", one.what, one.remedy) for one in found
    ] or [Finding("ok", otherwise)]


async def _rights(connection: Connection) -> list[Finding]:
    wrong = await tables.missing_rights(connection)
    return _wrong(wrong, "the role has the rights that the service needs")


async def _schema(connection: Connection) -> list[Finding]:
    state = await schema.state(connection)
    if state.error:
        return [Finding("FAULT", state.error, state.remedy)]
    wrong = await tables.problems(connection)
    return [*_migrations(state), *_wrong(wrong, "tables let the service read and write its rows")]


def _migrations(state: schema.State) -> list[Finding]:
    count = len(schema.ours())
    if state.unknown:
        what = f"migrations: {state.unknown[-1]} is not of this version"
        return [Finding("warn", what, "run the version that migrated the database, or a later one")]
    if not state.is_readable:
        return [Finding("ok", "migrations: all tables are there; the role may not read more")]
    return [Finding("ok", f"migrations: all {count} are applied")]


def _clock(skew: float) -> Findings:
    """`skew` is in seconds, the server's clock less ours."""
    level: Literal["ok", "warn", "FAULT"] = "ok"
    if abs(skew) > SKEW_WARN_SECONDS:
        level = "FAULT" if abs(skew) > SKEW_FAULT_SECONDS else "warn"
    what = f"clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the database's"
    yield Finding(level, what, "" if level == "ok" else "keep both in time by NTP")


def connections(chosen: Settings) -> int:
    """How many connections an instance holds at most.

    Beside the pool's and the heartbeats': those that load configurations, one that listens, one
    that looks whether the database is there, one for an import, one for deletions in the
    background, two for retention.
    """
    others = config_loader.CONNECTIONS + 4 + 2 * bool(chosen.retention_interval_hours)
    return chosen.pool_max_size + chosen.heartbeat_connections + others


def _connections(chosen: Settings, server: ServerRow, instances: int) -> Findings:
    if chosen.statement_cache_size == 0:
        yield Finding("ok", "connections are a pooler's to limit (STATEMENT_CACHE_SIZE=0)")
        return
    each, most = connections(chosen), server.connections_most
    wanted, free = each * instances, most - server.connections_elsewhere
    what = f"connections: {instances} x {each}, of {most} that the server allows"
    remedy = "lower POOL_MAX_SIZE, raise max_connections, or put a pooler between"
    if wanted > most:
        yield Finding("FAULT", what, remedy)
    elif wanted > free:
        others = f", of which others hold {server.connections_elsewhere}"
        yield Finding("warn", what + others, remedy)
    else:
        yield Finding("ok", what)


async def _listening(chosen: Settings) -> list[Finding]:
    if chosen.database_direct_url:
        await reach(chosen, direct=True)
        return [Finding("ok", "database can be reached at DATABASE_DIRECT_URL too")]
    if chosen.statement_cache_size == 0:
        what = "changes made by other instances are not heard of through a pooler"
        return [Finding("warn", what, "set DATABASE_DIRECT_URL to the server's own address")]
    return []


def _reason(error: DatabaseError) -> str:
    first = error.__cause__ or error
    return " ".join(f"{type(first).__name__}: {first}".split()).rstrip(".: ")
