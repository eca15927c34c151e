"""The guide for platforms runs from an empty database to the first event that is received."""

import shutil
from pathlib import Path

from bench.ports import free_port
from tests.conftest import ROOT
from tests.guides import run_guide


async def test_the_code_of_the_guide_runs(empty_database: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "receiver.py", tmp_path)
    await run_guide(
        ROOT / "docs" / "platforms.md",
        tmp_path,
        DATABASE_URL=empty_database,
        PORT=str(free_port()),
        WEBHOOK_URL=f"http://127.0.0.1:{free_port()}/",
    )
