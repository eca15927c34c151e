"""The commands `retain`, `erase`, `delete` and `export`, as an operator runs them."""

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

REST = "0 exceptions, 0 locks, 0 requests, 0 events, 0 undelivered"


def run(dsn: str, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`viewing-time` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
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


async def test_retain_deletes_expired_rows(
    database: str, connection: Connection, family: Family
) -> None:
    for days in (1, 100, 400):
        await add_old(connection, family, days)
    periods = ("--sessions-days", "90", "--balances-days", "365")
    dry = run(database, "retain", *periods, "--dry-run")
    assert (dry.returncode, dry.stdout) == (
        0,
        f"would delete: 2 sessions, 1 balances, {REST}\n",
    )
    done = run(database, "retain", *periods)
    assert (done.returncode, done.stdout) == (0, f"deleted: 2 sessions, 1 balances, {REST}\n")
    again = run(database, "retain")
    assert (again.returncode, again.stdout) == (0, f"deleted: 0 sessions, 0 balances, {REST}\n")


@pytest.mark.parametrize("days", ["6", "0", "-1", "x", "36501"])
def test_retain_keeps_at_least_the_days_of_the_weekly_report(days: str) -> None:
    refused = CliRunner().invoke(main, ["retain", "--sessions-days", days])
    assert refused.exit_code == 2
    assert "--sessions-days" in refused.output


async def test_retain_deletes_most_of_a_table_only_with_force(
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
    for arguments, printed in (
        (["--dry-run"], f"would delete: 1,001 sessions, 0 balances, {REST}\n"),
        ([], ""),
    ):
        refused = run(database, "retain", *arguments)
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, printed, sentence)
    assert await connection.fetchval("select count(*) from viewing_sessions") == 1001
    done = run(database, "retain", "--force")
    assert (done.returncode, done.stdout) == (
        0,
        f"deleted: 1,001 sessions, 0 balances, {REST}\n",
    )


async def test_second_concurrent_retention_is_refused(
    database: str, connection: Connection
) -> None:
    await connection.fetchval("select pg_advisory_lock(hashtext('viewing-time retention'), 0)")
    refused = run(database, "retain")
    assert (refused.returncode, refused.stderr) == (1, "Error: Another retention is running.\n")


async def test_erase_needs_confirmation_and_removes_the_data(
    database: str, connection: Connection, family: Family
) -> None:
    await add_old(connection, family, 1)
    unconfirmed = run(database, "erase", str(family.child))
    assert (unconfirmed.returncode, unconfirmed.stderr) == (1, "Aborted!\n")
    assert unconfirmed.stdout.startswith(
        "Remove all sessions, balances, grants, requests, events and limits of "
        f"{family.child} for good "
        "(the profile itself stays)? [y/N]: "
    )
    assert await connection.fetchval("select count(*) from viewing_sessions") == 1
    done = run(database, "erase", str(family.child), "--yes")
    assert done.returncode == 0
    audit, printed = done.stdout.splitlines()
    assert '"event":"viewing_data_erased"' in audit
    assert str(family.child) not in audit
    assert printed == "removed: 1 sessions, 1 balances, 0 grants, 1 configurations"
    assert await connection.fetchval("select count(*) from viewing_sessions") == 0
    missing = uuid4()
    refused = run(database, "erase", str(missing), "--yes")
    assert (refused.returncode, refused.stderr) == (1, f"Error: There is no profile {missing}.\n")


async def test_delete_needs_confirmation_and_removes_the_rows(
    database: str, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at, ended_at) select gen_random_uuid(), $1, $2, 'd', now(), now(), now() "
        "from generate_series(1, 6000)",
        family.child,
        family.title,
    )
    unconfirmed = run(database, "delete", "title", str(family.title))
    assert (unconfirmed.returncode, unconfirmed.stderr) == (1, "Aborted!\n")
    question = f"Delete title {family.title} with all its sessions for good? [y/N]: "
    assert unconfirmed.stdout.startswith(question)
    assert await connection.fetchval("select count(*) from viewing_sessions") == 6000
    done = run(database, "delete", "title", str(family.title), "--yes")
    printed = f"deleted title {family.title}, 6,000 rows of it in batches\n"
    assert (done.returncode, done.stdout.splitlines(keepends=True)[-1]) == (0, printed)
    assert await connection.fetchval("select count(*) from viewing_sessions") == 0
    for kind, key in (("profile", family.child), ("account", family.account)):
        done = run(database, "delete", kind, str(key), "--yes")
        assert (done.returncode, done.stdout) == (0, f"deleted {kind} {key}\n")
        again = run(database, "delete", kind, str(key), "--yes")
        assert (again.returncode, again.stderr) == (1, f"Error: There is no {kind} {key}.\n")
    assert await connection.fetchval("select count(*) from pending_deletions") == 0


async def test_export_writes_a_new_folder(
    database: str, connection: Connection, family: Family, tmp_path: Path
) -> None:
    await add_old(connection, family, 1)
    done = run(database, "export", str(family.child), folder=tmp_path)
    name = f"viewing-data-{family.child}"
    printed = (
        f"wrote {name}: 1 sessions, 1 balances, 0 grants, 0 requests, 1 configurations, "
        "0 schedules, 0 exceptions, 0 locks\n"
    )
    assert (done.returncode, done.stdout) == (0, printed)
    assert (tmp_path / name / "sessions.csv").is_file()
    again = run(database, "export", str(family.child), folder=tmp_path)
    printed = f"Error: {name} already exists; choose another folder with --to.\n"
    assert (again.returncode, again.stderr) == (1, printed)
    unknown = run(database, "export", str(uuid4()), "--to", str(tmp_path / "other"))
    assert (unknown.returncode, "There is no profile" in unknown.stderr) == (1, True)


def test_unusable_folder_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql:///unused")
    monkeypatch.setenv("JWT_SECRET", SECRET)
    target = tmp_path / ("x" * 300)
    result = CliRunner().invoke(main, ["export", str(uuid4()), "--to", str(target)])
    expected = f"Error: Cannot write the copy: [Errno 36] File name too long: '{target}'.\n"
    assert (result.exit_code, result.output) == (1, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["retain"],
        ["retain", "--dry-run"],
        ["erase", "{}", "--yes"],
        ["export", "{}"],
        ["delete", "title", "{}", "--yes"],
    ],
)
def test_unreachable_database_is_reported_in_one_sentence(
    arguments: list[str], tmp_path: Path
) -> None:
    refused = run(
        f"postgresql:///nobody?host={tmp_path}",
        *(argument.format(uuid4()) for argument in arguments),
        folder=tmp_path,
    )
    assert refused.returncode == 1
    assert re.fullmatch(
        r"Error: Cannot (use|read) the database at DATABASE_URL.*: .*\n", refused.stderr
    )
    assert list(tmp_path.iterdir()) == []
