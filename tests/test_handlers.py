"""Rules about the code: one reader of the clock, and short modules and handlers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import service

PACKAGE = Path(service.__file__).parent


def test_only_the_application_reads_the_clock() -> None:
    """Everything else gets the time from `Context.now` or the command line."""
    readers = {
        path.stem
        for path in PACKAGE.rglob("*.py")
        if any(call in path.read_text() for call in ("datetime.now(", "time.time(", "utcnow("))
    }
    assert readers <= {"app", "demo"}


def handlers() -> Iterator[ast.AsyncFunctionDef]:
    """Every function from a request to a response."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef) and path.stem != "error_responses":
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


def test_a_module_has_at_most_250_lines() -> None:
    long = [path.name for path in PACKAGE.rglob("*.py") if path.read_text().count("\n") > 250]
    assert long == []
