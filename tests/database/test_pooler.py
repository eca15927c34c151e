"""Behind PgBouncer, migrations are refused and errors name their remedy."""

import asyncio
import subprocess
from pathlib import Path

import msgspec
import psycopg
import pytest

from bench.ports import free_port
from service.database import cures, in_force
from service.database.driver import Connection
from service.database.migrate import MigrationError, listing, migrate
from service.database.pool import connect
from service.database_errors import DatabaseError, Unavailable
from service.settings import Settings
from tests.command.test_main import COMMAND, environment, refused
from tests.database.test_pool import PGBOUNCER, pooler
from tests.family import SECRET

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")

BOTH = "set STATEMENT_CACHE_SIZE=0, and set DATABASE_DIRECT_URL to the server's own address"


async def test_migrating_through_a_pooler_names_the_direct_address(empty_database: str) -> None:
    async with pooler(empty_database) as url:
        with pytest.raises(MigrationError, match="unsupported startup parameter") as raised:
            await asyncio.to_thread(migrate, url)
    assert "DATABASE_DIRECT_URL" in str(raised.value)
    assert not any(applied for _, applied in listing(empty_database))


async def test_pooler_that_drops_the_options_is_reported(empty_database: str) -> None:
    async with pooler(empty_database, ignore_startup_parameters="options") as url:
        with pytest.raises(MigrationError) as raised:
            await asyncio.to_thread(migrate, url)
    assert str(raised.value) == (
        "Migrations need a session of their own: set DATABASE_DIRECT_URL to the server's own "
        "address, around the pooler."
    )
    assert not any(applied for _, applied in listing(empty_database))


async def test_migrate_bypasses_the_pooler(empty_database: str, tmp_path: Path) -> None:
    async with pooler(empty_database) as url:
        there = {"DATABASE_URL": url, "DATABASE_DIRECT_URL": empty_database}
        assert await asyncio.to_thread(refused, tmp_path, "migrate", **there) == (0, "")
    assert all(applied for _, applied in listing(empty_database))


async def test_serve_bypasses_the_pooler_to_migrate(empty_database: str, tmp_path: Path) -> None:
    """It exits after the migrations, because no setting declares the pooler."""
    async with pooler(empty_database) as url:
        status, output = await asyncio.to_thread(
            refused,
            tmp_path,
            "serve",
            "--migrate",
            DATABASE_URL=url,
            DATABASE_DIRECT_URL=empty_database,
            JWT_SECRET=SECRET,
            PORT=str(free_port()),
        )
    assert status == 1
    assert "a pooler is between" in output
    assert all(applied for _, applied in listing(empty_database))


@pytest.mark.parametrize("command", ["serve", "retain", "check"])
async def test_an_undeclared_pooler_is_reported(
    database: str, tmp_path: Path, command: str
) -> None:
    async with pooler(database) as url:
        variables = {"DATABASE_URL": url, "JWT_SECRET": SECRET, "PORT": str(free_port())}
        status, output = await asyncio.to_thread(shown, tmp_path, command, **variables)
    assert status == 1
    (line,) = [line for line in output.splitlines() if "unsupported startup parameter" in line]
    assert BOTH in line


def shown(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and the output of a command."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


async def test_defaults_of_the_database_are_reported_through_the_pooler(
    database: str, connection: Connection, settings: Settings
) -> None:
    name = await connection.fetchval("select current_database()")
    for setting in ("synchronous_commit = on", "lock_timeout = 500", "jit = off"):
        await connection.execute(f"alter database {name} set {setting}")
    await connection.execute(f"alter database {name} set plan_cache_mode = force_generic_plan")
    pooled = msgspec.structs.replace(settings, statement_cache_size=0)
    async with pooler(database) as url:
        assert await problems(msgspec.structs.replace(pooled, database_url=url)) == []
    for isolation in ("serializable", "repeatable read"):
        await connection.execute(
            f"alter database {name} set default_transaction_isolation = '{isolation}'"
        )
        async with pooler(database) as url:
            (found,) = await problems(msgspec.structs.replace(pooled, database_url=url))
        assert (found.level, found.text) == (
            "refuse",
            f"default_transaction_isolation is {isolation} for the database: "
            "heartbeats of two instances fail each other",
        )


async def problems(settings: Settings) -> list[cures.Problem]:
    opened = await connect(settings)
    try:
        return await in_force.problems(opened, settings)
    finally:
        await opened.close()


async def test_a_database_that_the_pooler_does_not_know_is_reported(
    database: str, settings: Settings
) -> None:
    async with pooler(database) as url:
        wrong = url.rpartition("/")[0] + "/elsewhere"
        settings = msgspec.structs.replace(settings, database_url=wrong, statement_cache_size=0)
        with pytest.raises(DatabaseError) as raised:
            await connect(settings)
    assert "correct DATABASE_URL" in cures.sentence(raised.value)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("unsupported startup parameter: jit", "STATEMENT_CACHE_SIZE=0"),
        ("unsupported startup parameter in options: lock_timeout", "DATABASE_DIRECT_URL"),
        ("server login has been failing, try again later (server_login_retry)", "the server"),
        ("no such database: games", "DATABASE_URL"),
        ("query_wait_timeout", "POOL_MAX_SIZE"),
    ],
)
def test_an_error_names_its_remedy(message: str, remedy: str) -> None:
    for error in (DatabaseError(message), Unavailable(message)):
        sentence = cures.sentence(error)
        assert sentence.startswith(message)
        assert remedy in sentence
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("sqlstate", "remedy"),
    [
        ("25006", "default_transaction_read_only"),
        ("26000", "STATEMENT_CACHE_SIZE=0"),
        ("42501", "viewing-time check"),
        ("42703", "viewing-time migrate"),
        ("42883", "viewing-time migrate"),
        ("42P01", "viewing-time migrate"),
        ("42P05", "DATABASE_DIRECT_URL"),
        ("42601", ""),
    ],
)
def test_an_sqlstate_names_its_remedy(sqlstate: str, remedy: str) -> None:
    remedies = [cures.cure(DatabaseError("failed", sqlstate))]
    connecting = Unavailable("failed")
    connecting.__cause__ = DatabaseError("failed", sqlstate)
    remedies.append(cures.cure(connecting))
    assert [bool(one) for one in remedies] == [bool(remedy)] * 2
    assert all(remedy in one for one in remedies)


def test_a_migration_that_lacks_a_table_does_not_name_migrate() -> None:
    assert cures.cure(psycopg.errors.UndefinedTable("failed")) == ""
    assert cures.cure(psycopg.errors.ReadOnlySqlTransaction("failed")) == cures.READ_ONLY


COMMANDS = (
    ("retain",),
    ("retain", "--dry-run"),
    ("erase", "d0000000-0000-4000-8000-000000000001", "--yes"),
    ("export", "d0000000-0000-4000-8000-000000000001"),
    ("import", "lines.ndjson"),
    ("check",),
    ("serve",),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_before_migrate_names_migrate(
    empty_database: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    title = '{"type":"title","id":"d0000000-0000-4000-8000-000000000001","title":"x"}\n'
    (tmp_path / "lines.ndjson").write_text(title)
    variables = {"DATABASE_URL": empty_database, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    status, output = shown(tmp_path, *arguments, **variables)
    assert status == 1
    assert "run `viewing-time migrate`" in output
    assert "Traceback" not in output
