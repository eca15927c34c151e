"""The commands about what is kept, as an operator uses them."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

from service.command.main import main
from service.database.driver import Connection
from tests.command.test_main import environment
from tests.conftest import ROOT
from tests.family import SECRET, Family


def run(dsn: str, *words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`viewing-time` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service", *words],
        cwd=folder,
        env=environment(DATABASE_URL=dsn, JWT_SECRET=SECRET, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def add_old(connection: Connection, family: Family, days: int) -> None:
    moment = datetime.now(UTC) - timedelta(days=days)
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at) values (gen_random_uuid(), $1, $2, 'd', $3, $3)",
        family.child,
        family.title,
        moment,
    )
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date) "
        "values (gen_random_uuid(), $1, $2)",
        family.child,
        moment.date(),
    )


async def test_retain(database: str, connection: Connection, family: Family) -> None:
    for days in (1, 100, 400):
        await add_old(connection, family, days)
    periods = ("--sessions-days", "90", "--balances-days", "365")
    dry = run(database, "retain", *periods, "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "would delete: 2 sessions, 1 balances\n")
    done = run(database, "retain", *periods)
    assert (done.returncode, done.stdout) == (0, "deleted: 2 sessions, 1 balances\n")
    again = run(database, "retain")
    assert (again.returncode, again.stdout) == (0, "deleted: 0 sessions, 0 balances\n")


@pytest.mark.parametrize("days", ["6", "0", "-1", "x", "36501"])
def test_retain_keeps_what_the_weekly_report_shows(days: str) -> None:
    refused = CliRunner().invoke(main, ["retain", "--sessions-days", days])
    assert refused.exit_code == 2
    assert "--sessions-days" in refused.output


async def test_retain_deletes_most_of_a_table_only_by_force(
    database: str, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at) select gen_random_uuid(), $1, $2, 'd', now() - interval '100 days', "
        "now() - interval '100 days' from generate_series(1, 1001)",
        family.child,
        family.title,
    )
    sentence = (
        "Error: 1,001 of about 1,001 sessions are old enough to be deleted, which is more than "
        "half: nothing was deleted. Run `viewing-time retain --force` if that is right.\n"
    )
    for words, told in ((["--dry-run"], "would delete: 1,001 sessions, 0 balances\n"), ([], "")):
        refused = run(database, "retain", *words)
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, told, sentence)
    assert await connection.fetchval("select count(*) from viewing_sessions") == 1001
    done = run(database, "retain", "--force")
    assert (done.returncode, done.stdout) == (0, "deleted: 1,001 sessions, 0 balances\n")


async def test_two_retentions_at_once(database: str, connection: Connection) -> None:
    await connection.fetchval("select pg_advisory_lock(hashtext('viewing-time retention'), 0)")
    refused = run(database, "retain")
    assert (refused.returncode, refused.stderr) == (1, "Error: Another retention is running.\n")


async def test_erase(database: str, connection: Connection, family: Family) -> None:
    await add_old(connection, family, 1)
    unsure = run(database, "erase", str(family.child))
    assert (unsure.returncode, unsure.stderr) == (1, "Aborted!\n")
    assert unsure.stdout.startswith(
        f"Remove all sessions, balances, grants and limits of profile {family.child} for good "
        "(the profile itself stays)? [y/N]: "
    )
    assert await connection.fetchval("select count(*) from viewing_sessions") == 1
    done = run(database, "erase", str(family.child), "--yes")
    assert done.returncode == 0
    audit, told = done.stdout.splitlines()
    assert '"event":"viewing_data_erased"' in audit
    assert str(family.child) not in audit
    assert told == "removed: 1 sessions, 1 balances, 0 grants, 1 configurations"
    assert await connection.fetchval("select count(*) from viewing_sessions") == 0
    nobody = uuid4()
    unknown = run(database, "erase", str(nobody), "--yes")
    assert (unknown.returncode, unknown.stderr) == (1, f"Error: There is no profile {nobody}.\n")


async def test_delete(database: str, connection: Connection, family: Family) -> None:
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at, ended_at) select gen_random_uuid(), $1, $2, 'd', now(), now(), now() "
        "from generate_series(1, 6000)",
        family.child,
        family.title,
    )
    unsure = run(database, "delete", "title", str(family.title))
    assert (unsure.returncode, unsure.stderr) == (1, "Aborted!\n")
    question = f"Delete title {family.title} with all its sessions for good? [y/N]: "
    assert unsure.stdout.startswith(question)
    assert await connection.fetchval("select count(*) from viewing_sessions") == 6000
    done = run(database, "delete", "title", str(family.title), "--yes")
    told = f"deleted title {family.title}, 6,000 rows of it in batches\n"
    assert (done.returncode, done.stdout.splitlines(keepends=True)[-1]) == (0, told)
    assert await connection.fetchval("select count(*) from viewing_sessions") == 0
    for kind, key in (("profile", family.child), ("account", family.account)):
        done = run(database, "delete", kind, str(key), "--yes")
        assert (done.returncode, done.stdout) == (0, f"deleted {kind} {key}\n")
        again = run(database, "delete", kind, str(key), "--yes")
        assert (again.returncode, again.stderr) == (1, f"Error: There is no {kind} {key}.\n")
    assert await connection.fetchval("select count(*) from pending_deletions") == 0


async def test_export(
    database: str, connection: Connection, family: Family, tmp_path: Path
) -> None:
    await add_old(connection, family, 1)
    done = run(database, "export", str(family.child), folder=tmp_path)
    name = f"viewing-data-{family.child}"
    told = f"wrote {name}: 1 sessions, 1 balances, 0 grants\n"
    assert (done.returncode, done.stdout) == (0, told)
    assert (tmp_path / name / "sessions.csv").is_file()
    again = run(database, "export", str(family.child), folder=tmp_path)
    told = f"Error: {name} already exists; choose another folder with --to.\n"
    assert (again.returncode, again.stderr) == (1, told)
    unknown = run(database, "export", str(uuid4()), "--to", str(tmp_path / "other"))
    assert (unknown.returncode, "There is no profile" in unknown.stderr) == (1, True)


def test_a_folder_that_cannot_be_looked_at_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql:///unused")
    monkeypatch.setenv("JWT_SECRET", SECRET)
    target = tmp_path / ("x" * 300)
    asked = CliRunner().invoke(main, ["export", str(uuid4()), "--to", str(target)])
    said = f"Error: Cannot write the copy: [Errno 36] File name too long: '{target}'.\n"
    assert (asked.exit_code, asked.output) == (1, said)


@pytest.mark.parametrize(
    "words",
    [
        ["retain"],
        ["retain", "--dry-run"],
        ["erase", "{}", "--yes"],
        ["export", "{}"],
        ["delete", "title", "{}", "--yes"],
    ],
)
def test_a_database_that_is_away_is_one_sentence(words: list[str], tmp_path: Path) -> None:
    refused = run(
        f"postgresql:///nobody?host={tmp_path}",
        *(word.format(uuid4()) for word in words),
        folder=tmp_path,
    )
    assert refused.returncode == 1
    assert re.fullmatch(
        r"Error: Cannot (use|read) the database at DATABASE_URL.*: .*\n", refused.stderr
    )
    assert list(tmp_path.iterdir()) == []
