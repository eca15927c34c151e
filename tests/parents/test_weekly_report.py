"""The weekly report: every child, one statement, nothing stored."""

import re
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any
from uuid import uuid4

import pytest

from service.database.driver import Connection
from service.parents.report_weeks import MAX_CHILDREN
from tests.conftest import Running
from tests.family import Family, add_family
from tests.parents.test_history import add_session, add_sessions
from tests.statement_counts import of_requests

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


async def test_children_are_sorted_by_name_then_id_without_adults(
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


@pytest.mark.warm
async def test_report_is_one_statement_for_any_number_of_children_and_two_by_their_days(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "select gen_random_uuid(), $1, 'child ' || n, 'TV-G', true from generate_series(1, 9) as n",
        family.account,
    )
    before = await of_requests(connection)
    report = (await running.client.get(URL, headers=family.bearer)).json()
    assert await of_requests(connection) - before == 1
    assert len(report["profiles"]) == 10
    metrics = running.context.metrics
    assert (metrics.reports.count, metrics.report_statements) == (1, 1)
    before = await of_requests(connection)
    params = {"zone": "child", "counted": "true"}
    report = (await running.client.get(URL, params=params, headers=family.bearer)).json()
    assert await of_requests(connection) - before == 2
    assert len(report["profiles"]) == 10
    assert (metrics.reports.count, metrics.report_statements) == (2, 3)


async def test_figures_of_each_day_and_the_three_most_watched_titles(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)
    titles = sorted(uuid4() for _ in range(4))
    for number, title in enumerate(titles):
        await connection.execute(
            "insert into titles (id, title, title_type) values ($1, $2, 'movie')",
            title,
            f"title {number}",
        )
        for day in (17, 18, 24):
            await connection.execute(
                "insert into viewing_sessions (id, profile_id, title_id, device_id, "
                "is_educational, started_at, last_heartbeat_at, total_seconds) "
                "values (gen_random_uuid(), $1, $2, 'd', $3, $4, $4, $5)",
                family.child,
                title,
                number == 0,
                datetime(2026, 11, day, 23, 59, 59, tzinfo=UTC),
                600 if number in (1, 2) else 900,
            )
    [child] = (await running.client.get(URL, headers=family.bearer)).json()["profiles"]
    minutes = [day["minutes"] for day in child["daily_totals"]]
    assert minutes == [50.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0]
    assert (child["total_minutes"], child["educational_minutes"]) == (100.0, 30.0)
    assert child["average_daily_minutes"] == 14.29
    assert child["limit_usage_percent"] == round(100 / (7 * 120) * 100, 1)
    assert [(top["title_name"], top["total_minutes"]) for top in child["top_titles"]] == [
        ("title 0", 30.0),
        ("title 3", 30.0),
        ("title 1", 20.0),
    ]


async def test_deleting_a_title_deletes_its_sessions(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    await add_sessions(connection, family, datetime(2026, 11, 24, tzinfo=UTC), 3)
    await connection.execute("delete from titles where id = $1", family.title)
    [child] = (await running.client.get(URL, headers=family.bearer)).json()["profiles"]
    assert (child["total_minutes"], child["top_titles"]) == (0.0, [])


async def test_an_account_without_children_has_an_empty_report(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from profiles where is_kids")
    report = await running.client.get(URL, headers=family.bearer)
    assert (report.status_code, report.json()["profiles"]) == (200, [])


async def add_children(connection: Connection, family: Family, count: int) -> None:
    """Adds children to the family, some with the same name."""
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "select gen_random_uuid(), $1, 'child ' || n / 7, 'TV-G', true "
        "from generate_series(1, $2) as n",
        family.account,
        count,
    )


async def test_report_without_page_parameters_has_every_child(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_children(connection, family, MAX_CHILDREN - 1)
    answer = await running.client.get(URL, headers=family.bearer)
    assert len(answer.json()["profiles"]) == MAX_CHILDREN
    assert "link" not in answer.headers


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
async def test_more_children_than_a_page_holds_without_a_limit_are_422(
    running: Running, connection: Connection, family: Family, accept: str
) -> None:
    await add_children(connection, family, 10_000)
    answer = await running.client.get(URL, headers={**family.bearer, "Accept": accept})
    detail = f"More than {MAX_CHILDREN} children: ask page by page with limit and after"
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
async def test_pages_show_every_child_once_in_order(
    running: Running, connection: Connection, family: Family, accept: str
) -> None:
    await add_children(connection, family, 60)
    headers = {**family.bearer, "Accept": accept}
    answer = await running.client.get(URL, params={"limit": "13"}, headers=headers)
    pages = [answer]
    while "next" in answer.links:
        following = answer.links["next"]["url"]
        if accept == "text/html":
            assert f'<a href="{escape(following)}">' in answer.text
        answer = await running.client.get(URL + following, headers=headers)
        pages.append(answer)
    assert {page.status_code for page in pages} == {200}
    if accept == "text/html":
        assert [page.text.count('<section class="child"') for page in pages] == [13] * 4 + [9]
        return
    shown = [child["profile_id"] for page in pages for child in page.json()["profiles"]]
    stored = await connection.fetch(
        'select id from profiles where is_kids order by name collate "C", id'
    )
    assert shown == [str(row["id"]) for row in stored]


async def test_the_page_after_the_last_child_is_empty_and_after_another_accounts_is_403(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    last = await running.client.get(URL, params={"after": str(family.child)}, headers=family.bearer)
    assert (last.status_code, last.json()["profiles"]) == (200, [])
    for after in (stranger.child, uuid4()):
        params = {"limit": "5", "after": str(after)}
        answer = await running.client.get(URL, params=params, headers=family.bearer)
        assert (answer.status_code, answer.json()) == (
            403,
            {"detail": "Profile not found or access denied"},
        )


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"limit": "0"}, "greater_than_equal"),
        ({"limit": str(MAX_CHILDREN + 1)}, "less_than_equal"),
        ({"limit": "many"}, "int_parsing"),
        ({"limit": ""}, "int_parsing"),
        ({"after": "17"}, "uuid_parsing"),
        ({"zone": "local"}, "enum"),
        ({"counted": "2"}, "bool_parsing"),
    ],
)
async def test_malformed_page_parameters_are_422(
    running: Running, family: Family, params: dict[str, str], kind: str
) -> None:
    answer = await running.client.get(URL, params=params, headers=family.bearer)
    [fault] = answer.json()["detail"]
    assert (answer.status_code, fault["type"]) == (422, kind)
    assert fault["loc"] == ["query", *params]
    assert (await running.client.get(URL, params=params)).status_code == 401


async def test_json_unless_html_is_preferred(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    await connection.execute("update profiles set name = '<b>Ada</b>' where is_kids")
    plain = await running.client.get(URL, headers=family.bearer)
    for accept in ("*/*", "application/json", "text/html;q=0.9, application/json"):
        answer = await running.client.get(URL, headers={**family.bearer, "Accept": accept})
        assert answer.headers["content-type"] == "application/json"
        assert answer.content == plain.content
        assert answer.headers["vary"] == "Accept, Origin"
    page = await running.client.get(URL, headers={**family.bearer, "Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "Accept, Accept-Language, Origin"
    assert "&lt;b&gt;Ada&lt;/b&gt;" in page.text
    assert running.context.metrics.report_statements == 6


@pytest.mark.parametrize(
    ("languages", "language"),
    [("de-AT, en;q=0.5", "de"), ("pt-BR", "en"), ("es;q=0.5, fr", "fr"), ("es", "es")],
)
async def test_page_is_in_the_readers_language_or_in_english(
    running: Running, family: Family, languages: str, language: str
) -> None:
    headers = {**family.bearer, "Accept": "text/html", "Accept-Language": languages}
    page = await running.client.get(URL, headers=headers)
    assert re.findall('lang="([^"]*)"', page.text) == [language]
    assert page.headers["content-language"] == language
    plain = await running.client.get(URL, headers={**headers, "Accept": "*/*"})
    assert "content-language" not in plain.headers


@pytest.mark.parametrize("params", [{}, {"zone": "utc", "counted": "false"}])
async def test_page_counts_in_viewing_days_without_exempt_time(
    running: Running, connection: Connection, params: dict[str, str]
) -> None:
    family = await add_family(connection, timezone="America/New_York", reset_hour=6)
    running.clock.fixed = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
    moment = datetime(2026, 11, 24, 10, tzinfo=UTC)
    await add_session(connection, family, moment, seconds=1860)
    await add_session(connection, family, moment, seconds=2520, title=family.lesson)
    headers = {**family.bearer, "Accept": "text/html"}
    page = (await running.client.get(URL, params=params, headers=headers)).text
    text = page.replace("\u00a0", " ")
    assert "31 min counted, 3.7 % of the limit · 4 min a day · 42 min educational" in text
    assert '<time datetime="2026-11-17">Tue, Nov 17</time> to <time datetime="2026-11-23">' in text
    assert "Days begin at 6:00 (America/New_York)." in text


async def test_errors_are_json_even_if_html_is_preferred(running: Running) -> None:
    answer = await running.client.get(URL, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})


async def weekly(running: Running, family: Family, **params: str) -> Any:
    answer = await running.client.get(URL, params=params, headers=family.bearer)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_with_zone_child_each_child_has_the_seven_days_of_its_own_zone(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="Pacific/Auckland", reset_hour=0)
    sibling = uuid4()
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "values ($1, $2, 'Ben', 'TV-G', true)",
        sibling,
        family.account,
    )
    await connection.execute(
        "insert into viewing_time_configs (id, profile_id, reset_hour, timezone) "
        "values (gen_random_uuid(), $1, 6, 'America/New_York')",
        sibling,
    )
    running.clock.fixed = datetime(2026, 11, 24, 11, tzinfo=UTC)
    both = (family, Family(account=family.account, child=sibling, title=family.title))
    for child in both:
        # In New York the day 23 until 11:00, in Auckland the day 25 from 11:00.
        for minute, seconds in ((59, 60), (60, 600)):
            started_at = datetime(2026, 11, 24, 10, tzinfo=UTC) + timedelta(minutes=minute)
            await add_session(connection, child, started_at, seconds=seconds)
    report = await weekly(running, family, zone="child")
    assert (report["week_start"], report["week_end"]) == ("2026-11-18", "2026-11-25")
    ada, ben = report["profiles"]
    assert [total["date"] for total in ada["daily_totals"]] == [
        f"2026-11-{day}" for day in range(19, 26)
    ]
    assert [total["minutes"] for total in ada["daily_totals"]] == [0, 0, 0, 0, 0, 1, 10]
    assert [total["date"] for total in ben["daily_totals"]] == [
        f"2026-11-{day}" for day in range(18, 25)
    ]
    assert [total["minutes"] for total in ben["daily_totals"]] == [0, 0, 0, 0, 0, 1, 10]
    plain = await weekly(running, family)
    assert plain == await weekly(running, family, zone="utc", counted="false")
    assert (plain["week_start"], plain["week_end"]) == ("2026-11-18", "2026-11-24")


async def test_with_zone_child_the_time_of_a_session_belongs_to_the_days_of_its_viewing(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="America/New_York", reset_hour=6)
    running.clock.fixed = datetime(2026, 11, 24, 20, tzinfo=UTC)
    await add_session(  # started before the week, and was watched on three days of it
        connection,
        family,
        datetime(2026, 11, 1, 10, tzinfo=UTC),
        datetime(2026, 11, 24, 12, tzinfo=UTC),
        seconds=60 * (50 + 20 + 7 + 3),
        earlier_days=[("2026-11-01", 3000), ("2026-11-18", 1200), ("2026-11-20", 420)],
        title=family.lesson,
    )
    await add_session(  # the whole before the week
        connection,
        family,
        datetime(2026, 11, 16, 10, tzinfo=UTC),
        datetime(2026, 11, 17, 23, tzinfo=UTC),
        seconds=600,
        earlier_days=[("2026-11-16", 60)],
    )
    await add_session(connection, family, datetime(2026, 11, 24, 10, 59, tzinfo=UTC), seconds=900)
    [child] = (await weekly(running, family, zone="child"))["profiles"]
    assert [day["minutes"] for day in child["daily_totals"]] == [20, 0, 7, 0, 0, 15, 3]
    assert (child["total_minutes"], child["educational_minutes"]) == (45.0, 30.0)
    assert [(top["title_name"], top["total_minutes"]) for top in child["top_titles"]] == [
        ("Planets", 30.0),
        ("Cartoon", 15.0),
    ]
    assert child["limit_usage_percent"] == round(45 / (7 * 120) * 100, 1)
    [utc] = (await weekly(running, family))["profiles"]
    assert utc["total_minutes"] == 15.0


@pytest.mark.parametrize("zone", ["utc", "child"])
@pytest.mark.parametrize(("exempt", "total"), [(True, 20.0), (False, 62.0)])
async def test_counted_report_leaves_out_exempt_educational_time(
    running: Running, connection: Connection, zone: str, exempt: bool, total: float
) -> None:
    family = await add_family(connection, exempt=exempt)
    moment = datetime(2026, 11, 24, 10, tzinfo=UTC)
    await add_session(connection, family, moment, seconds=1200)
    await add_session(connection, family, moment, seconds=2520, title=family.lesson)
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    [child] = (await weekly(running, family, zone=zone, counted="true"))["profiles"]
    assert child["daily_totals"][-1]["minutes"] == child["total_minutes"] == total
    assert child["average_daily_minutes"] == round(total / 7, 2)
    assert child["limit_usage_percent"] == round(total / (7 * 120) * 100, 1)
    assert child["educational_minutes"] == 42.0
    assert [top["total_minutes"] for top in child["top_titles"]] == [42.0, 20.0]
    [child] = (await weekly(running, family, zone=zone))["profiles"]
    assert child["total_minutes"] == 62.0


async def test_counted_report_of_a_child_without_a_configuration_exempts(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    moment = datetime(2026, 11, 24, 10, tzinfo=UTC)
    await add_session(connection, family, moment, seconds=60, title=family.lesson)
    running.clock.fixed = moment
    for zone in ("utc", "child"):
        [child] = (await weekly(running, family, zone=zone, counted="true"))["profiles"]
        assert (child["total_minutes"], child["educational_minutes"]) == (0.0, 1.0)
        assert child["limit_usage_percent"] == 0.0
    assert await connection.fetchval("select count(*) from viewing_time_configs") == 0


async def test_pages_keep_the_days_and_the_time_that_the_first_one_counts(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_children(connection, family, 4)
    params = {"limit": "2", "zone": "child", "counted": "true"}
    answer = await running.client.get(URL, params=params, headers=family.bearer)
    shown = answer.json()["profiles"]
    while "next" in answer.links:
        following = answer.links["next"]["url"]
        assert following.endswith("&zone=child&counted=true")
        answer = await running.client.get(URL + following, headers=family.bearer)
        shown += answer.json()["profiles"]
    assert len({child["profile_id"] for child in shown}) == len(shown) == 5


async def test_with_zone_child_an_account_without_children_has_an_empty_report(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from profiles where is_kids")
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    report = await weekly(running, family, zone="child")
    assert report == {"week_start": "2026-11-18", "week_end": "2026-11-24", "profiles": []}


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "configuration": ("viewing-time", {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}),
    "schedule": (
        "schedule",
        {"daily_limits": dict.fromkeys(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), 15)},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_limit_lowered_today_does_not_change_the_usage_of_the_days_before(
    running: Running, connection: Connection, change: str
) -> None:
    family = await add_family(connection)
    now = running.clock()
    for ago in range(1, 7):
        await add_session(connection, family, now - timedelta(days=ago), seconds=5400)
        await connection.execute(
            "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
            "educational_seconds, is_unlimited_override, updated_at) "
            "values (gen_random_uuid(), $1, $2, 5400, 0, false, now())",
            family.child,
            (now - timedelta(days=ago)).date(),
        )
    before = [child["limit_usage_percent"] for child in (await shown(running, family))]
    assert before == [round(6 * 90 / (7 * 120) * 100, 1)]
    await lower(running, family, change)
    after = [child["limit_usage_percent"] for child in (await shown(running, family))]
    assert after == [round(6 * 90 / (6 * 120 + 15) * 100, 1)]
    headers = {**family.bearer, "Accept": "text/html"}
    page = (await running.client.get(URL, headers=headers)).text.replace("\u00a0", " ")
    assert f"{after[0]} % of the limit" in page
    assert (page.count("<td>2 h</td>"), page.count("<td>15 min</td>")) == (6, 1)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_limit_lowered_today_is_not_that_of_days_on_which_nothing_was_watched(
    running: Running, connection: Connection, change: str
) -> None:
    family = await add_family(connection)
    await connection.execute(
        "update viewing_time_configs set created_at = $1", running.clock() - timedelta(days=3)
    )
    await lower(running, family, change)
    balances = await connection.fetch(
        "select reset_date, used_seconds, limit_minutes from viewing_time_balances order by 1"
    )
    today = running.clock().date()
    kept = [(today - timedelta(days=ago), 0, 120) for ago in (3, 2, 1)]
    assert [tuple(row) for row in balances] == kept
    headers = {**family.bearer, "Accept": "text/html"}
    page = (await running.client.get(URL, headers=headers)).text.replace("\u00a0", " ")
    assert (page.count("<td>2 h</td>"), page.count("<td>15 min</td>")) == (3, 4)
    await lower(running, family, change)
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 3


async def lower(running: Running, family: Family, change: str) -> None:
    """Sets the limits of the days to 15 minutes."""
    path, body = CHANGES[change]
    url = f"/api/v1/parental-controls/profiles/{family.child}/{path}"
    answer = await running.client.put(url, json=body, headers=family.bearer)
    assert answer.status_code == 200


async def shown(running: Running, family: Family) -> Any:
    return (await weekly(running, family, zone="child", counted="true"))["profiles"]


async def test_with_zone_child_days_have_the_limits_of_schedule_exceptions_and_balances(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)  # a Tuesday
    await connection.execute(
        "insert into viewing_schedules (profile_id, daily_limits, updated_at) "
        """values ($1, '{"thu": 45, "sat": null}', now())""",
        family.child,
    )
    await connection.execute(
        "insert into viewing_exceptions values ($1, '2026-11-20', true, 300, false, now()), "
        "($1, '2026-11-23', false, null, true, now())",
        family.child,
    )
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override, updated_at, limit_minutes, extended_minutes) "
        "values (gen_random_uuid(), $1, '2026-11-18', 0, 0, false, now(), 30, null), "
        "(gen_random_uuid(), $1, '2026-11-22', 0, 0, true, now(), 60, null), "
        "(gen_random_uuid(), $1, '2026-11-24', 0, 0, false, now(), null, 15)",
        family.child,
    )
    headers = {**family.bearer, "Accept": "text/html"}
    page = (await running.client.get(URL, headers=headers)).text.replace("\u00a0", " ")
    limits = re.findall(r"<td>([^<]*)</td></tr>", page)
    assert limits == ["30 min", "45 min", "5 h", "none", "none", "2 h", "2 h 15 min"]
    await add_session(connection, family, running.clock(), seconds=3600)
    [child] = await shown(running, family)
    assert child["limit_usage_percent"] == round(60 / (30 + 45 + 300 + 120 + 135) * 100, 1)
    [child] = (await weekly(running, family))["profiles"]
    assert child["limit_usage_percent"] == round(60 / (7 * 120) * 100, 1)
