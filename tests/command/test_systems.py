"""macOS: the service works without the features of Linux. Windows: one sentence."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from bench.ports import free_port
from service.command.main import main
from service.database.driver import Connection
from tests.conftest import ROOT, served
from tests.family import HEARTBEAT, PIN, SECRET, Family
from tests.operators.exposition import scrape, value

ACCOUNT = "d0000000-0000-4000-8000-000000000001"
COMMANDS = [
    ["serve"],
    ["run"],
    ["migrate", "--list"],
    ["check"],
    ["import", "-"],
    ["retain"],
    ["erase", ACCOUNT, "--yes"],
    ["export", ACCOUNT],
    ["token", ACCOUNT, "--development"],
]
# Runs first in each Python process and makes it look like one on another system.
OTHER_SYSTEM = """
import sys
import sysconfig
import types

sysconfig.get_config_vars()  # cached now, because it is read from files of this system
# A module of macOS, for urllib.
proxies = sys.modules["_scproxy"] = types.ModuleType("_scproxy")
proxies._get_proxy_settings = proxies._get_proxies = dict
BLOCKED = {blocked}
sys.modules |= dict.fromkeys(BLOCKED)  # importing one raises ImportError
sys.platform = "{platform}"


def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        is_ours = "/service/" in sys._getframe(1).f_code.co_filename
        raise AssertionError(arguments[0]) if is_ours else FileNotFoundError(arguments[0])
    if event == "ctypes.dlsym" and arguments[1] == "prctl" or event == "fcntl.flock":
        raise AssertionError(event)


sys.addaudithook(refuse)
"""


def other_system(folder: Path, platform: str, *blocked: str) -> dict[str, str]:
    """The environment of a Python process that looks like one on `platform`."""
    code = OTHER_SYSTEM.format(blocked=blocked, platform=platform)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_every_command_ends_with_one_sentence_on_windows(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", "win32")
    done = CliRunner().invoke(main, command, env={"DATABASE_URL": "postgresql://x/y"})
    assert (done.exit_code, done.output) == (
        1,
        "Error: viewing-time runs on Linux, and on macOS where DATABASE_URL is set; "
        "not on Windows.\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_run_without_a_database_needs_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    done = CliRunner().invoke(main, ["run"])
    assert (done.exit_code, done.output) == (
        1,
        "Error: viewing-time runs on Linux, and on macOS where DATABASE_URL is set: "
        "the embedded PostgreSQL runs on Linux only.\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_the_command_can_be_imported_without_the_modules_that_windows_lacks(tmp_path: Path) -> None:
    missing = ("fcntl", "grp", "pwd", "resource", "termios", "uvloop")
    # The standard library imports these modules unless `sys.platform` is Windows
    code = "import subprocess, asyncio, multiprocessing, tempfile, shutil, pathlib, getpass\n"
    code += f"import sys; sys.modules |= dict.fromkeys({missing})\n"
    code += "import service.command.main, service.app, service.server; print('imported')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")


# Python imports this module on macOS; Debian does not install it.
on_macos = pytest.mark.skipif(
    find_spec("ctypes.macholib") is None, reason="this Python has no ctypes.macholib"
)


@on_macos
async def test_service_with_a_database_works_on_macos(
    database: str, family: Family, connection: Connection, tmp_path: Path
) -> None:
    async with (
        served(database, **other_system(tmp_path, "darwin")) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as client,
    ):
        url = HEARTBEAT
        answer = await client.post(url, json=family.beat(), headers=family.bearer)
        assert answer.json()["used_minutes"] == 0.5
        url = "/api/v1/parental-controls/pin/verify"
        answer = await client.post(url, json={"pin": PIN}, headers=family.bearer)
        assert answer.json()["verified"] is True
        shown = await scrape(client)
        assert value(shown, "ready") == 1
        assert not [sample for sample in shown if sample.name == "process_open_fds"]


@on_macos
@pytest.mark.parametrize("command", [["migrate"], ["check"], ["retain", "--dry-run"]])
def test_commands_with_a_database_work_on_macos(
    command: list[str], database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": database, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-m", "service", *command],
        cwd=tmp_path,
        env={**os.environ, **variables, **other_system(tmp_path, "darwin")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
