"""Compares the settings in force on a connection with those that the statements rely on.

On direct connections `connector` sends nearly all of them. A pooler refuses them, so behind one the
role or the database must have them. `ops/database.md` has the reasons.
"""

from typing import Final

import msgspec

from service.database import connector, cures
from service.database.cures import LEVELS, Level, Problem
from service.database.driver import Connection
from service.database.statement import Statement
from service.settings import Settings

# Sources of a setting, in the server's words and in ours.
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
Rules = dict[str, tuple[Level, str, str]]
# For each setting: the level of a wrong value, the right value in SQL, and the harm of a wrong one.
EVERYWHERE: Final[Rules] = {
    "default_transaction_read_only": (
        "refuse",
        "off",
        "nothing can be written; a managed server sets it while its disk is full",
    ),
    "session_replication_role": ("refuse", "origin", "foreign keys are not checked"),
}
POOLED: Final[Rules] = {
    "default_transaction_isolation": (
        "refuse",
        "'read committed'",
        "heartbeats of two instances fail each other",
    ),
    "exit_on_error": ("fault", "off", "every error ends its connection"),
    "synchronous_commit": (
        "fault",
        "on",
        "a crash of the server loses heartbeats that were answered",
    ),
    "lock_timeout": (
        "fault",
        "'{}ms'",  # a quarter of the request's time
        "a locked row holds a connection until the request's time is over",
    ),
    "statement_timeout": (
        "fault",
        "0",
        "statements end before REQUEST_TIMEOUT_SECONDS, and imports before they are done",
    ),
    "transaction_timeout": ("warn", "0", "it ends imports that take longer"),
    "jit": ("warn", "off", "compiling costs more than any statement here"),
    "plan_cache_mode": (
        "warn",
        "force_generic_plan",
        "statements run with other plans than those that were tested",
    ),
}


class SettingRow(msgspec.Struct, frozen=True):
    name: str
    setting: str
    reset_value: str
    source: str
    role_name: str
    database_name: str


IN_FORCE: Final = Statement("session_in_force", SettingRow)


async def problems(connection: Connection, settings: Settings) -> list[Problem]:
    """The wrong settings of a connection to DATABASE_URL; those that stop the start come first."""
    names = ["server_encoding", *EVERYWHERE, *POOLED]
    rows = {row.name: row for row in await IN_FORCE.all(connection, names)}
    is_pooled = connector.is_pooled(settings)
    request_ms = int(settings.request_timeout_seconds * 1000)
    found = _of_database(rows["server_encoding"])
    if not is_pooled:
        found += _of_direct(rows, connector.server_settings(settings)["plan_cache_mode"])
    for name, (level, right, harm) in (EVERYWHERE | (POOLED if is_pooled else {})).items():
        if name in rows and not _is_right(rows[name], right, request_ms):
            row = rows[name]
            remedy = _remedy(row, right.format(request_ms // 4))
            then = ", then reconnect the pooler to the server" if is_pooled else ""
            found.append(Problem(level, f"{_shown(row)}: {harm}", remedy + then))
    return sorted(found, key=lambda problem: LEVELS.index(problem.level))


def _is_right(row: SettingRow, right: str, request_ms: int) -> bool:
    match row.name:
        case "synchronous_commit":
            return row.setting != "off"
        case "lock_timeout":
            return 0 < int(row.setting) <= request_ms
        case "statement_timeout":
            return row.setting == "0" or int(row.setting) >= request_ms
    return row.setting == right.strip("'")


def _of_database(row: SettingRow) -> list[Problem]:
    if row.setting == "UTF8":
        return []
    text = f"database {row.database_name} has the encoding {row.setting}, not UTF8"
    return [Problem("refuse", text, cures.NEW_DATABASE)]


def _of_direct(rows: dict[str, SettingRow], sent: str) -> list[Problem]:
    found = []
    if rows["plan_cache_mode"].setting != sent:
        text = "the settings that a connection is started with are not in force"
        remedy = "a pooler is between: set STATEMENT_CACHE_SIZE=0"
        found.append(Problem("refuse", text, remedy))
    if rows["synchronous_commit"].reset_value == "off":
        text = "synchronous_commit is off for the role, the database or the server"
        found.append(Problem("warn", text, "the service sets it to on for its own connections"))
    return found


def _shown(row: SettingRow) -> str:
    setting = row.setting
    if row.name.endswith("_timeout"):
        setting = "not set" if setting == "0" else f"{setting} ms"
    return f"{row.name} is {setting} {SOURCES.get(row.source, row.source)}"


def _remedy(row: SettingRow, right: str) -> str:
    """The statement to run. A setting of the role in the database overrides one of the role."""
    if row.source == "client":
        return f"remove {row.name} from the options in DATABASE_URL or the pooler's configuration"
    role = _quoted(row.role_name)
    where = f" in database {_quoted(row.database_name)}" if row.source == "database user" else ""
    return f"`alter role {role}{where} set {row.name} = {right}`"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
