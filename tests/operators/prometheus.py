"""Prometheus and promtool: those on the PATH, else Debian's, fetched for the run."""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

FETCH_SECONDS = 30


@cache
def programs() -> tuple[str, str]:
    """The paths of promtool and prometheus; skips the test, with the reason, where there is none.

    Debian's package is unpacked into a folder that goes with the run: nothing is installed, no
    service is started.
    """
    promtool, prometheus = shutil.which("promtool"), shutil.which("prometheus")
    if promtool and prometheus:
        return promtool, prometheus
    if not shutil.which("apt-get"):
        pytest.skip("promtool and prometheus are not installed, and only Debian has a package here")
    folder = Path(_FOLDER.name)
    fetch = "apt-get -qq download prometheus && dpkg -x prometheus_*.deb ."
    try:
        subprocess.run(
            fetch, shell=True, cwd=folder, check=True, capture_output=True, timeout=FETCH_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Debian's prometheus could not be fetched: {error}")
    return str(folder / "usr/bin/promtool"), str(folder / "usr/bin/prometheus")


_FOLDER = tempfile.TemporaryDirectory(prefix="vt-prometheus-")
