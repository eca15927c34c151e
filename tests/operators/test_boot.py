"""A real systemd runs the units of `ops/systemd/`, with all restrictions and credentials."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import httpx
import pytest

from bench.ports import free_port
from tests.conftest import ROOT
from tests.family import SECRET
from tests.faults.proxy import proxied
from tests.operators.debian import make_debian, needs, run
from tests.operators.test_units import PROGRAM

# Installs the service as ops/README.md says.
INSTALL: Final = """
cd /root && python3 -m venv /opt/viewing-time
/opt/viewing-time/bin/pip install --only-binary :all: --require-hashes -r requirements.lock
/opt/viewing-time/bin/pip install --no-deps viewing_time-*.whl
"""
# Runs in the booted system.
SCRIPT: Final = f"""#!/bin/sh
set -a && . /etc/viewing-time/environment
{{
    systemctl start viewing-time-migrate && echo migrated
    systemctl enable --now viewing-time.socket viewing-time && echo serving
    {PROGRAM} healthcheck
    grep CapEff /proc/$(systemctl show viewing-time --property MainPID --value)/status
    sleep 2
    systemctl reload viewing-time && echo reloaded
    sleep 5
    systemctl restart viewing-time && echo restarted
    sleep 2 && touch /root/asked && sleep 2
    systemctl kill --kill-whom=main --signal=KILL viewing-time
    sleep 10
    {PROGRAM} healthcheck
    systemctl stop viewing-time.socket viewing-time && echo stopped
    systemctl show viewing-time --property Result,NRestarts | sort
}} >/root/result 2>/root/errors
journalctl --no-pager --output cat --unit viewing-time >/root/log
systemctl poweroff
"""
UNIT: Final = "[Service]\nType=oneshot\nExecStart=/root/script\nTimeoutStartSec=300\n"


def install(root: Path, dsn: str, port: str) -> None:
    """Installs Debian, the service, its units and its secrets."""
    make_debian(root, "systemd", "systemd-sysv", "dbus")
    home = root / "root"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    run(*build, home)
    (home / "requirements.lock").write_text((ROOT / "requirements.lock").read_text())
    run("chroot", root, "sh", "-euc", INSTALL)
    units = root / "etc/systemd/system"
    for unit in (ROOT / "ops" / "systemd").iterdir():
        (units / unit.name).write_text(unit.read_text().replace("127.0.0.1:8000", f"[::1]:{port}"))
    secrets = root / "etc/viewing-time"
    secrets.mkdir(mode=0o700)
    for name in ("database_url", "migration_database_url"):
        (secrets / name).write_text(dsn)
    (secrets / "jwt_secret").write_text(SECRET)
    (secrets / "environment").write_text(f"HOST=::1\nPORT={port}\nWEB_CONCURRENCY=2\n")
    (home / "script").write_text(SCRIPT)
    (home / "script").chmod(0o755)
    (units / "script.service").write_text(UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "script.service").symlink_to("/etc/systemd/system/script.service")


async def statuses(url: str, until: Path) -> list[int]:
    """Asks on a new connection again and again until a file exists; fails if one is refused."""
    found: list[int] = []
    while not until.exists():
        async with httpx.AsyncClient(timeout=60) as client:
            try:
                found.append((await client.get(f"{url}/health/live")).status_code)
            except httpx.ConnectError:
                assert not found, f"refused after {len(found)} answers"
        await asyncio.sleep(0.05)
    return found


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_systemd_starts_replaces_and_restarts_the_service(empty_database: str) -> None:
    needs("systemd-nspawn")
    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="vt-boot-") as folder:
        root = Path(folder) / "root"
        async with proxied(empty_database) as proxy:
            await asyncio.to_thread(install, root, proxy.dsn, port)
            boot = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe"]
            machine = await asyncio.create_subprocess_exec(
                *boot, "--boot", "--directory", str(root), stdout=subprocess.DEVNULL
            )
            try:
                asking = statuses(f"http://[::1]:{port}", root / "root/asked")
                answers = await asyncio.wait_for(asking, 120)
                await asyncio.wait_for(machine.wait(), 60)
            finally:
                if machine.returncode is None:
                    machine.kill()
                    await machine.wait()
                for name in ("result", "errors", "log"):
                    print((root / "root" / name).read_text())
        assert (root / "root/result").read_text().splitlines() == [
            "migrated",
            "serving",
            f"The service on [::1]:{port} is ready.",
            "CapEff:\t0000000000000000",
            "reloaded",
            "restarted",
            f"The service on [::1]:{port} is ready.",
            "stopped",
            "NRestarts=1",
            "Result=success",
        ]
        assert {*answers} == {200}
        assert len(answers) > 50
