"""Compares the settings in force on a connection with what the statements rely on.

On direct connections `connector` sends nearly all of them; through a pooler none, so there a role
or a database must have them. `ops/database.md` has the reasons.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from service.database import connector, cures
from service.database.driver import Connection
from service.database.statement import Statement
from service.settings import Settings

SECONDS: Final = 10.0
# Where a setting comes from, in the server's words and in ours.
SOURCES: Final = {
    "user": "for the role",
    "database": "for the database",
    "database user": "for the role in this database",
    "global": "for all roles",
    "configuration file": "in the server's configuration",
    "command line": "on the server's command line",
    "client": "in the options of the connection",
    "default": "by default",
}


class SettingRow(msgspec.Struct, frozen=True):
    name: str
    setting: str
    reset_value: str
    source: str
    role_name: str
    database_name: str


IN_FORCE: Final = Statement("session_in_force", SettingRow)


class Wrong(msgspec.Struct, frozen=True):
    """A setting that is not as it must be: at `refuse` the service does not start."""

    level: Literal["refuse", "fault", "warn"]
    what: str
    remedy: str


class _Rule(NamedTuple):
    level: Literal["refuse", "fault", "warn"]
    is_right: Callable[[str, Settings], bool]
    wanted: Callable[[Settings], str]
    reason: str


def _equals(value: str) -> Callable[[str, Settings], bool]:
    return lambda setting, _: setting == value


def _always(value: str) -> Callable[[Settings], str]:
    return lambda _: value


def _request(settings: Settings) -> int:
    return int(settings.request_timeout_seconds * 1000)


EVERYWHERE: Final = {
    "default_transaction_read_only": _Rule(
        "refuse",
        _equals("off"),
        _always("off"),
        "nothing can be written; a managed server sets it while its disk is full",
    ),
    "session_replication_role": _Rule(
        "refuse", _equals("origin"), _always("origin"), "foreign keys are not checked"
    ),
}
POOLED: Final = {
    "default_transaction_isolation": _Rule(
        "refuse",
        _equals("read committed"),
        _always("'read committed'"),
        "heartbeats of two instances fail each other",
    ),
    "exit_on_error": _Rule(
        "fault", _equals("off"), _always("off"), "every error ends its connection"
    ),
    "synchronous_commit": _Rule(
        "fault",
        lambda setting, _: setting != "off",
        _always("on"),
        "a crash of the server loses heartbeats that were answered",
    ),
    "lock_timeout": _Rule(
        "fault",
        lambda setting, settings: 0 < int(setting) <= _request(settings),
        lambda settings: f"'{_request(settings) // 4}ms'",
        "a locked row holds a connection until the request's time is over",
    ),
    "statement_timeout": _Rule(
        "fault",
        lambda setting, settings: setting == "0" or int(setting) >= _request(settings),
        _always("0"),
        "statements end before REQUEST_TIMEOUT_SECONDS, and imports before they are done",
    ),
    "transaction_timeout": _Rule(
        "warn", _equals("0"), _always("0"), "it ends imports that take longer"
    ),
    "jit": _Rule(
        "warn", _equals("off"), _always("off"), "compiling costs more than any statement here"
    ),
    "plan_cache_mode": _Rule(
        "warn",
        _equals("force_generic_plan"),
        _always("force_generic_plan"),
        "statements run with other plans than those that were tested",
    ),
}


async def wrong(connection: Connection, settings: Settings) -> list[Wrong]:
    """What is not as it must be on a connection to DATABASE_URL, the gravest first."""
    names = ["server_encoding", *EVERYWHERE, *POOLED]
    rows = {row.name: row for row in await IN_FORCE.all(connection, names)}
    is_pooled = connector.is_pooled(settings)
    rules = EVERYWHERE | (POOLED if is_pooled else {})
    found = [
        *_encoding(rows["server_encoding"]),
        *([] if is_pooled else _direct(rows)),
        *(
            _broken(rule, rows[name], rule.wanted(settings), is_pooled=is_pooled)
            for name, rule in rules.items()
            if name in rows and not rule.is_right(rows[name].setting, settings)
        ),
    ]
    return sorted(found, key=lambda one: ("refuse", "fault", "warn").index(one.level))


def _encoding(row: SettingRow) -> Iterator[Wrong]:
    if row.setting != "UTF8":
        what = f"database {row.database_name} has the encoding {row.setting}, not UTF8"
        yield Wrong("refuse", what, cures.NEW_DATABASE)


def _direct(rows: dict[str, SettingRow]) -> Iterator[Wrong]:
    if rows["plan_cache_mode"].setting != connector.ALWAYS["plan_cache_mode"]:
        what = "the settings that a connection is started with are not in force"
        yield Wrong("refuse", what, "a pooler is between: set STATEMENT_CACHE_SIZE=0")
    commit = rows["synchronous_commit"]
    if commit.reset_value == "off":
        what = "synchronous_commit is off for the role, the database or the server"
        yield Wrong("warn", what, "the service sets it to on for its own connections")


def _broken(rule: _Rule, row: SettingRow, wanted: str, *, is_pooled: bool) -> Wrong:
    setting = row.setting
    if row.name.endswith("_timeout"):
        setting = "not set" if setting == "0" else f"{setting} ms"
    what = f"{row.name} is {setting} {SOURCES.get(row.source, row.source)}: {rule.reason}"
    then = ", then reconnect the pooler to the server" if is_pooled else ""
    return Wrong(rule.level, what, _line(row, wanted) + then)


def _line(row: SettingRow, wanted: str) -> str:
    """A line to copy. What is set for the role in the database outdoes what is set for the role."""
    if row.source == "client":
        return f"remove {row.name} from the options in DATABASE_URL or the pooler's configuration"
    role = _quoted(row.role_name)
    where = f" in database {_quoted(row.database_name)}" if row.source == "database user" else ""
    return f"`alter role {role}{where} set {row.name} = {wanted}`"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
