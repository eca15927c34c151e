"""`make matrix`: the tests on every Python and PostgreSQL of this machine, as one table.

Each Python runs them on the newest PostgreSQL, each PostgreSQL with the Python of `.venv`, and the
lowest accepted versions of the dependencies with the oldest Python. Arguments are those of pytest;
without any it runs CORE, with `--all` the whole suite. PG_BIN_DIRS adds directories of PostgreSQL's
programs, separated by colons. With `uv` on the path it also resolves wheels for other systems.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from packaging.requirements import Requirement

from service.embedded.programs import find_binaries

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDER: Final = ROOT / ".matrix"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
SERVERS: Final = ("13", "15", "17", "18")
SYSTEMS: Final = {
    "Linux x86-64": "x86_64-unknown-linux-gnu",
    "Linux arm64": "aarch64-unknown-linux-gnu",
    "macOS arm64": "aarch64-apple-darwin",
    "macOS x86-64": "x86_64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}
CORE: Final = (
    *("tests/players", "tests/viewing/test_rules.py", "tests/viewing/test_heartbeat_writer.py"),
    *("tests/database/test_migrate.py", "tests/test_server.py", "tests/openapi"),
)


class Case(NamedTuple):
    """One line of the table; `missing` is the reason why it cannot run."""

    python: str
    server: str
    dependencies: str = "newest"
    missing: str = ""


def pythons() -> dict[str, Path]:
    """The interpreters on the path and of pyenv, by version."""
    found: dict[str, Path] = {}
    for version in PYTHONS:
        of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        on_path = shutil.which(f"python{version}")
        for candidate in (*([on_path] if on_path else []), *map(str, reversed(of_pyenv))):
            if _output(candidate, "-c", "print('%d.%d' % __import__('sys').version_info[:2])") == (
                version
            ):
                found[version] = Path(candidate)
                break
    return found


def servers() -> dict[str, Path]:
    """The directories of PostgreSQL's programs, by major version."""
    given = [Path(each) for each in os.environ.get("PG_BIN_DIRS", "").split(":") if each]
    found = {}
    for folder in (*given, *Path("/usr/lib/postgresql").glob("*/bin"), find_binaries()):
        if version := re.search(r"\(PostgreSQL\) (\d+)", _output(folder / "postgres", "--version")):
            found[version[1]] = folder
    return found


def cases(pythons: dict[str, Path], servers: dict[str, Path]) -> Iterator[Case]:
    """Every combination to run, and those for which something is missing."""
    newest = max(servers, key=int)
    own = f"3.{sys.version_info.minor}"
    for version in PYTHONS:
        missing = "" if version in pythons else f"no python{version} on the path or in pyenv"
        yield Case(version, newest, missing=missing)
    for server in SERVERS:
        if server != newest:
            missing = "" if server in servers else "not in PG_BIN_DIRS or /usr/lib/postgresql"
            yield Case(own, server, missing=missing)
    if pythons:
        yield Case(next(iter(pythons)), newest, "lowest")


def lowest() -> list[str]:
    """The lowest accepted version of each dependency, as constraints of pip."""
    return [
        f"{needed.name}=={specifier.version}"
        for needed in map(Requirement, PROJECT["project"]["dependencies"])
        for specifier in needed.specifier
        if specifier.operator == ">="
    ]


def environment(python: Path, case: Case) -> Path:
    """The interpreter of a virtual environment with the service and what its tests need."""
    folder = FOLDER / f"{case.python}-{case.dependencies}"
    installed = folder / "pyproject.toml"
    wanted = (ROOT / "pyproject.toml").read_text()
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(lowest() if case.dependencies == "lowest" else []))
        program = str(folder / "bin" / "python")
        pip = [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--constraint", str(constraints), "--editable", ".[test]"]
        with (folder / "install.log").open("w") as log:
            subprocess.run([*pip, *options], cwd=ROOT, check=True, stdout=log, stderr=log)
        installed.write_text(wanted)
    return folder / "bin" / "python"


def result(case: Case, python: Path, server: Path, arguments: list[str]) -> str:
    """Runs the tests of a case; returns the last line of pytest, which counts them."""
    try:
        program = environment(python, case)
    except subprocess.CalledProcessError:
        return f"FAILED: not installed, see .matrix/{case.python}-{case.dependencies}/install.log"
    done = subprocess.run(
        [program, "-m", "pytest", "-q", "-n", "2", "-m", "not soak", *arguments],
        cwd=ROOT,
        env={**os.environ, "PG_BIN_DIR": str(server)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = FOLDER / f"{case.python}-{case.server}-{case.dependencies}.log"
    log.write_text(done.stdout)
    counted = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return counted if done.returncode == 0 else f"FAILED: {counted}, see {log.relative_to(ROOT)}"


def wheels(platform: str) -> str:
    """Whether wheels of all dependencies exist for a system and every Python."""
    if shutil.which("uv") is None:
        return "skipped: no uv on the path"
    without = []
    for version in PYTHONS:
        command = ["uv", "pip", "compile", "--quiet", "--only-binary", ":all:", "pyproject.toml"]
        options = ["--python-platform", platform, "--python-version", version]
        if subprocess.run([*command, *options], cwd=ROOT, capture_output=True).returncode:
            without.append(version)
    return f"FAILED: no wheels for {', '.join(without)}" if without else "resolved"


def _output(*command: str | Path) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def main() -> int:
    arguments = [each for each in sys.argv[1:] if each != "--all"]
    selected = arguments or ([] if "--all" in sys.argv else list(CORE))
    FOLDER.mkdir(exist_ok=True)
    found, running, outcomes = pythons(), servers(), []
    print(f"{'Python':<8}{'PostgreSQL':<12}{'dependencies':<14}result")
    for case in cases(found, running):
        print(f"{case.python:<8}{case.server:<12}{case.dependencies:<14}", end="", flush=True)
        if case.missing:
            outcomes.append(f"skipped: {case.missing}")
        else:
            outcomes.append(result(case, found[case.python], running[case.server], selected))
        print(outcomes[-1])
    for name, platform in SYSTEMS.items():
        outcomes.append(wheels(platform))
        print(f"{name:<34}wheels for {PYTHONS[0]} to {PYTHONS[-1]}: {outcomes[-1]}")
    return int(any(outcome.startswith("FAILED") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
