"""The header of each file in `sql/` states its purpose, parameters and row correctly."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import service
from service.database.schema import TABLES
from service.database.statement import Statement, files

FOLDER = files("sql")
PYTHON = sorted(Path(service.__file__).parent.rglob("*.py"))
PARAMETER = re.compile(r"^-- \$(\d+) +(\w+) ([\w\[\]]+)(?:  +\S.*)?$")
COLUMN = re.compile(r"^-- row: (\w+) ([\w\[\]]+)(?:  +\S.*)?$")


def statements() -> dict[str, Statement[Any]]:
    """Every statement of the service by its file's name."""
    found = {}
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if module.name not in ("service.__main__", "service.operators.tracing"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Statement):
                    found[value.name] = value
    return found


def header(name: str) -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
    """The purpose, the parameters and the columns in a file's header."""
    lines = (FOLDER / f"{name}.sql").read_text().splitlines()
    comment = lines[: next(n for n, line in enumerate(lines) if not line.startswith("--"))]
    parameters = [match.groups() for line in comment if (match := PARAMETER.match(line))]
    assert [int(number) for number, _, _ in parameters] == [*range(1, len(parameters) + 1)]
    columns = [match.groups() for line in comment if (match := COLUMN.match(line))]
    return (
        comment[0].removeprefix("-- "),
        [(parameter, kind) for _, parameter, kind in parameters],
        [(column, kind) for column, kind in columns],
    )


def sql_type(kind: Any) -> str:
    name: str = kind.name
    return name.replace("varchar", "text")


def declared(kind: str) -> str:
    return re.sub(r"^int(\[\])?$", r"int4\1", kind).replace("varchar", "text")


NAMES_OF_FILES = sorted(path.stem for path in FOLDER.glob("*.sql"))
STATEMENTS = statements()
# The migration command runs these with psycopg, not through `Statement`.
COMMAND = sorted(name for name in NAMES_OF_FILES if name.startswith("migration_"))


def test_every_file_is_used_and_every_statement_has_a_file() -> None:
    used = "".join(path.read_text() for path in PYTHON)
    assert set(STATEMENTS) | set(COMMAND) == set(NAMES_OF_FILES)
    assert [name for name in NAMES_OF_FILES if f'"{name}"' not in used] == []


@pytest.mark.parametrize("name", NAMES_OF_FILES)
async def test_the_header_names_the_parameters_and_columns(name: str, database: str) -> None:
    purpose, parameters, columns = header(name)
    assert purpose.endswith(".")
    connection = await asyncpg.connect(database)
    try:
        text = (FOLDER / f"{name}.sql").read_text()
        if "from import_lines" in text:
            await connection.execute("begin")
            await connection.execute((FOLDER / "import_stage.sql").read_text())
        if "from viewing_heartbeats" in text:
            await connection.execute((FOLDER / "citus" / "heartbeat.sql").read_text())
        prepared = await connection.prepare(text)
        takes = [sql_type(kind) for kind in prepared.get_parameters()]
        gives = [(column.name, sql_type(column.type)) for column in prepared.get_attributes()]
    finally:
        await connection.close()
    assert [declared(kind) for _, kind in parameters] == takes
    assert [(column, declared(kind)) for column, kind in columns] == gives


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_row_type_is_the_select_list(name: str) -> None:
    _, _, columns = header(name)
    assert [column for column, _ in columns] == [*STATEMENTS[name].row.__struct_fields__]


@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_statement_keeps_the_style_rules(name: str) -> None:
    text = (FOLDER / f"{name}.sql").read_text()
    code = re.sub(r"--[^\n]*|'[^']*'|\"[^\"]*\"", "", text)
    assert not re.search(r"[A-Z]", code), "lower case"
    assert ";" not in code, "one statement a file"
    assert not re.search(r"select\s+\*|\.\*", code), "explicit columns"


def test_no_sql_in_python() -> None:
    keywords = re.compile(
        r"\b(select\b.+\bfrom|insert\s+into|update\b.+\bset|delete\s+from|with\b.+\bas\s*\()\b",
        re.IGNORECASE | re.DOTALL,
    )
    found = []
    for path in PYTHON:
        tree = ast.parse(path.read_text())
        docstrings = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
        for constant in constants:
            text = constant.value
            if isinstance(text, str) and text not in docstrings and keywords.search(text):
                found.append(f"{path.name}:{constant.lineno}")
    assert found == []


def test_no_id_is_derived_or_random() -> None:
    """`md5` fails on servers in FIPS mode; random ids touch a page of the whole index each.

    The ids of events begin with their time.
    """
    found = [
        path.name
        for folder in ("sql", "migrations")
        for path in files(folder).glob("*.sql")
        if re.search(r"\bmd5\(|gen_random_uuid\(", path.read_text())
    ]
    assert sorted(found) == ["0035_events.sql", "demo_load.sql"]


def test_every_table_of_the_migrations_is_checked() -> None:
    made = {
        name
        for path in files("migrations").glob("*.sql")
        for name in re.findall(r"create table if not exists (\w+)", path.read_text())
    }
    assert set(TABLES) == made
