"""A root file system with Debian, for tests that build an image or boot systemd."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT

MIRROR: Final = "http://deb.debian.org/debian"
CERTIFICATES: Final = Path("etc/ssl/certs/ca-certificates.crt")


def needs(*programs: str) -> None:
    """Skips the test unless it is run by root and the programs are installed."""
    if missing := [each for each in ("debootstrap", *programs) if not shutil.which(each)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("a root file system of its own needs root")


def run(*command: str | Path) -> str:
    """Runs a program; its output, or a failure with it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def make_debian(folder: Path, *packages: str) -> None:
    """Installs Debian with Python into a folder; pip trusts the certificates of this machine."""
    included = ",".join(["python3", "python3-venv", "ca-certificates", *packages])
    run("debootstrap", "--variant=minbase", f"--include={included}", "bookworm", folder, MIRROR)
    shutil.copy(Path("/") / CERTIFICATES, folder / CERTIFICATES)
    (folder / "etc/pip.conf").write_text(f"[global]\ncert = /{CERTIFICATES}\n")
