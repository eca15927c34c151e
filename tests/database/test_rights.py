"""The documented rights are enough and necessary, and `check` names missing ones."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from bench.ports import free_port
from service.app import utc_now
from service.command.check import findings
from service.database import tables
from service.database.driver import Connection
from service.database.pool import connect
from service.database.schema import TABLES
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.database.test_sql import STATEMENTS
from tests.family import PIN, SECRET, Family
from tests.players.test_heartbeat import beat

TITLE = {"type": "title", "id": str(uuid4()), "title": "x", "is_educational": True}
RIGHTS = ("select", "insert", "update", "delete")
FUNCTIONS = (
    "viewing_session_begin",
    "viewing_clock_count",
    "viewing_policies",
    "viewing_past_balances",
    "viewing_day_balances",
    "viewing_balances_add",
    "viewing_announce",
    "viewing_is_close",
    "viewing_balances_open",
    "viewing_earlier_parts",
    "viewing_session_is_displaced",
    "viewing_event_id",
    "viewing_balance_month_add",
    "viewing_balance_month_drop",
)
# Needed by a function, which `explain` does not look into.
IN_FUNCTIONS = {("viewing_clocks", "insert")}
# Part of the grants, so that they are the same for all tables.
NOT_USED = {
    ("viewing_event_feed", "delete"),
    *((table, right) for table in TABLES[-3:-1] for right in ("insert", "update", "delete")),
    ("viewing_cell_accounts", "delete"),
}
# Run by the role that migrates, or for development only.
NOT_SERVED = (
    "migration_applied",
    "demo_load",
    "import_stage",
    "import_unstage",
    "cell_slots_write",
    "migration_cell_join",
    "cell_census",
    "heartbeat_call",  # its function is in cells of Citus only
)


# Of `viewing-time cells`.
COMMANDS = ("cell_move_", "cell_entries_", "cell_slots_", "cell_slot_")


class Narrow:
    """A role with the rights that are documented, and no other."""

    def __init__(self, operator: Connection, name: str, url: str) -> None:
        self.operator, self.name, self.url = operator, name, url

    async def may(self, change: str) -> None:
        """`grant ... to` or `revoke ... from` the role."""
        await self.operator.execute(f"{change} {self.name}")

    async def missing(self, settings: Settings) -> list[str]:
        """The reported missing rights; executes the remedies, which must grant all of them."""
        opened = await connect(msgspec.structs.replace(settings, database_url=self.url))
        try:
            found = await tables.missing_rights(opened)
            for problem in found:
                await self.operator.execute(problem.remedy.strip("`"))
            assert await tables.missing_rights(opened) == []
        finally:
            await opened.close()
        return [problem.text.removeprefix(f"role {self.name} may not ") for problem in found]


@pytest.fixture
async def narrow(connection: Connection, database: str) -> AsyncIterator[Narrow]:
    name, here = f"narrow_{uuid4().hex}", await connection.fetchval("select current_database()")
    await connection.execute(f"create role {name} login")
    for change in (
        f"alter database {here} set synchronous_commit = on",
        f"revoke all on database {here} from public",
        "revoke all on schema public from public",
        "revoke all on all functions in schema public from public",
        f"grant connect, temporary on database {here} to {name}",
        f"grant usage on schema public to {name}",
        f"grant select, insert, update, delete on {', '.join(TABLES)} to {name}",
        f"grant execute on function {', '.join(FUNCTIONS)} to {name}",
    ):
        await connection.execute(change)
    yield Narrow(connection, name, f"{database}&user={name}")
    await connection.execute(f"drop owned by {name}")
    await connection.execute(f"drop role {name}")


async def test_check_is_ok_for_a_role_with_only_these_rights(narrow: Narrow) -> None:
    environment = {"DATABASE_URL": narrow.url, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    found = await asyncio.to_thread(lambda: [*findings(environment, 1, utc_now)])
    assert [str(finding) for finding in found if finding.level != "ok"] == []


async def test_the_service_needs_no_further_right(
    narrow: Narrow, start: Starter, settings: Settings, family: Family, admin: dict[str, str]
) -> None:
    running: Running = await start(
        msgspec.structs.replace(settings, database_url=narrow.url, credit="clock")
    )
    session = (await beat(running, family))["session_id"]
    assert (await beat(running, family, session_id=session))["enforcement"] == "allowed"
    parental, child = "/api/v1/parental-controls", f"profiles/{family.child}"
    for method, path, headers, body in (
        ("GET", f"/api/v1/viewing-time/balance/{family.child}", family.bearer, None),
        ("PUT", f"{parental}/{child}/viewing-time", family.bearer, {"weekday_limit_minutes": 30}),
        ("POST", f"{parental}/{child}/viewing-time/grant", family.bearer, {"pin": PIN}),
        ("POST", f"{parental}/pin/verify", family.bearer, {"pin": PIN}),
        ("GET", f"{parental}/weekly-report", family.bearer, None),
        ("POST", f"/api/v1/viewing-time/session/{session}/end", family.bearer, None),
        ("POST", "/api/v1/admin/import", admin, TITLE),
        ("DELETE", f"/api/v1/admin/{child}/viewing-data", admin, None),
        ("DELETE", f"/api/v1/admin/titles/{family.title}", admin, None),
        ("DELETE", f"/api/v1/admin/accounts/{family.account}", admin, None),
    ):
        answer = await running.client.request(method, path, headers=headers, json=body)
        assert answer.status_code in (200, 204), (path, answer.text)


async def test_the_statements_need_only_these_rights(
    connection: Connection, narrow: Narrow
) -> None:
    if connection.get_server_version().major < 16:
        pytest.skip("explains statements with parameters from PostgreSQL 16 on")
    served = [name for name in STATEMENTS if name not in NOT_SERVED]
    texts = [STATEMENTS[name].text for name in served if not name.startswith(COMMANDS)]
    await connection.execute(STATEMENTS["import_stage"].text.replace("on commit drop", ""))
    await narrow.may("grant all on import_lines to")
    needed = set()
    for table in TABLES:
        for right in RIGHTS:
            await narrow.may(f"revoke {right} on {table} from")
            await narrow.may("set role")
            try:
                for text in texts:
                    await connection.execute(f"explain (generic_plan) {text}")
            except asyncpg.InsufficientPrivilegeError:
                needed.add((table, right))
            finally:
                await connection.execute("reset role")
                await narrow.may(f"grant {right} on {table} to")
    all_rights = {(table, right) for table in TABLES for right in RIGHTS}
    assert needed == all_rights - IN_FUNCTIONS - NOT_USED


@pytest.mark.parametrize(
    ("revoked", "missing"),
    [
        ("select on users", "select on table users"),
        ("delete, update on time_grants", "update, delete on table time_grants"),
        ("execute on function viewing_session_begin", None),
    ],
)
async def test_missing_right_is_reported_with_its_grant(
    narrow: Narrow, settings: Settings, revoked: str, missing: str | None
) -> None:
    assert await narrow.missing(settings) == []
    await narrow.may(f"revoke {revoked} from")
    assert await narrow.missing(settings) == [
        missing or "execute on function viewing_session_begin(uuid, timestamptz, text)"
    ]


async def test_import_without_the_right_to_temporary_tables_is_reported_in_one_sentence(
    narrow: Narrow, start: Starter, settings: Settings, admin: dict[str, str]
) -> None:
    here = await narrow.operator.fetchval("select current_database()")
    await narrow.may(f"revoke temporary on database {here} from")
    running: Running = await start(msgspec.structs.replace(settings, database_url=narrow.url))
    answer = await running.client.post("/api/v1/admin/import", headers=admin, content="{}")
    assert (answer.status_code, answer.json()) == (
        409,
        {"detail": "The role of the service lacks a right; viewing-time check names it"},
    )
    assert await narrow.missing(settings) == [f"temporary on database {here}"]
