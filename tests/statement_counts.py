"""Counts the statements that PostgreSQL ran for requests, without those of background tasks.

Background tasks run statements at their own times, so a test that counted them would fail on a slow
machine. PostgreSQL keeps the text of a statement without its header, and with `$n` in place of its
constants; `shape` makes such a text and a file of `sql/` comparable.
"""

import re
from collections import Counter
from typing import Final

from service.database.driver import Connection
from service.database.statement import text

# The statements that tasks of the service run.
BACKGROUND: Final = (
    "balance_month_add",
    "balance_month_drop",
    "cell_accounts",
    "cell_map_state",
    "cell_name",
    "cell_slots",
    "config_acknowledge",
    "config_listener",
    "connection_prepare",
    "deletion_batch",
    "deletion_pending",
    "delivery_backlog",
    "delivery_begin",
    "delivery_claim",
    "delivery_fail",
    "delivery_form",
    "delivery_look",
    "delivery_recover",
    "delivery_settle",
    "event_account_check",
    "event_feed_lock",
    "event_feed_open",
    "event_feed_read",
    "event_new",
    "event_number",
    "health_ping",
    "heartbeat_prepare",
    "migration_applied",
    "retention_balances",
    "retention_clock",
    "retention_count",
    "retention_events",
    "retention_events_count",
    "retention_exceptions",
    "retention_lock",
    "retention_requests",
    "retention_sessions",
    "retention_totals",
    "schema_tables",
    "viewing_request_expire",
)
# The driver reads the types of arrays once on each connection, also on one that is opened again.
_OF_CONNECTIONS: Final = re.compile(
    r"begin|commit|rollback|listen|unlisten|with recursive typeinfo_tree"
    r"|select current_setting\(\?\) as cur, set_config",
    re.IGNORECASE,
)
_VARIABLE: Final = re.compile(
    r"'(?:[^']|'')*'|\$\d+|-?\b\d+(?:\.\d+)?\b|\b(?:true|false|null)\b|(--[^\n]*|/\*.*?\*/)"
)
_RUN: Final = """
    select s.query, s.calls
    from pg_stat_statements as s
    join pg_database as d on d.oid = s.dbid
    where d.datname = current_database() and s.query not like '%pg_stat_statements%'
"""


def shape(query: str) -> str:
    """A statement without its comments, constants, parameters and line breaks."""
    plain = _VARIABLE.sub(lambda found: "" if found[1] else "?", query)
    return re.sub(r"\?( ?, ?\?)+", "?", " ".join(plain.split()))


async def executed(connection: Connection) -> Counter[str]:
    """How often each statement ran in this database, except those of the test's own counting."""
    found: Counter[str] = Counter()
    for row in await connection.fetch(_RUN):
        found[shape(row["query"])] += row["calls"]
    return found


async def of_requests(connection: Connection) -> int:
    """The number of statements that ran for requests, and for the test itself.

    Beginnings and ends of transactions do not count, because background tasks have some too.
    """
    left_out = {shape(text(name)) for name in BACKGROUND}
    return sum(
        calls
        for query, calls in (await executed(connection)).items()
        if query not in left_out and not _OF_CONNECTIONS.match(query)
    )


async def runs(connection: Connection, *names: str) -> int:
    """How often the statements `names` of `sql/` ran."""
    found = await executed(connection)
    return sum(found[shape(text(name))] for name in names)
