"""A module imports only from the layers below its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import service

PACKAGE = Path(service.__file__).parent
LAYERS = [
    ["__main__"],
    ["cli"],
    ["check"],
    ["check_database"],
    ["demo", "local_data", "server", "cli_data", "cli_import", "cli_migrate"],
    ["protocol"],
    ["request_head"],
    ["cycle"],
    ["app"],
    ["parts"],
    ["openapi"],
    ["openapi_schemas"],
    ["openapi_operations"],
    [
        "heartbeat",
        "balance",
        "session",
        "viewing_config",
        "grant",
        "pin",
        "history",
        "weekly_report",
        "erasure",
        "admin",
        "accounts",
        "profiles",
        "titles",
        "imports",
        "health",
        "scrape",
        "live",
        "observed",
        "telemetry",
        "faults",
        "redirect",
    ],
    ["pin_attempt", "import_merge"],
    ["idempotency"],
    ["auth", "exchange"],
    ["context"],
    ["import_lines"],
    ["records"],
    ["pulse", "readiness", "retention_schedule"],
    [
        "heartbeat_writer",
        "config_cache",
        "pin_hasher",
        "pin_turns",
        "keys",
        "retention",
        "export",
        "deletion",
    ],
    ["heartbeat_batch"],
    ["heartbeat_queue", "config_loader"],
    ["rights", "tables"],
    ["heartbeat_record", "migrate", "schema", "in_force", "pin_pool"],
    ["migrate_session"],
    ["config_changes"],
    ["database", "embedded", "jwks"],
    ["connector"],
    ["report_page", "openapi_page", "openapi_fields"],
    ["week", "dates", "negotiation"],
    ["rules", "wire", "dotenv", "ids", "exposition", "open_files"],
    ["supervision"],
    ["driver", "cures", "refusals"],
    ["errors", "deadlines", "pin_worker", "postgres_programs", "settings", "metrics", "logs"],
    ["trace", "process", "version", "database_url"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "service":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("service."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("service.")
            }
    return found


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_every_module_has_a_layer() -> None:
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    upwards = {other for other in imported(PACKAGE / f"{name}.py") if LEVEL[other] <= LEVEL[name]}
    assert upwards == set()


def test_only_the_application_knows_the_time_of_day() -> None:
    """Everything else is told: by `Context.now`, or by the person at the command line."""
    readers = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if any(call in path.read_text() for call in ("datetime.now(", "time.time(", "utcnow("))
    }
    assert readers <= {"app", "demo"}


def test_the_reading_order_names_every_module_before_what_it_imports() -> None:
    lines = (service.__doc__ or "").splitlines()
    names = [
        name
        for line in lines
        if line.startswith("    ") and line[4] != " "
        for name in re.split(r"  |$", line.strip())[0].rstrip(",").split(", ")
    ]
    assert sorted(names) == [name for name in MODULES if name != "__main__"]
    place = {name: number for number, name in enumerate(names)}
    backwards = {
        (name, other)
        for name in names
        for other in imported(PACKAGE / f"{name}.py")
        if place[other] < place[name]
    }
    assert backwards == set()


def handlers() -> Iterator[ast.AsyncFunctionDef]:
    """Every function that takes a request and gives a response."""
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef) and path.stem != "faults":
                signature = ast.unparse(node.args), ast.unparse(node.returns or ast.Constant(None))
                if signature == ("request: Request", "Response"):
                    yield node


def test_a_handler_is_short_and_catches_nothing() -> None:
    found = list(handlers())
    assert len(found) > 20
    for handler in found:
        has_docstring = ast.get_docstring(handler) is not None
        first = handler.body[1 if has_docstring else 0].lineno
        assert (handler.end_lineno or 0) - first < 15, handler.name
        assert not [node for node in ast.walk(handler) if isinstance(node, ast.Try)], handler.name
