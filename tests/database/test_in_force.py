"""Defaults of a role or a database have no effect, or are reported with a line to copy."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.command.check_database import startup_error
from service.database import connector, cures, in_force, migrate, pool
from service.database.driver import Connection
from service.database_errors import Unavailable
from service.settings import Settings
from tests.command.test_main import refused
from tests.conftest import Starter, named
from tests.family import SECRET, Family, session_seconds
from tests.players.test_heartbeat import beat


class Role:
    """A role for one test, which sets its defaults."""

    def __init__(self, operator: Connection, name: str, database: str, url: str) -> None:
        self.operator, self.name, self.database, self.url = operator, name, database, url

    async def set(self, setting: str, place: str = "role") -> None:
        where = {
            "role": f"role {self.name}",
            "database": f"database {self.database}",
            "database user": f"role {self.name} in database {self.database}",
        }[place]
        await self.operator.execute(f"alter {where} set {setting}")


@pytest.fixture
async def role(connection: Connection, database: str) -> AsyncIterator[Role]:
    name, here = f"odd_{uuid4().hex}", await connection.fetchval("select current_database()")
    await connection.execute(f"create role {name} login superuser")
    await connection.execute(f"alter role {name} set synchronous_commit = on")
    yield Role(connection, name, here, f"{database}&user={name}")
    await connection.execute(f"drop role {name}")


def settings_for(role: Role, *, pooled: bool = False) -> Settings:
    return Settings(database_url=role.url, jwt_secret="", statement_cache_size=0 if pooled else 100)


ODD = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "datestyle": ("'SQL, DMY'", "ISO, MDY"),
    "intervalstyle": ("sql_standard", "postgres"),
    "timezone": ("'Asia/Tokyo'", "UTC"),
    "statement_timeout": ("100", "0"),
    "lock_timeout": ("100000", "500ms"),
    "idle_in_transaction_session_timeout": ("100", "1min"),
    "idle_session_timeout": ("100", "0"),
    "transaction_timeout": ("100", "0"),
    "exit_on_error": ("on", "off"),
    "jit": ("on", "off"),
    "plan_cache_mode": ("force_custom_plan", "force_generic_plan"),
    "standard_conforming_strings": ("off", "on"),
    "synchronous_commit": ("off", "on"),
}


@pytest.mark.parametrize("place", ["role", "database", "database user"])
async def test_defaults_of_a_role_do_not_matter_on_a_direct_connection(
    role: Role, place: str
) -> None:
    names = {row["name"] for row in await role.operator.fetch("select name from pg_settings")}
    odd = {name: values for name, values in ODD.items() if name in {*map(str.lower, names)}}
    for name, (value, _) in odd.items():
        await role.set(f"{name} = {value}", place)
    opened = await pool.connect(settings_for(role))
    try:
        seen = {name: await opened.fetchval(f"show {name}") for name in odd}
    finally:
        await opened.close()
    assert seen == {name: right for name, (_, right) in odd.items()}


@pytest.mark.parametrize("value", ["remote_apply", "remote_write", "local"])
async def test_synchronous_commit_other_than_off_is_kept(role: Role, value: str) -> None:
    await role.set(f"synchronous_commit = {value}")
    opened = await pool.connect(settings_for(role))
    try:
        assert await opened.fetchval("show synchronous_commit") == value
    finally:
        await opened.close()


async def problems(role: Role, *, pooled: bool = False) -> list[cures.Problem]:
    settings = settings_for(role, pooled=pooled)
    opened = await pool.connect(settings)
    try:
        return await in_force.problems(opened, settings)
    finally:
        await opened.close()


@pytest.mark.parametrize("place", ["role", "database", "database user"])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("setting", "right"),
    [
        ("default_transaction_read_only = on", "default_transaction_read_only = off"),
        ("session_replication_role = replica", "session_replication_role = origin"),
        ("default_transaction_isolation = 'repeatable read'", None),
    ],
)
async def test_a_setting_that_breaks_the_service_refuses_the_start_with_a_line_to_copy(
    role: Role, setting: str, right: str | None, pooled: bool, place: str
) -> None:
    await role.set(setting, place)
    found = await problems(role, pooled=pooled)
    if right is None and not pooled:
        assert found == []
        return
    right = right or "default_transaction_isolation = 'read committed'"
    assert found[0].level == "refuse"
    assert found[0].text.startswith(setting.partition(" ")[0])
    (line,) = re.findall("`(.*)`", found[0].remedy)
    assert line.endswith(f"set {right}")
    await role.operator.execute(line)
    assert [one for one in await problems(role, pooled=pooled) if one.level == "refuse"] == []


@pytest.mark.parametrize(
    ("setting", "level"),
    [
        ("synchronous_commit = off", "fault"),
        ("lock_timeout = 0", "fault"),
        ("lock_timeout = 60000", "fault"),
        ("statement_timeout = 1500", "fault"),
        ("exit_on_error = on", "fault"),
        ("jit = on", "warn"),
        ("plan_cache_mode = auto", "warn"),
    ],
)
async def test_each_wrong_setting_behind_a_pooler_is_reported_with_a_line_to_copy(
    role: Role, setting: str, level: str
) -> None:
    for right in ("jit = off", "plan_cache_mode = force_generic_plan", "lock_timeout = 500"):
        await role.set(right)
    assert await problems(role, pooled=True) == []
    await role.set(setting)
    (found,) = await problems(role, pooled=True)
    assert (found.level, found.text.split()[0]) == (level, setting.split()[0])
    (line,) = re.findall("`(.*)`", found.remedy)
    await role.operator.execute(line)
    assert await problems(role, pooled=True) == []


async def test_commits_that_a_crash_could_lose_are_a_warning_on_direct_connections(
    role: Role,
) -> None:
    await role.set("synchronous_commit = off")
    (found,) = await problems(role)
    assert (found.level, found.remedy) == (
        "warn",
        "the service sets it to on for its own connections",
    )


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_an_encoding_that_cannot_hold_every_name_is_refused(
    postgres_dsn: str, role: Role, encoding: str
) -> None:
    name = f"odd_{uuid4().hex}"
    await role.operator.execute(
        f"create database {name} template template0 encoding '{encoding}' "
        "locale_provider libc lc_collate 'C' lc_ctype 'C'"
        if role.operator.get_server_version().major >= 15
        else f"create database {name} template template0 encoding '{encoding}' "
        "lc_collate 'C' lc_ctype 'C'"
    )
    try:
        there = msgspec.structs.replace(settings_for(role), database_url=named(postgres_dsn, name))
        opened = await pool.connect(there)
        (found, *_) = await in_force.problems(opened, there)
        await opened.close()
        with pytest.raises(migrate.MigrationError, match=f"has the encoding {encoding}, not UTF8"):
            await asyncio.to_thread(migrate.migrate, there.database_url)
    finally:
        await role.operator.execute(f"drop database {name}")
    assert (found.level, found.text) == (
        "refuse",
        f"database {name} has the encoding {encoding}, not UTF8",
    )


async def test_serve_refuses_in_one_sentence(role: Role, tmp_path: Path) -> None:
    await role.set("default_transaction_read_only = on")
    status, output = await asyncio.to_thread(
        refused, tmp_path, "serve", DATABASE_URL=role.url, JWT_SECRET=SECRET
    )
    assert (status, output) == (
        1,
        "Error: Cannot use the database at DATABASE_URL: default_transaction_read_only is on for "
        "the role: nothing can be written; a managed server sets it while its disk is full: "
        f'`alter role "{role.name}" set default_transaction_read_only = off`.',
    )
    status, output = await asyncio.to_thread(refused, tmp_path, "migrate", DATABASE_URL=role.url)
    assert "default_transaction_read_only is on for the role" in output


async def test_pooler_that_ignores_start_parameters_is_reported(role: Role) -> None:
    settings = settings_for(role)
    opened = await asyncpg.connect(role.url, server_settings={"jit": "off"})
    try:
        (found, *_) = await in_force.problems(opened, settings)
    finally:
        await opened.close()
    assert (found.level, found.remedy) == (
        "refuse",
        "a pooler is between: set STATEMENT_CACHE_SIZE=0",
    )
    assert connector.ALWAYS["jit"] == "off"


async def test_two_instances_do_not_fail_each_other_over_a_role_that_is_serializable(
    role: Role, start: Starter, settings: Settings, family: Family
) -> None:
    await role.set("default_transaction_isolation = serializable")
    settings = msgspec.structs.replace(settings, database_url=role.url)
    instances = [await start(settings), await start(settings)]
    session = (await beat(instances[0], family))["session_id"]
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time/grant"
    answers = await asyncio.gather(
        *(beat(running, family, session_id=session) for running in instances * 30),
        *(
            running.client.post(url, json={"minutes": 15}, headers=family.bearer)
            for running in instances * 10
        ),
    )
    assert {one["enforcement"] for one in answers if isinstance(one, dict)} == {"allowed"}
    assert {one.status_code for one in answers if not isinstance(one, dict)} == {200}
    assert await session_seconds(role.operator, family.child) == 61 * 30


async def test_serve_starts_with_one_warning_about_commits_that_a_crash_could_lose(
    role: Role, caplog: pytest.LogCaptureFixture
) -> None:
    await role.set("synchronous_commit = off")
    assert await startup_error(settings_for(role)) == ""
    assert [record.getMessage() for record in caplog.records] == ["database_setting"]


async def test_a_read_only_default_is_named_if_no_host_accepts_writes(
    role: Role,
) -> None:
    await role.set("default_transaction_read_only = on")
    settings = msgspec.structs.replace(
        settings_for(role), database_url=f"{role.url}&target_session_attrs=read-write"
    )
    with pytest.raises(Unavailable) as raised:
        await pool.connect(settings)
    assert "default_transaction_read_only is on" in cures.sentence(raised.value)
