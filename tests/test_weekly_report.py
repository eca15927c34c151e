"""The weekly report: every child, one statement, nothing stored."""

from datetime import UTC, datetime
from uuid import uuid4

from service.database import Connection
from tests.conftest import Running
from tests.family import Family
from tests.test_history import add_sessions

URL = "/api/v1/parental-controls/weekly-report"


async def test_a_child_without_configuration_is_reported_with_the_defaults(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    started_at = datetime(2026, 11, 18, tzinfo=UTC)
    await add_sessions(connection, family, started_at, seconds=6 * 3600)
    report = (await running.client.get(URL, headers=family.bearer)).json()
    [child] = report["profiles"]
    assert (report["week_start"], report["week_end"]) == ("2026-11-18", "2026-11-24")
    assert child["limit_usage_percent"] == round(360 / (5 * 120 + 2 * 180) * 100, 1)
    assert child["daily_totals"][0] == {"date": "2026-11-18", "minutes": 360.0}
    assert await connection.fetchval("select count(*) from viewing_time_configs") == 0


async def test_children_by_name_then_id_without_adults(
    running: Running, connection: Connection, family: Family
) -> None:
    twins = sorted(uuid4() for _ in range(2))
    await connection.executemany(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "values ($1, $2, $3, 'TV-G', true)",
        [(twins[1], family.account, "Zoe"), (twins[0], family.account, "Zoe")],
    )
    report = (await running.client.get(URL, headers=family.bearer)).json()
    shown = [(child["profile_name"], child["profile_id"]) for child in report["profiles"]]
    assert shown == [("Ada", str(family.child)), *(("Zoe", str(twin)) for twin in twins)]


async def test_one_statement_whatever_the_number_of_children(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "select gen_random_uuid(), $1, 'child ' || n, 'TV-G', true from generate_series(1, 9) as n",
        family.account,
    )
    calls = (
        "select coalesce(sum(calls), 0)::int from pg_stat_statements as s "
        "join pg_database as d on d.oid = s.dbid "
        "where d.datname = current_database() and s.query not like '%pg_stat_statements%'"
    )
    before = await connection.fetchval(calls)
    report = (await running.client.get(URL, headers=family.bearer)).json()
    assert await connection.fetchval(calls) - before == 1
    assert len(report["profiles"]) == 10
    metrics = running.context.metrics
    assert (metrics.reports.count, metrics.report_statements) == (1, 1)
