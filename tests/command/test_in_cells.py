"""The commands run in every cell: four schemas of one database, made by `migrate`."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import click.testing
import pytest

from service.command.main import main
from service.database import cell_map, cell_titles
from service.database.cells import slot
from tests.command.test_main import environment
from tests.conftest import ROOT, copied, named
from tests.family import SECRET

NAMES: Final = ("a", "b", "c", "d")
TEMPLATE: Final = "template_cells"
DOWN: Final = "postgresql://nobody@127.0.0.1:1/none"
SHARE: Final = "Accounts are shared by weight among the cells."


class Cells:
    """A database with a schema for each cell, and CELLS_FILE in the folder of the test."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.file = folder / "cells.toml"
        self.write(*NAMES)

    def write(self, *names: str, **other: str) -> None:
        """CELLS_FILE with these cells; `other` has the lines of some of them."""
        lines = {name: f'schema = "{name}"' for name in names} | other
        self.file.write_text(
            "".join(f'[[cell]]\nname = "{name}"\n{lines[name]}\n' for name in lines)
        )

    @property
    def variables(self) -> dict[str, str]:
        return {"DATABASE_URL": self.dsn, "JWT_SECRET": SECRET, "CELLS_FILE": str(self.file)}

    async def run(self, *arguments: str, given: bytes | None = None) -> click.testing.Result:
        runner = click.testing.CliRunner(env=self.variables)
        return await asyncio.to_thread(runner.invoke, main, arguments, input=given)

    async def start(self, *arguments: str) -> tuple[int, str, str]:
        """Runs a command that needs a standard output of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "service", *arguments),
            env=environment(**self.variables),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def fetch(self, cell: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn, server_settings={"search_path": cell})
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def values(self, statement: str, *arguments: object) -> list[object]:
        """The value that each cell has."""
        rows = [await self.fetch(name, statement, *arguments) for name in NAMES]
        return [found[0][0] for found in rows]


@pytest.fixture(scope="module")
async def made(
    postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, click.testing.Result]:
    """The name of a database with four cells, and what `migrate` printed when it made them."""
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"create database {TEMPLATE} template template0")
    await server.close()
    cells = Cells(named(postgres_dsn, TEMPLATE), tmp_path_factory.mktemp("cells"))
    return TEMPLATE, await cells.run("migrate")


@pytest.fixture
async def cells(
    postgres_dsn: str, made: tuple[str, click.testing.Result], tmp_path: Path
) -> AsyncIterator[Cells]:
    """Four cells without accounts, for one test."""
    async with copied(postgres_dsn, made[0]) as dsn:
        yield Cells(dsn, tmp_path)


def an_account(cell: str) -> UUID:
    """The id of an account that belongs to a cell, if all have the same weight."""
    ids = (uuid4() for _ in range(1000))
    return next(each for each in ids if NAMES[slot(each) // 256] == cell)


def test_migrate_makes_every_cell_and_shares_the_accounts(
    made: tuple[str, click.testing.Result],
) -> None:
    result = made[1]
    assert result.exit_code == 0, result.output
    for name in NAMES:
        assert f"cell {name}: applied 0038_cells\n" in result.stdout
        assert f"Cell {name} has received 1,024 slots of the map.\n" in result.stdout
    assert SHARE in result.stdout.splitlines()
    assert result.stdout.index("cell a:") < result.stdout.index("cell d:")


async def test_every_cell_has_its_name_and_the_same_map(cells: Cells) -> None:
    assert await cells.values("select name from viewing_cell") == [*NAMES]
    maps = "select string_agg(cell, '' order by slot) from viewing_cell_slots"
    assert {*await cells.values(maps)} == {"".join(name * 256 for name in NAMES)}
    again = await cells.run("migrate")
    assert (again.exit_code, again.stdout.count("\n")) == (0, 1)


def test_shares_follow_the_weights_to_the_largest_remainder() -> None:
    assert cell_map.shares({"a": 1, "b": 1, "c": 1}, {}) == {"a": 342, "b": 341, "c": 341}
    assert cell_map.shares({"a": 1, "b": 1000}, {}) == {"a": 1, "b": 1023}


async def test_a_further_cell_gets_the_map_and_the_titles_and_no_account(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cells.fetch("d", "drop schema d cascade")
    await cells.fetch("c", "update viewing_cell_slots set cell = 'a', epoch = 2 where cell = 'd'")
    titles = "insert into titles (id, title, title_type) select gen_random_uuid(), n, 'movie'"
    await cells.fetch("a", f"{titles} from generate_series(1, 12) as n")
    monkeypatch.setattr(cell_titles, "MAX_TITLES", 5)
    done = await cells.run("migrate")
    assert done.exit_code == 0, done.output
    assert "Cell a has received 256 slots of the map.\n" in done.stdout
    assert "Cell d has received 1,024 slots of the map.\n" in done.stdout
    assert "Cell d has received 12 titles.\n" in done.stdout
    assert await cells.values(TITLES) == [12, 0, 0, 12]
    count = "select count(*) from viewing_cell_slots where cell = 'd' or epoch = 2 and cell <> 'a'"
    assert await cells.values(count) == [0, 0, 0, 0]


async def test_cells_that_are_made_beside_one_with_accounts_get_none(cells: Cells) -> None:
    for name in NAMES:
        await cells.fetch(name, "truncate viewing_cell_slots")
    await cells.fetch(
        "b",
        "insert into users (id, email, password_hash) values (gen_random_uuid(), 'x@x.test', '!')",
    )
    done = await cells.run("migrate")
    assert done.exit_code == 0, done.output
    assert "All accounts are in cell b; `viewing-time cells spread` shares them.\n" in done.stdout
    assert await cells.values("select min(cell) || max(cell) from viewing_cell_slots") == ["bb"] * 4


async def test_the_only_cell_becomes_the_first_of_several(cells: Cells, database: str) -> None:
    account = uuid4()
    insert = "insert into users (id, email, password_hash) values ($1, 'x@x.test', '!')"
    connection = await asyncpg.connect(database)
    await connection.execute(insert, account)
    await connection.close()
    await cells.fetch("b", "truncate viewing_cell_slots")
    cells.write("b", first=f'url = "{database}"')
    done = await cells.run("migrate")
    assert done.exit_code == 0, done.output
    cells.dsn = database
    assert (await cells.fetch("public", "select name from viewing_cell"))[0][0] == "first"
    owners = "select min(cell) || ' ' || max(cell) from viewing_cell_slots"
    assert (await cells.fetch("public", owners))[0][0] == "first first"


async def test_accounts_in_two_cells_are_not_assigned(cells: Cells) -> None:
    for name in NAMES:
        await cells.fetch(name, "truncate viewing_cell_slots")
    for name in "ac":
        await cells.fetch(
            name,
            "insert into users (id, email, password_hash) "
            "values (gen_random_uuid(), 'x@x.test', '!')",
        )
    done = await cells.run("migrate")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: Cells a and c both have accounts already")
    assert await cells.values("select count(*) from viewing_cell_slots") == [0, 0, 0, 0]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_cell_that_is_down_keeps_no_other_from_being_migrated(
    cells: Cells, is_known: bool
) -> None:
    for name in NAMES if not is_known else "a":
        await cells.fetch(name, "truncate viewing_cell_slots")
    for name in NAMES:
        await cells.fetch(name, "delete from _yoyo_migration where migration_id = '0038_cells'")
    cells.write(*NAMES, b=f'url = "{DOWN}"')
    done = await cells.run("migrate")
    assert done.exit_code == 1
    assert "cell d: applied 0038_cells\n" in done.stdout
    assert "cell b: Cannot use the database at its url: " in done.stderr
    refused = "Accounts are assigned to cells when all can be used; b cannot.\n"
    assert (refused in done.stderr) is not is_known
    expected = 1024 if is_known else 0
    assert await cells.values("select count(*) from viewing_cell_slots") == [expected] * 4


async def test_migrate_refuses_wrong_files_in_one_sentence(cells: Cells) -> None:
    cells.write("b", "c", "d")
    lacking = await cells.run("migrate")
    sentence = "Error: CELLS_FILE has no cell a, which has 256 of 1,024 slots.\n"
    assert (lacking.exit_code, lacking.stderr) == (1, sentence)
    cells.write(*NAMES, b='schema = "c"', c='schema = "b"')
    swapped = await cells.run("migrate")
    assert swapped.exit_code == 1
    assert "cell b: The database answers as cell c: correct CELLS_FILE.\n" in swapped.stderr
    cells.write(*NAMES, b='schema = "a"')
    same = await cells.run("migrate")
    assert same.stderr == (
        "Error: CELLS_FILE: cells a and b are one schema of one database: give each a schema of "
        "its own.\n"
    )
    alone = click.testing.CliRunner(
        env={"DATABASE_URL": cells.dsn, "DATABASE_SCHEMA": "a", "CELLS_FILE": ""}
    )
    refused = await asyncio.to_thread(alone.invoke, main, ["migrate"])
    assert refused.stderr == "Error: The tables are cell a of several: set CELLS_FILE.\n"
    checked = await asyncio.to_thread(alone.invoke, main, ["check"], env={"JWT_SECRET": SECRET})
    assert "FAULT the tables are cell a of several: set CELLS_FILE\n" in checked.stdout


async def test_migrations_are_listed_and_rolled_back_in_every_cell(cells: Cells) -> None:
    listed = await cells.run("migrate", "--list")
    assert listed.exit_code == 0
    assert all(f"cell {name}: applied  0038_cells\n" in listed.stdout for name in NAMES)
    cells.write("c", "d")
    kept = await cells.run("migrate", "--rollback", "--to", "0038_cells", "--yes")
    assert kept.exit_code == 1
    assert (
        "cell d: Migration 0038_cells is not rolled back from the tables of cell d." in kept.stderr
    )
    for name in NAMES:
        await cells.fetch(name, "truncate viewing_cell")
    await cells.fetch("c", "delete from _yoyo_migration where migration_id >= '0038'")
    done = await cells.run("migrate", "--rollback", "--to", "0038_cells", "--yes")
    assert done.exit_code == 0, done.output
    assert "cell c: Nothing is applied." in done.stdout
    assert "cell d: rolled back 0038_cells\n" in done.stdout
    cells.write("a", b=f'url = "{DOWN}"')
    down = await cells.run("migrate", "--rollback", "--yes")
    assert (down.exit_code, down.stdout) == (1, "")


async def test_one_cell_can_have_a_schema_of_its_own(empty_database: str) -> None:
    variables = {"DATABASE_URL": empty_database, "DATABASE_SCHEMA": "viewing", "CELLS_FILE": ""}
    runner = click.testing.CliRunner(env=variables)
    done = await asyncio.to_thread(runner.invoke, main, ["migrate"])
    assert done.exit_code == 0, done.output
    connection = await asyncpg.connect(empty_database)
    schemas = (
        "select string_agg(distinct schemaname, ' ') from pg_tables "
        "where schemaname !~ '^(pg_|information)'"
    )
    assert await connection.fetchval(schemas) == "viewing"
    await connection.close()


def line(kind: str, key: UUID, **members: object) -> str:
    return json.dumps({"type": kind, "id": str(key), **members}) + "\n"


def account_line(key: UUID, email: str) -> str:
    return line("account", key, email=email)


def profile_line(key: UUID, account: UUID) -> str:
    return line("profile", key, account_id=str(account), name="Ada", is_kids=True)


def title_line() -> str:
    return line("title", uuid4(), title="Planets", is_educational=True)


USERS: Final = "select count(*) from users"
PROFILES: Final = "select count(*) from profiles"
TITLES: Final = "select count(*) from titles"


@pytest.fixture
def people() -> dict[str, UUID]:
    """The id of an account in each cell."""
    return {name: an_account(name) for name in NAMES}


def lines_of(people: dict[str, UUID]) -> str:
    """An account and a profile in each cell, and a title."""
    accounts = [account_line(key, f"{name}@x.test") for name, key in people.items()]
    return "".join([*accounts, *(profile_line(uuid4(), key) for key in people.values())])


async def test_import_routes_accounts_and_profiles_and_gives_titles_to_every_cell(
    cells: Cells, people: dict[str, UUID], tmp_path: Path
) -> None:
    file = tmp_path / "people.ndjson"
    file.write_text(lines_of(people) + title_line())
    dry = await cells.run("import", "--mode", "best", "--dry-run", str(file))
    assert dry.exit_code == 0, dry.output
    assert await cells.values(USERS) == await cells.values(TITLES) == [0, 0, 0, 0]
    done = await cells.run("import", "--mode", "best", str(file))
    assert done.exit_code == 0, done.output
    assert done.stdout == "".join(
        [
            *(f"cell {name}: 1 accounts, 1 profiles, 1 titles\n" for name in NAMES),
            f"{file}: 4 accounts, 4 profiles, 1 titles\n",
        ]
    )
    assert await cells.values("select min(id::text) from users") == [*map(str, people.values())]
    assert await cells.values(PROFILES) == await cells.values(TITLES) == [1, 1, 1, 1]
    moved = an_account("a")
    insert = "insert into viewing_cell_accounts (id, cell, epoch, state)"
    for name in "ab":
        await cells.fetch(name, f"{insert} values ($1, 'b', 2, 'lives')", moved)
    file.write_text(account_line(moved, "moved@x.test"))
    assert (await cells.run("import", "--mode", "best", str(file))).exit_code == 0
    assert await cells.values(USERS) == [1, 2, 1, 1]


async def test_import_rejects_what_another_cell_has_already(
    cells: Cells, people: dict[str, UUID], tmp_path: Path
) -> None:
    child = uuid4()
    file, more = tmp_path / "people.ndjson", tmp_path / "more.ndjson"
    file.write_text(lines_of(people) + profile_line(child, people["a"]))
    assert (await cells.run("import", "--mode", "best", str(file))).exit_code == 0
    more.write_text(
        account_line(an_account("c"), "a@x.test")
        + profile_line(child, people["b"])
        + account_line(people["b"], "new@x.test")
        + account_line(an_account("d"), "new@x.test")
        + account_line(an_account("d"), "free@x.test")
    )
    for flags in (["--dry-run"], ["--rejects", str(tmp_path / "rejects")]):
        done = await cells.run("import", "--mode", "best", *flags, str(more))
        assert done.exit_code == 1
        assert done.stderr.splitlines()[:3] == [
            f"{more}:1: email: Belongs to another account",
            f"{more}:2: account_id: Profile belongs to another account",
            f"{more}:4: email: Belongs to another account",
        ]
    assert len((tmp_path / "rejects").read_text().splitlines()) == 3
    assert await cells.values(USERS) == [1, 1, 1, 2]
    assert await cells.values(PROFILES) == [2, 1, 1, 1]


async def test_import_rejects_only_the_lines_of_a_cell_that_is_down(
    cells: Cells, people: dict[str, UUID], tmp_path: Path
) -> None:
    file, rejects = tmp_path / "people.ndjson", tmp_path / "rejects.ndjson"
    file.write_text(lines_of(people) + title_line())
    cells.write(*NAMES, b=f'url = "{DOWN}"')
    done = await cells.run("import", "--mode", "best", "--rejects", str(rejects), str(file))
    assert done.exit_code == 1
    assert f"{file}:2: Cell b cannot be used: " in done.stderr
    assert f"{file}: 3 accounts, 3 profiles, 0 titles\n" in done.stdout
    assert await cells.values(USERS) == [1, 0, 1, 1]
    assert await cells.values(TITLES) == [1, 0, 1, 1]
    assert len(rejects.read_text().splitlines()) == 3
    cells.write(*NAMES)
    again = await cells.run("import", "--mode", "best", str(rejects))
    assert again.exit_code == 0, again.output
    assert await cells.values(USERS) == await cells.values(TITLES) == [1, 1, 1, 1]


async def test_import_of_a_whole_file_is_refused_across_cells(cells: Cells) -> None:
    done = await cells.run("import", "-", given=title_line().encode())
    assert done.exit_code == 2
    assert "Several cells cannot import a FILE as a whole: add --mode best." in done.stderr
    assert await cells.values(TITLES) == [0, 0, 0, 0]


async def add_child(cells: Cells, cell: str) -> UUID:
    """Adds an account with a child and an old session to a cell; returns the child."""
    account, child, title = an_account(cell), uuid4(), uuid4()
    for statement, arguments in (
        ("insert into users (id, email, password_hash) values ($1, 'x@x.test', '!')", (account,)),
        (
            "insert into profiles (id, user_id, name, is_kids) values ($1, $2, 'Ada', true)",
            (child, account),
        ),
        ("insert into titles (id, title, title_type) values ($1, 'Planets', 'movie')", (title,)),
        (
            "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
            "last_heartbeat_at) values (gen_random_uuid(), $1, $2, 'd', "
            "now() - interval '1 year', now() - interval '1 year')",
            (child, title),
        ),
    ):
        await cells.fetch(cell, statement, *arguments)
    return child


SESSIONS: Final = "select count(*) from viewing_sessions"


async def test_retention_runs_in_every_cell_that_answers(cells: Cells) -> None:
    for name in "ab":
        await add_child(cells, name)
    cells.write(*NAMES, a=f'url = "{DOWN}"')
    done = await cells.run("retain")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: cell a: Cannot use the database at its url: ")
    counts = [line.partition(" sessions")[0] for line in done.stdout.splitlines()]
    assert counts == ["cell b: deleted: 1", "cell c: deleted: 0", "cell d: deleted: 0"]
    assert await cells.values(SESSIONS) == [1, 0, 0, 0]
    cells.write(*NAMES)
    done = await cells.run("retain", "--dry-run")
    assert (done.exit_code, done.stdout.startswith("cell a: would delete: 1 sessions")) == (0, True)


async def test_export_and_erase_find_the_cell_of_a_profile(cells: Cells, tmp_path: Path) -> None:
    child, folder = await add_child(cells, "c"), str(tmp_path / "copy")
    exported = await cells.run("export", str(child), "--to", folder)
    assert exported.exit_code == 0, exported.output
    assert exported.stdout.startswith(f"cell c: wrote {folder}: 1 sessions, ")
    cells.write(*NAMES, d=f'url = "{DOWN}"')
    erased = await cells.start("erase", str(child), "--yes")
    assert erased[0] == 0, erased
    assert "cell c: removed: 1 sessions" in erased[1]
    assert await cells.values(SESSIONS) == [0, 0, 0, 0]
    folder = str(tmp_path / "other")
    unknown = await cells.run("export", str(uuid4()), "--to", folder)
    assert unknown.stderr.startswith("Error: cell d: Cannot use the database at its url: ")
    cells.write(*NAMES)
    unknown = await cells.run("export", str(child := uuid4()), "--to", folder)
    assert unknown.stderr == f"Error: There is no profile {child}.\n"


async def test_delete_finds_an_account_and_a_title_in_every_cell(
    cells: Cells, tmp_path: Path
) -> None:
    account, title = an_account("b"), uuid4()
    file = tmp_path / "people.ndjson"
    file.write_text(
        account_line(account, "x@x.test")
        + line("title", title, title="Planets", is_educational=True)
    )
    assert (await cells.run("import", "--mode", "best", str(file))).exit_code == 0
    done = await cells.run("delete", "account", str(account), "--yes")
    assert (done.exit_code, done.stdout) == (0, f"cell b: deleted account {account}\n")
    done = await cells.run("delete", "title", str(title), "--yes")
    assert (done.exit_code, done.stdout.count(f"deleted title {title}\n")) == (0, 4)


async def test_events_are_printed_of_every_cell_that_answers(cells: Cells) -> None:
    insert = (
        "insert into viewing_events (id, seq, account_id, type, occurred_at, data) "
        "select $1, 1, u.id, 'pin.locked', now(), '{}' from users as u"
    )
    for name in "bd":
        await add_child(cells, name)
        await cells.fetch(name, insert, uuid4())
    done = await cells.run("events", "--since", "2020-01-01")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 2
    cells.write(*NAMES, b=f'url = "{DOWN}"')
    done = await cells.run("events", "--since", "2020-01-01")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr.startswith("Error: cell b: Cannot use the database at its url: ")


async def checked(cells: Cells) -> list[str]:
    """The findings of `check` about databases."""
    done = await cells.run("check")
    lines = done.stdout.splitlines()
    assert done.exit_code == any(line.startswith("FAULT") for line in lines), done.output
    return [line for line in lines if re.search("cell|map of|accounts:|titles:|migrations", line)]


async def test_check_reports_every_cell_and_what_they_agree_about(cells: Cells) -> None:
    lines = await checked(cells)
    for name in NAMES:
        prefix = f"cell {name}: "
        its_lines = [line for line in lines if prefix in line]
        assert not [line for line in its_lines if line.startswith("FAULT")]
        assert any(f"{prefix}migrations: all" in line for line in its_lines)
        assert any(f"{prefix}connections: 4 cells x 1 x " in line for line in its_lines)
    assert lines[-3:] == [
        "ok    map of accounts: 4 cells agree about all slots",
        "ok    accounts: none that was moved is in two cells",
        "ok    titles: all cells have the same number",
    ]


async def test_check_reports_cells_that_are_not_those_of_the_file(cells: Cells) -> None:
    await cells.fetch("d", "drop schema d cascade")
    cells.write(*NAMES, a=f'url = "{DOWN}"', b='schema = "c"', c='schema = "b"')
    lines = await checked(cells)
    assert lines[0].startswith("FAULT cell a: database cannot be reached (")
    assert lines[1:4] == [
        "FAULT cell b: the database of cell b answers as cell c: correct CELLS_FILE",
        "FAULT cell c: the database of cell c answers as cell b: correct CELLS_FILE",
        "FAULT cell d: cell d is not made yet: run `viewing-time migrate`",
    ]
    cells.write("a", "b", "c")
    lines = await checked(cells)
    sentence = "CELLS_FILE has no cell d, which has 256 of 1,024 slots"
    assert f"FAULT map of accounts: {sentence}: add the cell to it" in lines


async def test_check_reports_cells_that_do_not_agree(cells: Cells) -> None:
    await add_child(cells, "b")
    insert = "insert into viewing_cell_accounts (id, cell, epoch, state)"
    await cells.fetch("b", f"{insert} select u.id, 'c', 2, 'lives' from users as u")
    await cells.fetch("d", f"{insert} select gen_random_uuid(), 'c', 2, 'lives'")
    await cells.fetch("a", "update viewing_cell_slots set epoch = 2 where slot < 3")
    await cells.fetch("c", "update viewing_cell_slots set cell = 'd' where slot = 700")
    await cells.fetch("d", "delete from _yoyo_migration where migration_id = '0038_cells'")
    lines = await checked(cells)
    older = "older rows of 3 slots, or none: run `viewing-time migrate`, unless accounts are being"
    assert f"warn  map of accounts: cell b has {older} moved" in lines
    two = "slot 700 is in cells c and d: restore table viewing_cell_slots of one"
    assert any(line.startswith("FAULT") and line.endswith(two) for line in lines)
    assert "FAULT migrations of cells a and d differ: run `viewing-time migrate`" in lines
    moved = "1 are in cell b and in another one: `viewing-time cells spread` finishes moves"
    assert f"FAULT accounts: {moved}" in lines
    assert lines[-1].startswith("warn  titles: cell d has 0, and cell b 1: ")


async def test_serve_refuses_wrong_cells_in_one_sentence(cells: Cells) -> None:
    cells.write(*NAMES, a=f'url = "{DOWN}"', b='schema = "c"', c='schema = "b"')
    exit_code, _, errors = await cells.start("serve")
    sentence = "Error: Cannot use the database of cell b: the database of cell b answers as cell c"
    assert (exit_code, errors) == (1, f"{sentence}: correct CELLS_FILE.\n")
    cells.write("a", b='schema = "a"')
    refused = await cells.run("serve")
    assert refused.stderr.startswith("Error: CELLS_FILE: cells a and b are one schema")
    refused = await cells.run("run")
    assert refused.stderr == "Error: `run` serves one cell: unset CELLS_FILE, or use `serve`.\n"
    cells.write("a", "b", "c")
    exit_code, _, errors = await cells.start("serve")
    sentence = "CELLS_FILE has no cell d, which has 256 of 1024 slots: add it"
    assert (exit_code, errors) == (1, f"Error: Cannot use the cells: {sentence}.\n")
