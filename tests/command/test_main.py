"""The command as a person uses it: run, stop, run again; what goes wrong is one clear sentence."""

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

from service.command import local_data, main
from service.command.dotenv import dotenv
from service.database import schema
from service.database.driver import Connection
from service.database.migrate import listing
from service.server import PortTaken, bound
from tests.conftest import ROOT, free_port, served
from tests.embedded.test_supervisor import ask
from tests.family import SECRET

COMMAND = [sys.executable, "-m", "service"]


def environment(**variables: str) -> dict[str, str]:
    """The environment without what this process was told, and with `variables`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "JWT_SECRET")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PORT": str(free_port()), **variables}


def invoked(monkeypatch: pytest.MonkeyPatch, dsn: str, *words: str) -> tuple[int, str]:
    """Exit code and output of a command in this process."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    done = CliRunner().invoke(main.main, words)
    return done.exit_code, done.output


@contextmanager
def run(
    folder: Path, port: int, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`viewing-time run` in `folder`, and the curl lines it printed."""
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
        process.communicate(timeout=30)


def answer(curl: str) -> httpx.Response:
    """Sends what a printed curl line would send."""
    headers = dict(pair.split(": ", 1) for pair in re.findall(r"-H '([^']*)'", curl))
    body = re.search(r"-d '([^']*)'", curl)
    url = curl.split()[-1]
    method = "POST" if body else "GET"
    return httpx.request(method, url, headers=headers, content=body and body[1])


def postgres_of(process: subprocess.Popen[str]) -> list[int]:
    """The PostgreSQL servers that a process started."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    """Waits for a process to end."""
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_stop_and_run_again_keeps_the_data(tmp_path: Path, stop: signal.Signals) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    port = free_port()
    with run(folder, port) as (process, curls):
        assert answer(curls[0]).json()["used_minutes"] == 0.5
        assert answer(curls[1]).json()["used_minutes"] == 0.5
        assert len(answer(curls[2]).json()["profiles"]) == 2
        [server] = postgres_of(process)
        process.send_signal(stop)
        status = process.wait(30)
    assert status == (-signal.SIGKILL if stop == signal.SIGKILL else 0)
    assert gone(server)
    with run(folder, port) as (_, again):
        assert answer(curls[0]).json()["used_minutes"] == 1.0
        assert answer(again[0]).json()["used_minutes"] == 1.5


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_what_run_keeps_is_for_its_account_alone_at_any_umask(tmp_path: Path, umask: int) -> None:
    with run(tmp_path, free_port(), preexec_fn=lambda: os.umask(umask)):
        kept = [tmp_path / ".data", *(tmp_path / ".data").rglob("*")]
        modes = {path: path.lstat().st_mode for path in kept}
    assert {tmp_path / ".data" / name for name in ("jwt_secret", "postgres")} <= modes.keys()
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}


def test_a_folder_that_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / ".data"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with run(tmp_path, free_port()):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_run_loads_no_demo_family_into_a_database_of_somebody_else(
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
        said = list(iter(process.stdout.readline, served_at))
        assert any(line.startswith("applied 0001_tables") for line in said)
        assert ask(empty_database, "select count(*) from users") == 0
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert "curl" not in rest


def refused(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Status and output of a command that is to fail."""
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


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables = {
            "PORT": str(port),
            "DATABASE_URL": "postgresql:///nowhere",
            "JWT_SECRET": SECRET,
        }
        status, said = refused(tmp_path, "serve", **variables)
    assert status == 1
    assert said == (
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
def test_a_wrong_host_is_what_is_blamed(variable: str, host: str, reason: str) -> None:
    with pytest.raises(PortTaken) as caught:
        bound(host, free_port(), variable)
    setting = variable.replace("PORT", "HOST")
    assert re.fullmatch(
        rf"Cannot serve on \S+: ({reason})\. Set {setting} to an address of this machine, .*",
        str(caught.value),
    )


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1", "::"])
def test_names_and_addresses_of_both_kinds_can_be_served_on(host: str) -> None:
    with bound(host, 0) as listener:
        address = "::1" if ":" in host else "127.0.0.1"
        socket.create_connection((address, listener.getsockname()[1]), 5).close()


def test_a_port_that_needs_rights_is_what_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(listener: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(PortTaken, match=r"Permission denied\. Set PORT to 1024 or more, or allow "):
        bound("127.0.0.1", 80)


def test_every_wrong_setting_is_told_at_once(tmp_path: Path) -> None:
    variables = {
        "PORT": "http",
        "DATABASE_URL": "postgres//x",
        "JWT_SECRET": "short",
        "POOL_MAX_SIZE": "ten",
    }
    status, said = refused(tmp_path, "serve", **variables)
    assert status == 1
    assert len(said.splitlines()) == 4
    assert "short" not in said


def test_a_database_that_is_away_is_one_clear_sentence(tmp_path: Path) -> None:
    variables = {
        "PORT": str(free_port()),
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/x",
        "JWT_SECRET": SECRET,
    }
    status, said = refused(tmp_path, "serve", **variables)
    assert status == 1
    assert said.startswith("Error: ")


def test_a_database_that_is_not_migrated_is_one_clear_sentence(
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


async def test_a_role_that_may_not_read_what_was_migrated_can_serve(
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
            httpx.AsyncClient(base_url=service.url) as client,
        ):
            assert (await client.get("/health/ready")).status_code == 200
    finally:
        await connection.execute(f"drop owned by {name}")
        await connection.execute(f"drop role {name}")


async def test_a_service_that_could_not_start_says_where_to_look(
    tmp_path: Path, database: str, connection: Connection
) -> None:
    await connection.execute(
        "alter function viewing_sessions_end_open(uuid, timestamptz) rename to gone"
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
    said = "Error: The service could not start; the log says why.\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert (
        "function viewing_sessions_end_open(uuid, timestamp with time zone) does not" in done.stdout
    )


@pytest.mark.parametrize("flags", [[], ["--list"], ["--rollback"]])
def test_migrating_a_database_that_is_away_is_one_clear_sentence(
    tmp_path: Path, flags: list[str]
) -> None:
    port = free_port()
    dsn = f"postgresql://nobody@127.0.0.1:{port}/x"
    reason = f'connection to server at "127.0.0.1", port {port} failed: Connection refused'
    for variable in ("DATABASE_URL", "DATABASE_DIRECT_URL"):
        addresses = {"DATABASE_URL": "postgresql:///pooled", variable: dsn}
        said = f"Error: Cannot use the database at {variable}: {reason}."
        assert refused(tmp_path, "migrate", *flags, **addresses) == (1, said)


def test_a_copy_of_the_example_settings_changes_nothing() -> None:
    assert dotenv(ROOT / ".env.example") == {}


@pytest.mark.parametrize("command", ["serve", "run", "migrate", "token"])
def test_help(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [*COMMAND, command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"Usage: viewing-time {command}")


def test_a_token_needs_the_word(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    status, said = refused(tmp_path, "token", account, JWT_SECRET=SECRET)
    assert status != 0
    assert "--development" in said


def test_a_token_that_nobody_would_accept_is_not_made(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    path = Path(".data", "jwt_secret")
    said = f"Error: JWT_SECRET is not set, and `viewing-time run` has not created one in {path}."
    assert refused(tmp_path, "token", account, "--development") == (1, said)
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_signed_with_the_secret_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JWT_SECRET", raising=False)
    account = "d0000000-0000-4000-8000-000000000001"
    Path(".data").mkdir()
    secret = local_data.created_secret()
    told = capsys.readouterr()
    assert (told.out, told.err.partition(":")[0]) == ("", "JWT_SECRET is not set")
    printed = CliRunner().invoke(main.main, ["token", account, "--development"])
    assert jwt.decode(printed.stdout.strip(), secret, algorithms=["HS256"])["sub"] == account


def test_a_kept_secret_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    (tmp_path / ".data" / "jwt_secret").mkdir(parents=True)
    for words, said in (
        (["token", account, "--development"], "JWT_SECRET is not set, and "),
        (["run"], "Cannot keep data in .data: "),
    ):
        status, error = refused(tmp_path, *words)
        assert status == 1
        assert error.startswith(f"Error: {said}")
        assert error.endswith("Is a directory: '.data/jwt_secret'.")


def test_a_folder_of_data_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    account = "d0000000-0000-4000-8000-000000000001"
    (tmp_path / ".data").touch()
    for words in (["token", account, "--development"], ["run"]):
        status, error = refused(tmp_path, *words)
        assert status == 1
        assert len(error.splitlines()) == 1


def test_migrating_what_is_migrated_is_one_line(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = (0, "Nothing is applied.\n")
    assert invoked(monkeypatch, empty_database, "migrate", "--rollback") == nothing
    assert invoked(monkeypatch, empty_database, "migrate")[0] == 0
    nothing = (0, "Nothing to apply: the database has the schema of this version.\n")
    assert invoked(monkeypatch, empty_database, "migrate") == nothing


def test_a_list_takes_nothing_back(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = invoked(monkeypatch, empty_database, "migrate", "--list", "--rollback")
    assert status == 2
    assert "--list and --rollback exclude each other." in said


def test_a_rollback_asks_for_what_it_takes_back(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoked(monkeypatch, empty_database, "migrate")
    names = [name for name, applied in listing(empty_database) if applied]
    names_back = ", ".join(reversed(names[names.index("0017_request_keys") :]))
    monkeypatch.setattr("service.command.migrate._is_interactive", lambda: True)
    words = ("migrate", "--rollback", "--to", "0017_request_keys")
    status, said = invoked(monkeypatch, empty_database, *words)
    assert status == 1
    assert said.splitlines()[-2:] == [
        "0017_request_keys drops what this version needs: table viewing_time_request_keys.",
        f"Roll back {names_back}? [y/N]: Aborted!",
    ]
    assert all(applied for _, applied in listing(empty_database))


@pytest.mark.parametrize("words", [["run"], ["serve", "--migrate"]])
@pytest.mark.parametrize("variable", ["PORT", "METRICS_PORT"])
def test_a_taken_port_is_noticed_before_anything_is_migrated(
    words: list[str], variable: str, empty_database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": empty_database, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    with bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        status, said = refused(tmp_path, *words, **{**variables, variable: port})
    assert status == 1
    assert said.endswith(f": Address already in use. Set {variable} to another.")
    assert not any(applied for _, applied in listing(empty_database))


def test_a_taken_port_is_noticed_before_postgres_is_started(tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as taken:
        status, said = refused(tmp_path, "run", PORT=str(taken.getsockname()[1]))
    assert status == 1
    assert said.endswith(": Address already in use. Set PORT to another.")
    assert [path.name for path in (tmp_path / ".data").iterdir()] == ["jwt_secret"]


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
def test_ctrl_c_during_the_imports_ends_quietly(module: str, tmp_path: Path) -> None:
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
