"""Administrators insert, update, deactivate and delete accounts."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from service.database import migrate
from service.database.driver import Connection
from service.settings import Settings
from tests.conftest import ROOT, Running, Starter
from tests.family import HEARTBEAT, PASSWORD, PASSWORD_HASH, Family, add_family, bearer

NOT_ADMIN = {"detail": "Admin privileges required"}
LEGACY = ROOT / "tests/legacy_schema.sql"


def url(account: UUID | str) -> str:
    return f"/api/v1/admin/accounts/{account}"


async def put(
    running: Running, admin: dict[str, str], account: UUID, **members: Any
) -> dict[str, Any]:
    answer = await running.client.put(url(account), json=members, headers=admin)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def beat(running: Running, family: Family) -> Any:
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    return answer.status_code, answer.json()


async def test_rejected_row_is_not_logged(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await connection.execute("alter table users add phone text not null default ''")
    await connection.execute("alter table users alter phone drop default")
    body = {"email": "secret@example.test", "password_hash": PASSWORD_HASH}
    answer = await running.client.put(url(uuid4()), json=body, headers=admin)
    assert answer.json() == {"detail": "Column phone of table users needs a value"}
    assert answer.status_code == 409
    assert "secret@example.test" not in caplog.text
    assert PASSWORD_HASH not in caplog.text


async def test_new_account_gets_the_defaults_of_the_table(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    account = uuid4()
    shown = await put(running, admin, account, email="new@example.test")
    assert shown == {
        "id": str(account),
        "email": "new@example.test",
        "subscription_tier": "basic",
        "is_admin": False,
        "is_active": True,
    }
    row = await connection.fetchrow("select * from users where id = $1", account)
    assert row is not None
    assert (row["password_hash"], row["pin_failed_attempts"]) == ("!", 0)
    assert row["created_at"] is not None
    status = await running.client.get(
        "/api/v1/parental-controls/pin/status", headers=bearer(account)
    )
    assert status.json() == {"has_pin": False, "locked_until": None}


async def test_repeated_put_changes_nothing_and_keeps_absent_members(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    rows = "select md5(string_agg(u::text, '' order by u.id)) from users as u"
    members = {"email": "a@example.test", "subscription_tier": "gold", "is_admin": True}
    first = await put(running, admin, family.account, **members)
    before = await connection.fetchval(rows)
    assert await put(running, admin, family.account, email="a@example.test") == first
    assert await connection.fetchval(rows) == before
    row = await connection.fetchrow("select * from users where id = $1", family.account)
    assert row is not None
    assert row["password_hash"] == PASSWORD_HASH
    assert row["pin_hash"] is not None


async def test_put_password_hash_verifies_the_parent_and_is_not_returned(
    running: Running, admin: dict[str, str]
) -> None:
    account = uuid4()
    shown = await put(running, admin, account, email="p@example.test", password_hash=PASSWORD_HASH)
    assert "password_hash" not in shown
    for password, status in ((PASSWORD, 200), ("another", 401)):
        answer = await running.client.post(
            "/api/v1/parental-controls/pin/reset",
            json={"password": password, "new_pin": "4321"},
            headers=bearer(account),
        )
        assert answer.status_code == status


async def test_deactivated_account_gets_401_on_its_next_heartbeat(
    running: Running, admin: dict[str, str], family: Family
) -> None:
    assert (await beat(running, family))[0] == 200
    email = f"{family.account}@example.test"
    await put(running, admin, family.account, email=email, is_active=False)
    assert await beat(running, family) == (401, {"detail": "User not found or inactive"})
    await put(running, admin, family.account, email=email, is_active=True)
    assert (await beat(running, family))[0] == 200


async def test_email_address_of_another_account_is_409(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    for account in (uuid4(), (await add_family(connection)).account):
        answer = await running.client.put(
            url(account), json={"email": f"{family.account}@example.test"}, headers=admin
        )
        assert answer.status_code == 409
        assert answer.json() == {"detail": "Email belongs to another account"}


@pytest.mark.parametrize(
    ("members", "kind", "field"),
    [
        ({}, "missing", "email"),
        ({"email": None}, "string_type", "email"),
        ({"email": ""}, "string_too_short", "email"),
        ({"email": "e" * 256}, "string_too_long", "email"),
        ({"email": "a\0b"}, "value_error", "email"),
        ({"email": "a", "is_active": None}, "bool_type", "is_active"),
        ({"email": "a", "subscription_tier": "x" * 21}, "string_too_long", "subscription_tier"),
        ({"email": "a", "password_hash": "secret"}, "string_pattern_mismatch", "password_hash"),
        ({"email": "a", "password_hash": PASSWORD_HASH.replace("$04$", "$31$")}, None, None),
        ({"email": "a", "password_hash": PASSWORD_HASH + "\n"}, None, None),
    ],
)
async def test_bad_values_change_nothing_and_hashes_are_not_echoed(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    members: dict[str, Any],
    kind: str | None,
    field: str | None,
) -> None:
    answer = await running.client.put(url(uuid4()), json=members, headers=admin)
    assert answer.status_code == 422
    entry = answer.json()["detail"][0]
    if kind is not None:
        assert (entry["type"], entry["loc"]) == (kind, ["body", field])
    if "password_hash" in members:
        assert entry["input"] is None
        assert members["password_hash"].strip() not in answer.text
    assert await connection.fetchval("select count(*) from users") == 1


async def test_deletion_removes_the_account_with_its_data_and_nothing_else(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    other = await add_family(connection)
    for watching in (family, other):
        assert (await beat(running, watching))[0] == 200
    assert (await running.client.delete(url(family.account), headers=admin)).status_code == 204
    for table, left in (
        ("profiles", 2),
        ("viewing_sessions", 1),
        ("viewing_time_balances", 1),
        ("viewing_time_configs", 1),
        ("titles", 4),
    ):
        assert await connection.fetchval(f"select count(*) from {table}") == left
    assert (await beat(running, family))[0] == 401
    assert (await beat(running, other))[0] == 200
    again = await running.client.delete(url(family.account), headers=admin)
    assert (again.status_code, again.json()) == (404, {"detail": "Account not found"})


@pytest.mark.parametrize("path", ["accounts", "profiles", "titles"])
async def test_non_administrators_are_refused_and_change_nothing(
    running: Running, connection: Connection, family: Family, path: str
) -> None:
    rows = (
        "select (select md5(string_agg(u::text, '')) from users as u), "
        "(select md5(string_agg(p::text, '')) from profiles as p), "
        "(select md5(string_agg(t::text, '')) from titles as t)"
    )
    before = await connection.fetchrow(rows)
    ids = {"accounts": family.account, "profiles": family.child, "titles": family.title}
    target = f"/api/v1/admin/{path}/{ids[path]}"
    body = {
        "accounts": {"email": "taken@example.test", "is_admin": True},
        "profiles": {"account_id": str(family.account), "name": "Eve", "is_kids": False},
        "titles": {"title": "Mine", "is_educational": True},
    }[path]
    claimed = bearer(family.account, is_admin=True)
    for headers, status in ((claimed, 403), (bearer(uuid4()), 401), ({}, 401)):
        answer = await running.client.put(target, json=body, headers=headers)
        assert answer.status_code == status
        answer = await running.client.delete(target, headers=headers)
        assert answer.status_code == status
        if status == 403:
            assert answer.json() == NOT_ADMIN
    assert await connection.fetchrow(rows) == before


@pytest.mark.parametrize("path", ["accounts", "profiles", "titles"])
async def test_path_that_is_not_a_uuid_is_422(
    running: Running, admin: dict[str, str], path: str
) -> None:
    answer = await running.client.delete(f"/api/v1/admin/{path}/17", headers=admin)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["path", f"{path[:-1]}_id"]


async def test_adopted_tables_without_defaults_accept_all_three_kinds(
    start: Starter, settings: Settings, empty_database: str
) -> None:
    legacy = await asyncpg.connect(empty_database)
    try:
        await legacy.execute(LEGACY.read_text(encoding="utf-8"))
        migrate.migrate(empty_database)
        administrator, account, profile, title = uuid4(), uuid4(), uuid4(), uuid4()
        await legacy.execute(
            "insert into users (id, email, password_hash, is_admin) values ($1, 'a', '!', true)",
            administrator,
        )
        # Adopted tables can lack defaults, so statements set every column.
        for table, columns in (
            ("users", "subscription_tier, is_admin, is_active, created_at, pin_failed_attempts"),
            ("profiles", "parental_rating, is_kids, created_at"),
            ("titles", "is_featured, is_educational, created_at"),
        ):
            for column in columns.split(", "):
                await legacy.execute(f"alter table {table} alter {column} drop default")
        running = await start(msgspec.structs.replace(settings, database_url=empty_database))
        headers = bearer(administrator)
        for path, body in (
            (f"accounts/{account}", {"email": "b"}),
            (
                f"profiles/{profile}",
                {"account_id": str(account), "name": "Ada", "is_kids": True},
            ),
            (f"titles/{title}", {"title": "Planets", "is_educational": True}),
        ):
            for _ in range(2):
                answer = await running.client.put(
                    f"/api/v1/admin/{path}", json=body, headers=headers
                )
                assert answer.status_code == 200, answer.text
        lines = "\n".join(
            (
                f'{{"type":"account","id":"{uuid4()}","email":"c"}}',
                f'{{"type":"title","id":"{uuid4()}","title":"T","is_educational":false}}',
                f'{{"type":"profile","id":"{uuid4()}","account_id":"{account}","name":"Ben",'
                '"is_kids":false}',
            )
        )
        answer = await running.client.post("/api/v1/admin/import", content=lines, headers=headers)
        assert answer.status_code == 200, answer.text
        assert await legacy.fetchval("select count(*) from profiles") == 2
    finally:
        await legacy.close()
