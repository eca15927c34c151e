"""Statements of background tasks can be told apart from those of requests."""

from service.database.statement import files, text
from tests.statement_counts import BACKGROUND, shape

NAMES = sorted(path.stem for path in files("sql").glob("*.sql"))


def test_statements_are_told_apart_without_their_headers_and_constants() -> None:
    shapes = {name: shape(text(name)) for name in NAMES}
    assert len({*shapes.values()}) == len(shapes)
    assert not any("--" in each for each in shapes.values())


def test_every_statement_of_the_list_exists() -> None:
    assert {*BACKGROUND} <= {*NAMES}
