"""The programs of Prometheus, which Debian has in one package."""

import shutil

import pytest


def programs() -> tuple[str, str]:
    """The paths of promtool and prometheus; skips the test where one is missing."""
    promtool, prometheus = shutil.which("promtool"), shutil.which("prometheus")
    if not promtool or not prometheus:
        pytest.skip("promtool and prometheus are not installed: see .ci/run")
    return promtool, prometheus
