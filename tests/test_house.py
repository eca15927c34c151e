"""Rules for the tests: private names and the machine's clock only where they are listed."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT

FILES: Final = sorted((ROOT / "tests").rglob("*.py"))

# The private names of the service that tests use, and why there is no public way.
PRIVATE: Final = {
    "tests/command/test_check.py": {"_published_keys", "_version"},  # one line of the report
    "tests/http/test_refusals.py": {"_closing"},  # a writer that rejects, without load
    "tests/observing/test_open_files.py": {"_players", "_watch_connections"},  # one sentence
    "tests/observing/test_supervision.py": {"_lanes", "_queue", "_servers"},  # tasks to kill
    "tests/cells/test_records.py": {"_check_database", "_reached_at"},  # a frozen cell
    "tests/operators/test_health.py": {"_check_database", "_send"},  # delays a statement
    "tests/operators/test_prometheus.py": {"_check_database"},  # delays a statement
    "tests/parents/test_pin.py": {"_longest_wait"},  # a hasher with a full queue
    "tests/platform/test_imports.py": {"_RowSource", "_merge_staged"},  # one batch
    "tests/viewing/test_config_cache.py": {"_loader", "_pool"},  # counts the loads
    "tests/viewing/test_heartbeat_writer.py": {"_open"},  # a connection that cannot be opened
    "tests/viewing/test_rules.py": {"_DAYS", "_zone_names"},  # caches to clear
    # Not ours:
    # pytest shows the fixtures of a test, and xdist what goes to one worker, nowhere else.
    "tests/conftest.py": {"_fixtureinfo", "_split_scope"},
    "tests/guides.py": {"_replace"},  # of every NamedTuple
    "tests/openapi/test_document.py": {"_replace"},  # of every NamedTuple
    "tests/parents/test_config_change.py": {"_replace"},  # of every NamedTuple
    "tests/processes.py": {"_exit"},  # of `os`
}
# Who reads the machine's clock, and why the day of the run does not matter.
MACHINE_CLOCK: Final = {
    "tests/command/test_check.py": "compares with the clock of the database",
    "tests/command/test_check_tables.py": "compares with the clock of the database",
    "tests/database/test_rights.py": "compares with the clock of the database",
    "tests/events/test_receiver_example.py": "the example compares timestamps with it",
    "tests/observing/test_supervision.py": "retention compares with the clock of the database",
    "tests/platform/test_balance_months.py": "partitions follow the clock of the database",
    "tests/platform/test_retention.py": "retention counts from the clock of the database",
    "tests/command/test_data.py": "retention counts from the clock of the database",
    "tests/parents/test_pin.py": "locks end by the clock of the database",
    "tests/parents/test_report_link.py": "links expire by the clock of the database",
    "tests/database/test_tls.py": "certificates are valid from yesterday to tomorrow",
    "tests/faults/households.py": "services run by the machine's clock",
    "tests/family.py": "moves the reset half a day away",
    "tests/conformance/replay.py": "replays once more what a day's change may have spoiled",
}
CLOCKS: Final = {"datetime.now", "datetime.utcnow", "date.today", "time.time", "utc_now"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def private_names(tree: ast.AST) -> Iterator[str]:
    """Attributes and imports that begin with one underscore, except those of `self` and `cls`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=attribute):
                names = [attribute]
            case ast.ImportFrom():
                names = [alias.name for alias in node.names]
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[_, ast.Constant(str(text)), *_]
            ):
                names = [text.rpartition(".")[2]]
            case _:
                continue
        yield from (each for each in names if each.startswith("_") and not each.startswith("__"))


def clocks(tree: ast.AST) -> set[str]:
    """The calls and names by which a file reads the machine's clock."""
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return CLOCKS & (calls | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})


@pytest.mark.parametrize("path", FILES, ids=name)
def test_private_attributes_are_used_only_where_listed(path: Path) -> None:
    used = {*private_names(parsed(path))}
    assert used == PRIVATE.get(name(path), set())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_machines_clock_is_read_only_where_listed(path: Path) -> None:
    assert bool(clocks(parsed(path))) <= (name(path) in MACHINE_CLOCK)
