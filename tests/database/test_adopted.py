"""Adopted databases have nulls that new tables lack, and rules of the platform's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest

from service.database import migrate
from service.database.driver import Connection
from service.settings import Settings
from service.viewing import rules
from tests.about_profiles import about_accounts, about_profiles, add_rows, counts
from tests.conftest import NOW, ROOT, Running, Starter, copied
from tests.family import PASSWORD_HASH, PIN, PIN_HASH, Family, bearer

LEGACY = ROOT / "tests/legacy_schema.sql"
KEYS = ("id", "email", "reset_date", "name", "title", "started_at", "granted_at", "device_id")
ADMIN = "/api/v1/admin"


@pytest.fixture(scope="session")
async def adopted_template(postgres_dsn: str) -> AsyncIterator[str]:
    """A live database whose columns are all nullable and without a default, except keys."""
    async with copied(postgres_dsn, "template0") as dsn:
        opened = await asyncpg.connect(dsn)
        await opened.execute(LEGACY.read_text(encoding="utf-8"))
        for table, column in await opened.fetch(
            "select table_name, column_name from information_schema.columns "
            "where table_schema = 'public'"
        ):
            if not column.endswith("_id") and column not in KEYS:
                await opened.execute(f"alter table {table} alter {column} drop not null")
                await opened.execute(f"alter table {table} alter {column} drop default")
        name: str = await opened.fetchval("select current_database()")
        await opened.close()
        await asyncio.to_thread(migrate.migrate, dsn)
        yield name


@pytest.fixture
async def adopted_database(postgres_dsn: str, adopted_template: str) -> AsyncIterator[str]:
    async with copied(postgres_dsn, adopted_template) as dsn:
        yield dsn


@pytest.fixture
async def adopted(adopted_database: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(adopted_database)
    yield opened
    await opened.close()


@pytest.fixture
async def operated(
    adopted: Connection, start: Starter, settings: Settings, adopted_database: str
) -> Running:
    return await start(msgspec.structs.replace(settings, database_url=adopted_database))


@pytest.fixture
async def administrator(adopted: Connection) -> dict[str, str]:
    account = uuid4()
    await adopted.execute(
        "insert into users (id, email, is_admin, is_active) values ($1, 'admin', true, true)",
        account,
    )
    return bearer(account)


@pytest.fixture
async def bare(adopted: Connection) -> Family:
    """A family whose rows have required values only."""
    family = Family()
    await adopted.execute(
        "insert into users (id, email, is_active, pin_hash, password_hash) "
        "values ($1, 'parent', true, $2, $3)",
        family.account,
        PIN_HASH,
        PASSWORD_HASH,
    )
    await adopted.execute(
        "insert into profiles (id, user_id, name, is_kids) "
        "values ($1, $3, 'Ada', true), ($2, $3, 'Eve', null)",
        family.child,
        family.adult,
        family.account,
    )
    await adopted.execute(
        "insert into titles (id, title) values ($1, 'Cartoon'), ($2, 'Planets')",
        family.title,
        family.lesson,
    )
    await adopted.execute(
        "insert into viewing_time_configs (id, profile_id, weekday_limit_minutes, "
        "weekend_limit_minutes) values ($1, $1, 60, 60)",
        family.child,
    )
    await adopted.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at) "
        "values ($1, $1, $2, 'tv', $3)",
        family.child,
        family.title,
        NOW,
    )
    return family


async def test_nulls_of_an_adopted_database_are_returned(
    operated: Running, bare: Family, adopted: Connection
) -> None:
    client, headers, today = operated.client, bare.bearer, operated.clock().date()
    viewing, parental = "/api/v1/viewing-time", "/api/v1/parental-controls"
    days = f"from_date={today}&to_date={today}"

    async def answer(method: str, path: str, **body: Any) -> Any:
        answered = await client.request(method, path, json=body or None, headers=headers)
        assert answered.status_code == 200, (path, answered.text)
        return answered.json()

    configuration = await answer("GET", f"{parental}/profiles/{bare.child}/viewing-time")
    assert configuration.pop("updated_at") is not None
    assert configuration == {
        "profile_id": str(bare.child),
        "weekday_limit_minutes": 60,
        "weekend_limit_minutes": 60,
        "reset_hour": 6,
        "educational_exempt": True,
        "timezone": "UTC",
    }
    balance = await answer("GET", f"{viewing}/balance/{bare.child}")
    assert (balance["limit_minutes"], balance["used_minutes"]) == (60, 0.0)
    adult = await answer("GET", f"{viewing}/balance/{bare.adult}")
    assert adult["is_child_profile"] is False
    history = await answer("GET", f"{parental}/profiles/{bare.child}/history?{days}")
    assert history["days"][0]["sessions"][0]["is_educational"] is False
    report = await answer("GET", f"{parental}/weekly-report")
    assert [profile["total_minutes"] for profile in report["profiles"]] == [0.0]
    ended = await answer("POST", f"{viewing}/session/{bare.child}/end")
    assert ended["total_seconds"] == 0
    first = await answer("POST", f"{viewing}/heartbeat", **bare.beat())
    assert (first["enforcement"], first["is_educational"]) == ("allowed", False)
    old = await answer("POST", f"{viewing}/heartbeat", **bare.beat(session_id=bare.child))
    assert old["used_minutes"] == 1.0
    counted = "select total_seconds from viewing_sessions where id = $1"
    assert await adopted.fetchval(counted, bare.child) == 30
    alone = await answer("POST", f"{viewing}/heartbeat", **bare.beat(profile_id=bare.adult))
    assert (alone["enforcement"], alone["used_minutes"]) == ("allowed", 0.0)
    await answer("GET", f"{parental}/pin/status")
    assert (await answer("POST", f"{parental}/pin/verify", pin=PIN))["verified"] is True
    await adopted.execute("delete from viewing_time_balances")
    await adopted.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date) values ($1, $1, $2)",
        bare.child,
        today,
    )
    again = await answer("POST", f"{viewing}/heartbeat", **bare.beat(session_id=bare.child))
    assert (again["enforcement"], again["used_minutes"]) == ("allowed", 0.5)
    await adopted.execute("update viewing_time_balances set used_seconds = null")
    granted = await answer(
        "POST", f"{parental}/profiles/{bare.child}/viewing-time/grant", minutes=15
    )
    assert granted["is_unlimited_override"] is False
    changed = await answer(
        "PUT", f"{parental}/profiles/{bare.child}/viewing-time", weekday_limit_minutes=30
    )
    assert (changed["weekday_limit_minutes"], changed["timezone"]) == (30, "UTC")


@pytest.mark.parametrize("column", ["is_active", "is_admin"])
async def test_null_counts_as_neither_active_nor_administrator(
    operated: Running, adopted: Connection, administrator: dict[str, str], column: str
) -> None:
    await adopted.execute(f"update users set {column} = null")
    url = f"{ADMIN}/titles/{uuid4()}"
    answer = await operated.client.delete(url, headers=administrator)
    assert answer.status_code == {"is_active": 401, "is_admin": 403}[column]


async def imported(
    running: Running, headers: dict[str, str], *lines: dict[str, Any]
) -> httpx.Response:
    content = "\n".join(map(json.dumps, lines))
    return await running.client.post(f"{ADMIN}/import", content=content, headers=headers)


async def test_a_line_sets_a_null_only_if_it_has_the_member(
    operated: Running, adopted: Connection, administrator: dict[str, str], bare: Family
) -> None:
    def lines(**more: Any) -> list[dict[str, Any]]:
        account = {"type": "account", "id": str(bare.account), "email": "parent"}
        child: dict[str, Any] = {"type": "profile", "id": str(bare.child)}
        child |= {"account_id": str(bare.account)}
        child |= {"name": "Ada", "is_kids": True}
        title: dict[str, Any] = {"type": "title", "id": str(bare.title), "title": "Cartoon"}
        title |= {"is_educational": False}
        members = [more.get(kind, {}) for kind in ("account", "profile", "title")]
        return [account | members[0], child | members[1], title | members[2]]

    async def stored() -> tuple[Any, ...]:
        row = await adopted.fetchrow(
            "select u.subscription_tier, u.is_admin, p.parental_rating, t.title_type, "
            "t.is_educational from users as u, profiles as p, titles as t "
            "where u.id = $1 and p.id = $2 and t.id = $3",
            bare.account,
            bare.child,
            bare.title,
        )
        assert row is not None
        return tuple(row)

    assert (await imported(operated, administrator, *lines())).status_code == 200
    assert await stored() == (None, None, None, None, False)
    version = "select xmin::text from titles where id = $1"
    before = await adopted.fetchval(version, bare.title)
    assert (await imported(operated, administrator, *lines())).status_code == 200
    assert await adopted.fetchval(version, bare.title) == before  # no row was written
    more = {
        "account": {"subscription_tier": "gold", "is_admin": False},
        "profile": {"parental_rating": "TV-G"},
        "title": {"title_type": "series"},
    }
    assert (await imported(operated, administrator, *lines(**more))).status_code == 200
    assert await stored() == ("gold", False, "TV-G", "series", False)


async def test_a_put_returns_the_nulls_of_the_row(
    operated: Running, administrator: dict[str, str], bare: Family
) -> None:
    child = {"account_id": str(bare.account), "name": "Ada", "is_kids": True}
    for path, body, member in (
        (f"accounts/{bare.account}", {"email": "parent"}, "subscription_tier"),
        (f"profiles/{bare.child}", child, "parental_rating"),
        (f"titles/{bare.title}", {"title": "Cartoon", "is_educational": True}, "title_type"),
    ):
        answer = await operated.client.put(f"{ADMIN}/{path}", json=body, headers=administrator)
        assert (answer.status_code, answer.json()[member]) == (200, None)
        if member == "subscription_tier":
            assert answer.json()["is_admin"] is False


OWN = (
    "create table watchlists (id uuid, user_id uuid references users (id), "
    "profile_id uuid references profiles (id) {0}, title_id uuid references titles (id) {0})"
)


@pytest.mark.parametrize("action", ["", "on delete restrict", "deferrable initially deferred"])
@pytest.mark.parametrize("kind", ["account", "profile", "title"])
async def test_a_row_that_another_table_refers_to_is_not_deleted(
    operated: Running,
    adopted: Connection,
    administrator: dict[str, str],
    bare: Family,
    action: str,
    kind: str,
) -> None:
    await adopted.execute(OWN.format(action))
    key = {"account": bare.account, "profile": bare.child, "title": bare.title}[kind]
    column = {"account": "user_id"}.get(kind, f"{kind}_id")
    await adopted.execute(f"insert into watchlists (id, {column}) values ($1, $1)", key)
    answer = await operated.client.delete(f"{ADMIN}/{kind}s/{key}", headers=administrator)
    assert (answer.status_code, answer.json()) == (
        409,
        {"detail": "Table watchlists still refers to it"},
    )


async def test_viewing_that_another_table_refers_to_is_not_erased(
    operated: Running, adopted: Connection, administrator: dict[str, str], bare: Family
) -> None:
    await adopted.execute("create table ratings (session_id uuid references viewing_sessions (id))")
    await adopted.execute("insert into ratings values ($1)", bare.child)
    url = f"{ADMIN}/profiles/{bare.child}/viewing-data"
    answer = await operated.client.delete(url, headers=administrator)
    assert (answer.status_code, answer.json()) == (
        409,
        {"detail": "Table ratings still refers to it"},
    )


@pytest.mark.parametrize(
    "path", ["profiles/{child}/viewing-data", "profiles/{child}", "accounts/{account}"]
)
async def test_erasure_and_deletion_leave_no_row_about_a_child(
    operated: Running,
    adopted: Connection,
    administrator: dict[str, str],
    bare: Family,
    path: str,
) -> None:
    await add_rows(adopted, bare)
    tables = await about_profiles(adopted)
    assert 0 not in (await counts(adopted, tables, bare.child)).values()
    url = f"{ADMIN}/{path.format(child=bare.child, account=bare.account)}"
    answer = await operated.client.delete(url, headers=administrator)
    assert answer.status_code in (200, 204)
    left = dict.fromkeys(tables, 0)
    if path.endswith("viewing-data"):
        left["viewing_events"] = 1  # that the data was erased
    assert await counts(adopted, tables, bare.child) == left
    if path.startswith("accounts"):
        tables = await about_accounts(adopted)
        assert await counts(adopted, tables, bare.account) == dict.fromkeys(tables, 0)


async def test_import_and_put_of_a_profile_keep_the_rules_of_its_parent(
    operated: Running, adopted: Connection, administrator: dict[str, str], bare: Family
) -> None:
    await add_rows(adopted, bare)
    tables = await about_profiles(adopted)

    # Without the position, which the service gives to an event at its own time.
    whole_rows = "select (to_jsonb(t) - 'position')::text from {} as t"

    async def stored() -> dict[str, list[str]]:
        return {
            table: [row[0] for row in await adopted.fetch(whole_rows.format(table))]
            for table in tables
        }

    before = await stored()
    assert [] not in before.values()
    child = {"account_id": str(bare.account), "name": "Ada", "is_kids": False}
    line = {"type": "profile", "id": str(bare.child), **child}
    assert (await imported(operated, administrator, line)).status_code == 200
    url = f"{ADMIN}/profiles/{bare.child}"
    answer = await operated.client.put(url, json=child, headers=administrator)
    assert answer.status_code == 200
    assert await stored() == before


RULES = {
    "not null": (
        "alter table {table} add column country text not null default 'x'; "
        "alter table {table} alter country drop default",
        "Column country of table {table} needs a value",
    ),
    "check": (
        "alter table {table} add constraint ck_own check (id is null) not valid",
        "Constraint ck_own of table {table} refuses it",
    ),
    "unique": (
        "alter table {table} add column own int default 7; update {table} set own = null; "
        "update {table} set own = 7 where id in (select id from {table} limit 1); "
        "create unique index ux_own on {table} (own)",
        "Constraint ux_own of table {table} refuses it",
    ),
    "trigger": (
        "create function own() returns trigger language plpgsql as "
        "'begin raise exception ''no % here'', new.id; end'; "
        "create trigger own before insert on {table} for each row execute function own()",
        "A trigger of the database refuses it",
    ),
    "trigger with a code": (
        "create function own() returns trigger language plpgsql as "
        "'begin raise exception ''no % here'', new.id using errcode = ''UE001''; end'; "
        "create trigger own before insert on {table} for each row execute function own()",
        "A trigger of the database refuses it",
    ),
    "length": (
        "alter table users alter email type varchar(6); "
        "alter table profiles alter name type varchar(6); "
        "alter table titles alter title type varchar(7)",
        "A text is longer than its column in the database allows",
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("table", ["users", "profiles", "titles"])
async def test_a_rule_of_the_platform_is_answered_with_a_sentence_without_values(
    operated: Running,
    adopted: Connection,
    administrator: dict[str, str],
    bare: Family,
    table: str,
    rule: str,
) -> None:
    change, sentence = RULES[rule]
    await adopted.execute(change.format(table=table))
    key = uuid4()
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "users": ("account", {"email": "secret@example.test"}),
        "profiles": (
            "profile",
            {"account_id": str(bare.account), "name": "secret name", "is_kids": True},
        ),
        "titles": ("title", {"title": "secret title", "is_educational": True}),
    }
    kind, body = kinds[table]
    url = f"{ADMIN}/{kind}s/{key}"
    answer = await operated.client.put(url, json=body, headers=administrator)
    rejection = {"detail": sentence.format(table=table)}
    assert (answer.status_code, answer.json()) == (409, rejection)
    for mode in ("all", "best"):
        content = json.dumps({"type": kind, "id": str(key), **body})
        answer = await operated.client.post(
            f"{ADMIN}/import?mode={mode}", content=content, headers=administrator
        )
        assert (answer.status_code, answer.json()) == (409, rejection)


@pytest.mark.parametrize(
    ("change", "method", "path", "body"),
    [
        ("alter table time_grants add tenant uuid not null", "POST", "/grant", {"minutes": 15}),
        (
            "alter table viewing_time_configs add check (weekday_limit_minutes > 30)",
            "PUT",
            "",
            {"weekday_limit_minutes": 15},
        ),
    ],
)
async def test_a_rule_of_the_platform_behind_a_parents_request_is_answered_500(
    operated: Running,
    adopted: Connection,
    bare: Family,
    change: str,
    method: str,
    path: str,
    body: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await adopted.execute(change)
    url = f"/api/v1/parental-controls/profiles/{bare.child}/viewing-time{path}"
    answer = await operated.client.request(method, url, json=body, headers=bare.bearer)
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    assert [line.levelname for line in caplog.records].count("ERROR") == 1


def test_limits_are_kept_when_other_columns_are_null() -> None:
    assert rules.stored_or_default(60, None, None, None, None) == rules.Configuration(
        60, None, 6, True, "UTC"
    )
    assert rules.stored_or_default(None, None, 4, None, None) == rules.Configuration(
        None, None, 4, True, "UTC"
    )
    assert rules.stored_or_default(None, None, None, None, None) == rules.DEFAULTS
