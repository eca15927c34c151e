"""Some tests run again at midnight, at changes of clocks and at the end of a year."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TESTS = ["tests/players/test_heartbeat.py", "tests/players/test_session.py"]
INSTANTS = [
    "2026-11-25T23:59:58+00:00",
    "2026-03-29T00:59:58+00:00",  # clocks go forward in Europe
    "2026-11-01T05:59:58+00:00",  # clocks go back in New York
    "2026-12-31T23:59:59.999999+00:00",
]


@pytest.mark.parametrize("instant", INSTANTS)
def test_another_instant_changes_no_result(postgres_dsn: str, template: str, instant: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TEST_INSTANT": instant, "TEST_POSTGRES": postgres_dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
