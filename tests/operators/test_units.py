"""The units of `ops/systemd/`: systemd accepts them, and they fit the service."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from service.command.main import main
from service.settings import FIELDS, MASKED, Settings, read
from service.workers import KILL_SECONDS
from tests.conftest import ROOT
from tests.family import SECRET

UNITS: Final = ROOT / "ops" / "systemd"
PROGRAM: Final = "/opt/viewing-time/bin/viewing-time"
SERVICES: Final = ("viewing-time.service", "viewing-time-migrate.service")
MAX_EXPOSURE: Final = 20  # of 100, as `systemd-analyze security` counts


def values(unit: str, name: str) -> list[str]:
    """The values of every such line of a unit."""
    lines = [line.partition("=") for line in (UNITS / unit).read_text().splitlines()]
    return [value for key, _, value in lines if key == name]


def environment(unit: str) -> dict[str, str]:
    """The variables that a unit sets."""
    pairs = [pair for line in values(unit, "Environment") for pair in line.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def defaults() -> Settings:
    """The settings of a service that only has what it needs."""
    return read({"DATABASE_URL": "postgresql://db.example/vt", "JWT_SECRET": SECRET})


def analyzed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A run of `systemd-analyze`; skips the test if it is not installed."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


def test_systemd_accepts_every_unit(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    done = analyzed("verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_hardened(service: str) -> None:
    threshold = f"--threshold={MAX_EXPOSURE}"
    done = analyzed("security", "--offline=true", threshold, "--no-pager", UNITS / service)
    assert done.returncode == 0, done.stdout


def test_every_unit_is_checked() -> None:
    assert {path.name for path in UNITS.glob("*.service")} == {*SERVICES}
    assert {path.name for path in UNITS.iterdir()} == {*SERVICES, "viewing-time.socket"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_a_command_with_secrets_from_credentials(service: str) -> None:
    [command] = values(service, "ExecStart")
    program, name = command.split()
    assert program == PROGRAM
    assert name in main.commands
    credentials = [line.partition(":")[0] for line in values(service, "LoadCredential")]
    secrets = {name for name in environment(service) if name.endswith("_FILE")}
    assert {name.removesuffix("_FILE").lower() for name in secrets} <= MASKED
    assert sorted(environment(service)[name] for name in secrets) == [
        f"%d/{name}" for name in sorted(credentials)
    ]
    others = {name.lower() for name in environment(service).keys() - secrets}
    assert others <= FIELDS.keys()
    assert not others & MASKED


def test_the_service_has_time_to_drain_before_it_is_killed() -> None:
    settings = defaults()
    longest = settings.shutdown_drain_seconds + settings.shutdown_grace_seconds
    [seconds] = values("viewing-time.service", "TimeoutStopSec")
    assert float(seconds) > longest + 2 * KILL_SECONDS
    # The service stops its own processes; systemd kills them only if that takes too long.
    assert values("viewing-time.service", "KillMode") == ["mixed"]


def test_the_socket_has_the_address_that_healthcheck_asks() -> None:
    settings = defaults()
    [address] = values("viewing-time.socket", "ListenStream")
    assert address == f"{settings.host}:{settings.port}"
    assert values("viewing-time.socket", "Accept") == []  # one process for all connections
