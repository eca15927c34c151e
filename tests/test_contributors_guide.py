"""The guide for contributors adds an endpoint to a copy of this checkout."""

import shutil
from pathlib import Path

from tests.conftest import ROOT
from tests.guides import run_guide

COPIED = ("service", "sql", "migrations", "tests", "docs", "ops", "examples")


async def test_the_five_steps_of_the_guide_add_an_endpoint(
    postgres_dsn: str, template: str, tmp_path: Path
) -> None:
    """`template` is the database that the tests of the copy use."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(path, tmp_path)
    await run_guide(ROOT / "docs" / "contributors.md", tmp_path, TEST_POSTGRES=postgres_dsn)
