"""make: packages are installed once, and a failure of their installation is one sentence."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

# In place of .venv/bin/python: writes its arguments to a file, and fails to install on demand.
PYTHON = """#!/bin/sh
echo "$@" >>calls
case "$*" in *install*) test -z "$OFFLINE";; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that make needs, with an interpreter that only writes down its calls."""
    for name in ("Makefile", "pyproject.toml", ".ci/install"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    program = tmp_path / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(PYTHON)
    program.chmod(0o755)
    return tmp_path


def make(checkout: Path, target: str, **variables: str) -> tuple[str, str, list[str]]:
    """The output and the errors of make, and the calls of the interpreter."""
    calls = checkout / "calls"
    calls.write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", target],
        cwd=checkout,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr, calls.read_text().splitlines()


def installed(calls: list[str]) -> list[str]:
    """The extras of each installation."""
    return [call.split()[-1] for call in calls if " pip install " in call]


def appended(path: Path) -> None:
    """Adds a line to a file, later than everything before by the clock of the file system."""
    time.sleep(0.05)
    with path.open("a") as file:
        file.write("\n")


def test_packages_are_installed_again_only_if_pyproject_toml_has_changed(checkout: Path) -> None:
    printed, _, calls = make(checkout, "run")
    assert "Installing packages into .venv" in printed
    assert (installed(calls), calls[-1]) == ([".[embedded]"], "-m service run")
    (checkout / "pyproject.toml").touch()
    assert installed(make(checkout, "run")[2]) == []
    appended(checkout / "pyproject.toml")
    assert installed(make(checkout, "run")[2]) == [".[embedded]"]


def test_run_needs_no_installation_after_that_of_the_tests(checkout: Path) -> None:
    assert installed(make(checkout, "quick")[2]) == [".[test,check]"]
    assert installed(make(checkout, "run")[2]) == []


def test_failed_installation_says_how_to_continue_without_a_network(checkout: Path) -> None:
    _, error, calls = make(checkout, "run", OFFLINE="1")
    assert error.splitlines()[0] == (
        "Packages could not be installed; .venv/install.log says why. Without a network, "
        "`touch .venv/.installed .venv/.runnable` keeps to the packages that are installed."
    )
    assert "-m service run" not in calls
    for name in (".installed", ".runnable"):
        (checkout / ".venv" / name).touch()
    assert make(checkout, "run", OFFLINE="1")[2] == ["-m service run"]


def test_old_python_is_reported(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    _, error, _ = make(checkout, "run", PYTHON="false")
    assert error.startswith("Python 3.11 or newer is needed, which false is not")
