"""A service that has started is warm: its first heartbeat does what every heartbeat does."""

import re
import sys
from typing import Any, Final

import pytest

from service.database.driver import Connection
from service.database.statement import STATEMENT_TIMES, text
from service.viewing import rules
from tests.conftest import Running, Starter
from tests.family import HEARTBEAT, Family, add_family
from tests.statement_counts import BACKGROUND, shape

CONNECTIONS = """
select array_agg(pid order by pid) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
"""


# Tasks run these at their own times, also during a heartbeat.
MEANWHILE: Final = {*BACKGROUND} - {"connection_prepare", "heartbeat_prepare"}
# Functions that only some heartbeats call, or that write whatever their arguments are.
NOT_PREPARED: Final = {
    "viewing_clock_count",
    "viewing_earlier_parts",
    "viewing_session_is_displaced",
    "viewing_session_begin",
    "viewing_announce",
}


def called(statement: str) -> set[str]:
    """The functions of ours that a statement calls."""
    return set(re.findall(r"(viewing_\w+)\(", re.sub("--.*", "", text(statement))))


def test_a_connection_prepares_every_function_that_most_heartbeats_call() -> None:
    assert called("heartbeat_prepare") == called("heartbeat_record") - NOT_PREPARED


async def beat(running: Running, family: Family) -> dict[str, Any]:
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.status_code == 200
    verdict: dict[str, Any] = answer.json()
    return verdict


def runs() -> int:
    """The number of statements that this process has run, without those of the background."""
    requested = (times for name, times in STATEMENT_TIMES.items() if name not in MEANWHILE)
    return sum(sum(times.counts) for times in requested)


@pytest.mark.warm
async def test_the_first_heartbeat_costs_one_statement_and_prepares_nothing(
    start: Starter, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = await add_family(connection, timezone="Pacific/Chatham", reset_hour=5)
    running = await start()
    await running.client.get("/health/live")  # httpx is not warm either
    prepared: list[str] = []
    put = "asyncpg.connection._StatementCache.put"
    monkeypatch.setattr(put, lambda cache, query, statement: prepared.append(query))
    modules, before = set(sys.modules), runs()
    zones = rules.zone.cache_info().misses
    connections = await connection.fetchval(CONNECTIONS)
    prepared.clear()
    assert (await beat(running, family))["enforcement"] == "allowed"
    assert runs() - before == 1
    of_tasks = {shape(text(name)) for name in MEANWHILE}
    assert [query for query in prepared if shape(query) not in of_tasks] == []
    assert set(sys.modules) - modules == set()
    assert rules.zone.cache_info().misses == zones
    # The server may meanwhile have ended one that the start has closed.
    assert {*await connection.fetchval(CONNECTIONS)} <= {*connections}


@pytest.mark.warm
async def test_getting_warm_counts_no_heartbeat_and_stores_nothing(
    start: Starter, connection: Connection, family: Family
) -> None:
    async def stored() -> list[Any]:
        tables = ("viewing_sessions", "viewing_time_balances", "viewing_time_configs")
        return [await connection.fetch(f"select * from {table}") for table in tables]

    before = await stored()
    running = await start()
    assert await stored() == before
    metrics = running.context.metrics
    assert (metrics.heartbeats.count, metrics.heartbeats_refused) == (0, 0)
    assert (metrics.heartbeat_statements, sum(metrics.batch_sizes.counts)) == (0, 0)
    assert sum(metrics.refusals.values()) == sum(metrics.verdicts.values()) == 0
    assert (running.context.configurations.misses, len(running.context.tokens)) == (0, 0)
