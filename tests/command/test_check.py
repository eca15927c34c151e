"""`viewing-time check` reports every obstacle to serving, with a remedy."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from click.testing import CliRunner

from bench.ports import free_port
from service import listeners
from service.app import utc_now
from service.command import check, check_database
from service.command.check import Finding, findings
from service.command.check_database import ServerRow, connections
from service.command.main import main
from service.credentials import jwks
from service.database.driver import Connection
from service.listeners import bound
from service.settings import Settings
from service.viewing import rules
from tests.conftest import RunningService, Starter, served
from tests.credentials.signing_platform import Platform, jwk, private_key, publishing
from tests.eventually import eventually
from tests.family import SECRET
from tests.faults.receiver import SECRET as WEBHOOK_SECRET

REPORT = re.compile(r"(ok   |warn |FAULT) \S.*")


@pytest.fixture
async def environment(database: str, connection: Connection) -> dict[str, str]:
    """Settings with which every check passes."""
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set synchronous_commit = on")
    return {
        "DATABASE_URL": database,
        "JWT_SECRET": SECRET,
        "PORT": str(free_port()),
        "HEARTBEAT_QUEUE_MAX": "500",  # works with a low limit of open files
    }


async def all_findings(
    environment: dict[str, str], instances: int = 1, ahead: float = 0.0
) -> list[Finding]:
    """All findings; the service's clock is `ahead` seconds ahead of the database's."""

    def now() -> datetime:
        return utc_now() + timedelta(seconds=ahead)

    return await asyncio.to_thread(lambda: list(findings(environment, instances, now)))


async def problems(
    environment: dict[str, str], instances: int = 1, ahead: float = 0.0
) -> list[str]:
    """The lines of the findings that are not ok."""
    report = await all_findings(environment, instances, ahead)
    assert all(finding.remedy for finding in report if finding.level != "ok")
    return [str(finding) for finding in report if finding.level != "ok"]


async def test_all_checks_pass(environment: dict[str, str]) -> None:
    report = await all_findings(environment)
    assert [finding.level for finding in report] == ["ok"] * 12
    words = [finding.text.split()[0] for finding in report]
    assert words == [
        "settings", "players:", "database", "settings", "migrations:", "tables", "tables",
        "the",
        "clock", "connections:", "time", "port:",
    ]  # fmt: skip


async def test_a_kernel_that_lets_few_connections_wait_is_reported(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "SOMAXCONN", tmp_path / "somaxconn")
    assert await problems(environment) == []
    (tmp_path / "somaxconn").write_text("16\n")
    assert await problems(environment) == [
        "warn  players: if more than 256 connect at once, the others wait for a second; "
        "HEARTBEAT_QUEUE_MAX is 500: set the kernel's net.core.somaxconn to 32 or more"
    ]


async def test_all_setting_errors_are_reported_at_once() -> None:
    environment = {"DATABASE_URL": "postgres//x", "POOL_MAX_SIZE": "ten", "JWT_SECRET": "hunter2"}
    assert await problems(environment) == [
        "FAULT settings: DATABASE_URL must look like postgresql://user:password@host:5432/database.",
        "FAULT settings: JWT_SECRET must be at least 32 characters long.",
        "FAULT settings: POOL_MAX_SIZE must be a whole number from 1 to 1000, not 'ten'.",
    ]


async def test_unreachable_or_missing_database_is_a_fault(environment: dict[str, str]) -> None:
    dsn = f"postgresql://vt:hunter2@127.0.0.1:{free_port()}/vt"
    (line,) = await problems({**environment, "DATABASE_URL": dsn})
    assert line.startswith("FAULT database cannot be reached (ConnectionRefusedError")
    assert line.endswith(
        "check DATABASE_URL, and that the server runs and accepts connections from here"
    )
    assert "hunter2" not in line
    missing = environment["DATABASE_URL"].replace("test_", "missing_")
    (line,) = await problems({**environment, "DATABASE_URL": missing})
    assert line.startswith("FAULT database cannot be reached (InvalidCatalogNameError: database")


async def test_unapplied_migrations_are_a_fault(
    environment: dict[str, str], connection: Connection
) -> None:
    await connection.execute("delete from _yoyo_migration where migration_id >= '0005'")
    (line,) = await problems(environment)
    pattern = r"FAULT \d+ of \d+ migrations are not applied, from 0005_\w+ on: run `viewing-time "
    assert re.match(pattern, line)


async def test_database_without_tables_is_a_fault(
    environment: dict[str, str], empty_database: str
) -> None:
    lines = await problems({**environment, "DATABASE_URL": empty_database})
    (line,) = [line for line in lines if "synchronous_commit" not in line]
    assert re.match(r"FAULT (\d+) of \1 migrations are not applied, from 0001_tables on: ", line)


async def test_migrations_of_a_later_version_are_a_warning(
    environment: dict[str, str], connection: Connection
) -> None:
    await connection.execute(
        "insert into _yoyo_migration (migration_hash, migration_id) values ('x', '9999_later')"
    )
    assert await problems(environment) == [
        "warn  migrations: 9999_later belongs to another version: "
        "run the version that migrated the database, or a later one"
    ]


@pytest.mark.parametrize(
    ("ahead", "line"),
    [
        (5.0, "warn  clock is 5.0 s ahead of the database's: synchronize both by NTP"),
        (-3600.0, "FAULT clock is 3600.0 s behind the database's: synchronize both by NTP"),
    ],
)
async def test_clock_difference_is_reported(
    environment: dict[str, str], ahead: float, line: str
) -> None:
    assert line in [str(finding) for finding in await all_findings(environment, ahead=ahead)]


async def test_more_connections_than_the_server_allows_are_a_fault(
    environment: dict[str, str], connection: Connection
) -> None:
    variables = {**environment, "POOL_MAX_SIZE": "16", "HEARTBEAT_CONNECTIONS": "4"}
    assert await problems(variables, instances=7) == []
    scheduled = {**variables, "RETENTION_INTERVAL_HOURS": "24"}
    assert "connections: 7 x 30" in "".join(await problems(scheduled, instances=7))
    assert await problems(variables, instances=8) == [
        "FAULT connections: 8 x 27, of 197 that the server allows: "
        "lower POOL_MAX_SIZE, raise max_connections, or put a pooler between"
    ]
    several = {**variables, "WEB_CONCURRENCY": "4"}
    assert await problems(several, instances=2) == [
        "FAULT connections: 2 x 4 x 27, of 197 that the server allows: "
        "lower POOL_MAX_SIZE or WEB_CONCURRENCY, raise max_connections, or put a pooler between"
    ]
    pooled = {**variables, "STATEMENT_CACHE_SIZE": "0"}
    name = await connection.fetchval("select current_database()")
    for setting in ("jit = off", "lock_timeout = 500", "plan_cache_mode = force_generic_plan"):
        await connection.execute(f"alter database {name} set {setting}")
    assert await problems(pooled, instances=8) == [
        "warn  changes made by other instances are not received through a pooler: "
        "set DATABASE_DIRECT_URL to the server's own address"
    ]
    direct = {**pooled, "DATABASE_DIRECT_URL": environment["DATABASE_URL"]}
    assert await problems(direct, instances=8) == []


async def test_connections_that_are_counted_are_those_of_a_running_service(
    start: Starter, settings: Settings, connection: Connection
) -> None:
    sends = {"webhook_url": f"http://127.0.0.1:{free_port()}", "webhook_secret": WEBHOOK_SECRET}
    busy = msgspec.structs.replace(settings, pool_min_size=4, **sends)
    await start(busy)
    own = (
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and application_name like 'viewing-time%'"
    )
    # An import, a background deletion and a second load of policies open one each.
    opened = connections(busy) - 3
    assert await eventually(lambda: connection.fetchval(own), until=lambda n: n >= opened) == opened


async def test_a_standby_that_cannot_be_read_is_a_warning(environment: dict[str, str]) -> None:
    variables = {**environment, "DATABASE_READ_URL": environment["DATABASE_URL"]}
    [line] = await problems(variables)
    assert line.startswith("warn  no standby can be read at DATABASE_READ_URL (")
    assert line.endswith("): start a standby there; until then the primary is read")


async def test_connections_of_other_clients_are_subtracted(
    environment: dict[str, str], postgres_dsn: str
) -> None:
    variables = {**environment, "POOL_MAX_SIZE": "90", "HEARTBEAT_CONNECTIONS": "1"}
    async with AsyncExitStack() as others:
        for _ in range(3):
            other = await asyncpg.connect(postgres_dsn)
            others.push_async_callback(other.close)
        (line,) = await problems(variables, instances=2)
    assert "2 x 98, of 197 that the server allows, of which other clients use " in line


@pytest.fixture
async def narrow_role(connection: Connection) -> AsyncIterator[str]:
    """A role without rights that may hold nine connections."""
    name = f"narrow_{uuid4().hex}"
    await connection.execute(f"create role {name} login connection limit 9")
    await connection.execute(f"grant select on _yoyo_migration to {name}")
    yield name
    await connection.execute(f"drop owned by {name}")
    await connection.execute(f"drop role {name}")


async def test_connection_limit_of_the_role_applies(
    environment: dict[str, str], narrow_role: str
) -> None:
    dsn = f"{environment['DATABASE_URL']}&user={narrow_role}"
    lines = await problems({**environment, "DATABASE_URL": dsn})
    assert any("1 x 17, of 9 that the server allows" in line for line in lines)


@pytest.mark.parametrize(
    ("version", "is_standby", "line"),
    [
        (120_022, False, "FAULT database is PostgreSQL 12.22: upgrade it to 13 or later"),
        (130_000, False, "ok    database is PostgreSQL 13.0"),
        (180_006, False, "ok    database is PostgreSQL 18.6"),
        (
            190_001,
            False,
            "warn  database is PostgreSQL 19.1: 13 to 18 are tested; try a copy first",
        ),
        (
            180_006,
            True,
            "FAULT database is PostgreSQL 18.6, a standby that only reads: "
            "point DATABASE_URL at the primary",
        ),
    ],
)
def test_postgresql_version_is_reported(version: int, is_standby: bool, line: str) -> None:
    server = ServerRow(version, utc_now(), is_standby, 97, 0)
    assert [str(finding) for finding in check_database._version(server)] == [line]


async def test_missing_time_zones_are_a_fault(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "zone", lambda name: None if "/" in name else utc_now().tzinfo)
    (line,) = await problems(environment)
    assert line == (
        "FAULT time zones are unknown "
        "(Europe/Berlin, America/New_York, Asia/Kolkata, Australia/Lord_Howe): "
        "install the Python package tzdata"
    )


async def test_taken_port_is_reported(environment: dict[str, str], service: RunningService) -> None:
    port = service.url.rpartition(":")[2]
    assert await problems({**environment, "PORT": port}) == [
        f"warn  port: a service answers on 127.0.0.1:{port}: stop it to serve there"
    ]
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        (line,) = await problems({**environment, "PORT": str(port)})
    assert line == (
        f"FAULT port: 127.0.0.1:{port} cannot be served on (Address already in use): "
        "set PORT to another"
    )


async def test_metrics_port_is_checked_too(environment: dict[str, str], database: str) -> None:
    port = str(free_port())
    variables = {**environment, "METRICS_PORT": port}
    lines = [str(finding) for finding in await all_findings(variables)]
    assert lines[-1] == f"ok    metrics port: 127.0.0.1:{port} is free"
    async with served(database, METRICS_PORT=port):
        assert await problems(variables) == [
            f"warn  metrics port: a service answers on 127.0.0.1:{port}: stop it to serve there"
        ]
    with bound("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        (line,) = await problems({**variables, "METRICS_PORT": port})
    assert line == (
        f"FAULT metrics port: 127.0.0.1:{port} cannot be served on (Address already in use): "
        "set METRICS_PORT to another"
    )


@pytest.mark.parametrize("prefix", ["", "METRICS_"])
async def test_host_of_another_machine_is_a_fault(environment: dict[str, str], prefix: str) -> None:
    port = str(free_port())
    variables = {f"{prefix}HOST": "192.0.2.1", f"{prefix}PORT": port}
    assert await problems({**environment, **variables}) == [
        f"FAULT {prefix.lower().replace('_', ' ')}host: 192.0.2.1:{port} cannot be served on "
        f"(Cannot assign requested address): set {prefix}HOST to an address of this machine, "
        "such as 127.0.0.1, or to 0.0.0.0 for all"
    ]


async def test_published_keys_must_be_readable(environment: dict[str, str], tmp_path: Path) -> None:
    platform = Platform()
    platform.add("first")
    platform.add("second", "EdDSA")
    async with publishing(platform):
        url = platform.url
        assert str((await all_findings({**environment, "JWT_JWKS_URL": url}))[-1]) == (
            "ok    published keys can be read (ES256, EdDSA)"
        )
    (line,) = await problems({**environment, "JWT_JWKS_URL": url})
    assert re.fullmatch(
        r"FAULT published keys cannot be read \(ConnectError: All connection attempts failed\): "
        "check JWT_JWKS_URL or JWT_JWKS_FILE",
        line,
    )
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk("ES256", private_key("ES256"))]}))
    (line,) = await problems({**environment, "JWT_JWKS_FILE": str(path)})
    assert "none of its 1 keys is a public one for signatures" in line


def test_published_keys_over_plain_http_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Settings) -> dict[object, object]:
        return {}

    monkeypatch.setattr(jwks, "read_published", nothing)
    for url, level in (
        ("http://accounts.example/jwks.json", "warn"),
        ("https://accounts.example/jwks.json", "ok"),
        ("http://localhost:8080/jwks.json", "ok"),
    ):
        settings = Settings(database_url="", jwt_secret="", jwt_jwks_url=url)
        assert [finding.level for finding in check._published_keys(settings)] == [level]


async def test_exit_code_is_1_if_a_check_fails(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "JWT_SECRET", "PORT"):
        monkeypatch.delenv(name, raising=False)

    async def run(*arguments: str) -> tuple[int, list[str]]:
        result = await asyncio.to_thread(
            CliRunner().invoke, main, ["check", *arguments], env=environment
        )
        lines = result.output.splitlines()
        assert all(REPORT.fullmatch(line) for line in lines)
        return result.exit_code, lines

    code, lines = await run()
    assert (code, len(lines)) == (0, 12)
    code, lines = await run("--instances", "1000")
    assert (code, len(lines)) == (1, 12)
    environment["PORT"] = "http"
    code, lines = await run()
    assert (code, len(lines)) == (1, 1)
