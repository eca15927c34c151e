"""The command `import` can check without a change, and keeps rejected lines to be corrected."""

import asyncio
import gzip
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import click.testing
import pytest

from service.command.main import main
from service.database.driver import Connection
from service.platform import import_merge
from tests.conftest import ROOT
from tests.family import PASSWORD_HASH, SECRET

HEADER: Final = "type;id;email;account_id;name;is_kids;title;is_educational;password_hash\r\n"
MARK: Final = "\ufeff"
ROWS: Final = (
    "select (select json_agg((u, u.xmin) order by u.id) from users as u)::text, "
    "(select json_agg((p, p.xmin) order by p.id) from profiles as p)::text, "
    "(select json_agg((t, t.xmin) order by t.id) from titles as t)::text"
)


class Importing:
    """Runs the command on the database of the test, in the folder of the test."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.folder = folder
        self._variables = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET}

    async def __call__(self, *arguments: str, given: bytes | None = None) -> click.testing.Result:
        runner = click.testing.CliRunner(env=self._variables)
        return await asyncio.to_thread(
            runner.invoke, main, ["import", *arguments], input=given, catch_exceptions=False
        )

    def write(self, name: str, text: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    def read(self, name: str) -> str:
        return (self.folder / name).read_bytes().decode()


@pytest.fixture
def importing(database: str, tmp_path: Path) -> Importing:
    """The command on the test's database."""
    return Importing(database, tmp_path)


def account(number: int = 1) -> str:
    return f"account;{UUID(int=number)};a{number}@x.test;;;;;;{PASSWORD_HASH}\r\n"


def profile(number: int, name: str, is_kids: str = "true") -> str:
    return f"profile;{UUID(int=number)};;{UUID(int=1)};{name};{is_kids};;;\r\n"


def title(number: int, name: str, is_educational: str = "no") -> str:
    return f"title;{UUID(int=number)};;;;;{name};{is_educational};\r\n"


@pytest.mark.parametrize("mode", ["all", "best"])
async def test_dry_run_checks_everything_and_changes_nothing(
    mode: str, importing: Importing, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_merge, "BATCH_LINES", 2)
    stored = importing.write("stored.csv", HEADER + account() + profile(1, "Ada"))
    assert (await importing(stored)).exit_code == 0
    before = await connection.fetchrow(ROWS)
    accounts = importing.write("a.csv", HEADER + account(1).replace("a1@", "b1@") + account(2))
    # The profiles of the second file need an account of the first one.
    second = f"profile;{uuid4()};;{UUID(int=2)};Ben;false;;;\r\n"
    others = importing.write("b.csv", HEADER + second + profile(1, "Eve") + title(1, "Planets"))
    done = await importing("--dry-run", "--mode", mode, accounts, others)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{accounts}: 2 accounts, 0 profiles, 0 titles would be imported",
        f"{others}: 0 accounts, 2 profiles, 1 titles would be imported",
    ]
    assert await connection.fetchrow(ROWS) == before
    locks = "select count(*) from pg_locks where pid <> pg_backend_pid() and database is not null"
    assert await connection.fetchval(locks) == 0
    assert (await importing("--mode", mode, accounts, others)).exit_code == 0
    assert (
        await connection.fetchval("select name from profiles where id = $1", UUID(int=1)) == "Eve"
    )


@pytest.mark.parametrize("mode", ["all", "best"])
async def test_dry_run_reports_the_errors_of_lines_and_of_the_database(
    mode: str, importing: Importing, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_merge, "BATCH_LINES", 2)
    same = account(2).replace("a2@", "a1@")
    text = HEADER + account(1) + title(1, "A") + same + profile(9, "Ada", "WAHR") + title(1, "B")
    file = importing.write("a.csv", text)
    done = await importing("--dry-run", "--mode", mode, file)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[:3] == [
        f"{file}:4: email: Belongs to another account",
        f"{file}:5: is_kids: Expected true or false, not WAHR",
        f"{file}:6: id: On an earlier line already",
    ]
    assert await connection.fetchval("select count(*) from users") == 0


async def test_dry_run_meets_a_rule_that_the_platform_added(
    importing: Importing, connection: Connection
) -> None:
    await connection.execute("alter table titles add constraint short check (length(title) < 5)")
    file = importing.write("a.csv", HEADER + title(1, "Planets"))
    done = await importing("--dry-run", file)
    assert done.exit_code == 1
    assert "Continue" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert await connection.fetchval("select count(*) from titles") == 0


async def test_rejected_rows_can_be_corrected_and_imported_as_they_are(
    importing: Importing, connection: Connection
) -> None:
    bad = [
        profile(1, "Ada", "WAHR"),
        profile(2, '"Two\r\n\r\nlines"', "VRAI"),
        profile(3, "Orphan").replace(str(UUID(int=1)), str(UUID(int=7))),
        title(4, "Open").replace("Open", '"Open'),
    ]
    good = [
        account(),
        title(1, "A"),
        title(2, "=cmd|' /C calc'!A0"),
        title(3, "=1;5".replace(";", ",")),
    ]
    rows = [line for pair in zip(good, bad, strict=True) for line in pair]
    file = importing.write("people.csv", MARK + HEADER + "".join(rows))
    rejects = str(importing.folder / "rejects.csv")
    done = await importing("--mode", "best", "--rejects", rejects, file)
    assert done.exit_code == 1
    assert importing.read("rejects.csv") == MARK + HEADER + "".join(bad)
    assert stat.S_IMODE(Path(rejects).stat().st_mode) == 0o600
    reasons = [line.removeprefix(f"{file}:") for line in done.stderr.splitlines()]
    assert reasons[0] == "3: is_kids: Expected true or false, not WAHR"
    assert "9: account_id: Account not found" in reasons
    assert reasons[-2] == f"{rejects} has the rejected lines: correct and import them."
    assert await connection.fetchval("select title from titles where id = $1", UUID(int=2)) == (
        "=cmd|' /C calc'!A0"
    )
    corrected = importing.read("rejects.csv").replace("WAHR", "true").replace("VRAI", "true")
    corrected = corrected.replace(str(UUID(int=7)), str(UUID(int=1))).replace('"Open', "Open")
    importing.write("rejects.csv", corrected)
    again = ("--mode", "best", "--rejects", str(importing.folder / "more.csv"), rejects)
    assert (await importing(*again)).exit_code == 0
    assert not (importing.folder / "more.csv").exists()
    names = await connection.fetch("select name from profiles order by id")
    assert [row[0] for row in names] == ["Ada", "Two\r\n\r\nlines", "Orphan"]
    assert await connection.fetchval("select count(*) from titles") == 4


async def test_rejected_lines_of_json_stay_as_they_are(
    importing: Importing, connection: Connection
) -> None:
    lines = (
        b'  {"type": "title", "id": "%s",  "title": "A", "is_educational": true}\r\n'
        b'{"type": "title", \n\xff\n[1]' % str(uuid4()).encode()
    )
    file = importing.write("titles.ndjson", lines)
    rejects = importing.folder / "rejects.ndjson"
    assert (await importing("--mode", "best", "--rejects", str(rejects), file)).exit_code == 1
    assert rejects.read_bytes() == b'{"type": "title", \n\xff\n[1]\n'
    assert await connection.fetchval("select count(*) from titles") == 1


async def test_every_line_that_the_database_rejects_is_kept(
    importing: Importing, connection: Connection
) -> None:
    orphans = [profile(number, "Orphan") for number in range(1, 301)]
    file = importing.write("profiles.csv", HEADER + "".join(orphans))
    rejects = importing.folder / "rejects.csv"
    done = await importing("--mode", "best", "--rejects", str(rejects), file)
    assert importing.read("rejects.csv") == HEADER + "".join(orphans)
    assert len(done.stderr.splitlines()) == 302
    assert (
        await importing("--mode", "best", importing.write("a.csv", HEADER + account()))
    ).exit_code == 0
    assert (await importing(str(rejects))).exit_code == 0
    assert await connection.fetchval("select count(*) from profiles") == 300


async def test_file_of_rejects_that_cannot_be_written_is_one_sentence(importing: Importing) -> None:
    file = importing.write("a.csv", HEADER + title(1, "A", "ja"))
    rejects = importing.folder / "absent" / "r.csv"
    done = await importing("--mode", "best", "--rejects", str(rejects), file)
    assert done.stderr == (
        f"Error: {rejects} cannot be written: No such file or directory; "
        "name another for --rejects.\n"
    )


async def test_file_of_rejects_is_never_overwritten_without_the_flag(
    importing: Importing, connection: Connection
) -> None:
    file = importing.write("a.csv", HEADER + title(1, "A", "ja"))
    rejects = importing.write("r.csv", "mine")
    command = ("--mode", "best", "--rejects", rejects, file)
    done = await importing(*command)
    assert done.stderr == (
        f"Error: {rejects} exists already: name another for --rejects, or add --overwrite.\n"
    )
    assert importing.read("r.csv") == "mine"
    await importing(*command, "--overwrite")
    assert importing.read("r.csv") == HEADER + title(1, "A", "ja")
    done = await importing("--mode", "best", "--rejects", file, "--overwrite", file)
    assert f"{file} is the file to import" in done.stderr
    assert importing.read("a.csv") == HEADER + title(1, "A", "ja")
    assert sorted(path.name for path in importing.folder.iterdir()) == ["a.csv", "r.csv"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rejects", "r.csv"], "--rejects needs --mode best, and a single FILE to import."),
        (["--rejects", "r.csv", "--mode", "best", "-"], "--rejects needs --mode best"),
        (["--overwrite"], "--overwrite needs --rejects."),
        (["--delimiter", "|"], "',', ';', 'tab'"),
    ],
)
async def test_options_that_do_not_fit_are_rejected(
    options: list[str], sentence: str, importing: Importing
) -> None:
    done = await importing(*options, importing.write("a.csv", HEADER))
    assert done.exit_code == 2
    assert sentence in done.stderr


async def test_continued_import_adds_to_the_file_of_rejects(
    importing: Importing, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_merge, "BATCH_LINES", 2)
    await connection.execute("alter table titles add constraint none check (title <> 'Held')")
    rows = [
        title(1, "A"),
        title(2, "B", "ja"),
        title(3, "Held"),
        title(4, "D", "oui"),
        title(5, "E"),
    ]
    file = importing.write("a.csv", HEADER + "".join(rows))
    rejects = str(importing.folder / "it's rejected.csv")
    done = await importing("--delimiter", ";", "--mode", "best", "--rejects", rejects, file)
    again = done.stderr.splitlines()[-1]
    quoted = "'" + rejects.replace("'", "'\"'\"'") + "'"
    assert again == (
        f"viewing-time import --mode best --delimiter ';' --rejects {quoted} --from-line 4 {file}"
    )
    assert importing.read(rejects) == HEADER + rows[1]
    await connection.execute("alter table titles drop constraint none")
    done = await importing("--mode", "best", "--rejects", rejects, "--from-line", "4", file)
    assert done.exit_code == 1
    assert importing.read(rejects) == HEADER + rows[1] + rows[3]
    assert await connection.fetchval("select count(*) from titles") == 3
    other = importing.write("b.csv", "type,id\n" * 3)
    done = await importing("--mode", "best", "--rejects", rejects, "--from-line", "2", other)
    assert done.stderr == f"Error: {rejects} has another header: name another for --rejects.\n"
    assert importing.read(rejects) == HEADER + rows[1] + rows[3]


async def test_interruption_before_the_first_batch_leaves_no_file(
    importing: Importing, connection: Connection
) -> None:
    await connection.execute("alter table titles add constraint none check (title <> 'Held')")
    file = importing.write("a.csv", HEADER + title(2, "B", "ja") + title(3, "Held"))
    rejects = importing.folder / "r.csv"
    done = await importing("--mode", "best", "--rejects", str(rejects), file)
    assert "Continue" in done.stderr
    assert [path.name for path in importing.folder.iterdir()] == ["a.csv"]


async def test_too_long_line_is_reported_because_it_is_not_in_the_file(
    importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.platform.import_csv.MAX_LINE_BYTES", 500)
    file = importing.write("a.csv", HEADER + "x" * 1000 + "\r\n\r\n" + title(2, "B", "ja"))
    rejects = str(importing.folder / "r.csv")
    done = await importing("--dry-run", "--mode", "best", "--rejects", rejects, file)
    assert f"{file}:2: too long for {rejects}" in done.stderr
    assert importing.read("r.csv") == HEADER + title(2, "B", "ja")


async def test_cut_archive_imports_nothing_or_says_where_to_continue(
    importing: Importing, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [title(number, f"{uuid4()}") for number in range(1, 4001)]
    whole = gzip.compress((HEADER + "".join(rows)).encode())
    file = importing.write("a.csv.gz", whole[:-20_000])
    done = await importing(file)
    assert done.stderr == (
        f"Error: {file}: gzip data ends early, the file was not copied wholly.\n"
    )
    assert await connection.fetchval("select count(*) from titles") == 0
    monkeypatch.setattr(import_merge, "BATCH_LINES", 500)
    done = await importing("--mode", "best", file)
    count = await connection.fetchval("select count(*) from titles")
    assert count % 500 == 0
    assert count > 0
    importing.write("a.csv.gz", whole)
    done = await importing(*done.stderr.splitlines()[-1].split()[2:])
    assert done.exit_code == 0
    assert await connection.fetchval("select count(*) from titles") == 4000


async def test_standard_input_can_be_compressed_csv(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    text = b"\xff\xfe" + (HEADER + title(1, "Zoë") + title(2, "B")).encode("utf-16-le")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "import", "--csv", "-"],
        cwd=ROOT,
        env={"DATABASE_URL": database, "JWT_SECRET": SECRET},
        input=gzip.compress(text),
        capture_output=True,
        timeout=60,
    )
    assert done.stderr == b""
    assert await connection.fetchval("select count(*) from titles where title = 'Zoë'") == 1
