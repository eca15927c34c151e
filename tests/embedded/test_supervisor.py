"""The embedded PostgreSQL, with server processes in temporary directories."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from service.embedded import programs, supervisor
from service.embedded.programs import Account, EmbeddedPostgresError
from service.embedded.supervisor import embedded_postgres
from tests.conftest import ROOT
from tests.eventually import eventually_blocking

OTHER_PROCESS = """
import sys
from pathlib import Path
from service.embedded.supervisor import embedded_postgres

with embedded_postgres(Path(sys.argv[1]), durable=False) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another account")


@contextmanager
def own_directory(parent: str = "/tmp") -> Iterator[Path]:
    """A directory with a short path; no process may run in it at the end of the test."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix="vt"))
    try:
        yield directory
        assert processes_below(directory) == []
    finally:
        for pid in processes_below(directory):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory)


def processes_below(directory: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = (process / "cwd").readlink().is_relative_to(directory)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if inside:
            found.append(int(process.name))
    return found


@pytest.fixture
def directory() -> Iterator[Path]:
    with own_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def used() -> Iterator[Path]:
    """A data directory that a server has run on."""
    with own_directory() as directory:
        with embedded_postgres(directory / "data", durable=False):
            pass
        yield directory / "data"


@contextmanager
def other_process(data: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the context on `data` until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, data],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def printed_dsn(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(dsn: str, query: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(dsn, timeout=60)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    # A separate event loop that never becomes the current one, which belongs to the suite.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(fetch())


def server_pid(data: Path) -> int:
    return int((data / "cluster" / "postmaster.pid").read_text().split("\n")[0])


def socket_directory(dsn: str) -> Path:
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


wait_until = eventually_blocking


def answers(dsn: str) -> bool:
    try:
        return ask(dsn, "select 1") == 1
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


def test_only_the_data_outlive_the_server(used: Path) -> None:
    with embedded_postgres(used, durable=False) as dsn:
        pid = server_pid(used)
        ask(dsn, "create table kept as select 42 as answer")
        assert socket_directory(dsn).stat().st_mode & 0o777 == 0o700
        assert os.getsid(pid) == pid, "a Ctrl-C for the owner would reach the server"
    assert not Path(f"/proc/{pid}").exists()
    assert not socket_directory(dsn).exists()
    with embedded_postgres(used, durable=False) as dsn:
        assert ask(dsn, "select answer from kept") == 42


def test_server_stops_when_the_block_raises_and_the_error_passes(used: Path) -> None:
    with pytest.raises(FileNotFoundError), embedded_postgres(used, durable=False):
        raise FileNotFoundError
    assert processes_below(used) == []


def test_the_server_runs_with_its_settings(used: Path) -> None:
    with embedded_postgres(used) as dsn:
        assert ask(dsn, "show fsync") == "on"
        assert ask(dsn, "show synchronous_commit") == "on"
        assert ask(dsn, "show full_page_writes") == "on"
        assert ask(dsn, "show listen_addresses") == ""
        assert ask(dsn, "show server_encoding") == "UTF8"
    options = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.max": "123"}
    with embedded_postgres(used, durable=False, options=options) as dsn:
        assert ask(dsn, "show fsync") == "off"
        assert ask(dsn, "show pg_stat_statements.max") == "123"


def test_further_database_is_made_on_demand(used: Path) -> None:
    with (
        embedded_postgres(used, durable=False) as first,
        embedded_postgres(used, durable=False, database="other one") as second,
    ):
        assert ask(first, "select current_database()") == "viewing_time"
        assert ask(second, "select current_database()") == "other one"


@pytest.mark.parametrize("name", ["with a space, a 'quote' and an é", "d" * 200])
def test_the_data_may_be_at_any_path(directory: Path, name: str) -> None:
    with embedded_postgres(directory / name / "data", durable=False) as dsn:
        assert ask(dsn, "select 1") == 1
        assert len(os.fsencode(socket_directory(dsn) / ".s.PGSQL.5432.lock")) < 107


@pytest.mark.parametrize("name", ["a b'é", "a$HOME", 'a"b', "a`b`", "a\\b"])
def test_the_programs_may_be_at_any_path(
    monkeypatch: pytest.MonkeyPatch, directory: Path, name: str
) -> None:
    directory.chmod(0o711)
    monkeypatch.setenv("PG_BIN_DIR", str(copied_programs(directory / name)))
    with embedded_postgres(directory / name / "data", durable=False) as dsn:
        assert ask(dsn, "select 1") == 1


def copied_programs(folder: Path) -> Path:
    """PostgreSQL's programs, once more below `folder`."""
    package = programs.find_binaries().parents[1]
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.exists():
            shutil.copytree(part, folder / part.name, copy_function=linked)
    return folder / package.name / "pginstall" / "bin"


def linked(file: str, name: str) -> None:
    """A further name of a file, or a copy where there can be none."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copy2(file, name)


@as_root
def test_root_may_have_the_data_below_a_private_directory(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    directory.chmod(0o711)
    monkeypatch.delenv("PG_BIN_DIR", raising=False)
    monkeypatch.setattr(programs, "COPIES", directory / "copies")
    with own_directory("/root") as private:
        monkeypatch.setenv("PG_BIN_DIR", str(copied_programs(private)))
        with embedded_postgres(private / "data", durable=False) as dsn:
            assert ask(dsn, "select 1") == 1
            server = Path(f"/proc/{server_pid(private / 'data')}")
            assert (server / "exe").readlink().is_relative_to(directory)
            assert server.stat().st_uid != 0
        assert private.stat().st_mode & 0o777 == 0o700


def test_two_processes_can_start_at_once_on_a_new_directory(directory: Path) -> None:
    data = directory / "data"
    with other_process(data) as first, other_process(data) as second:
        dsn = printed_dsn(first)
        assert printed_dsn(second) == dsn
        assert ask(dsn, "select 1") == 1
        for process in (first, second):
            process.communicate()
            assert process.returncode == 0


def test_server_ends_with_a_killed_owner(used: Path) -> None:
    with other_process(used) as owner:
        dsn = printed_dsn(owner)
        ask(dsn, "create table survived as select 42 as answer")
        pid = server_pid(used)
        owner.kill()
        owner.wait()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
    with embedded_postgres(used, durable=False) as dsn:
        assert ask(dsn, "select answer from survived") == 42
    assert not socket_directory(dsn).exists()


def test_lock_lasts_as_long_as_the_server(used: Path) -> None:
    with other_process(used) as owner, (used / "lock").open() as lock:
        printed_dsn(owner)
        pid = server_pid(used)
        os.kill(pid, signal.SIGSTOP)
        try:
            owner.kill()
            owner.wait()
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_joiner_takes_over_when_the_owner(end: str, used: Path) -> None:
    with other_process(used) as owner:
        first = printed_dsn(owner)
        pid = server_pid(used)
        with embedded_postgres(used, durable=False) as dsn:
            assert dsn == first
            assert server_pid(used) == pid
            if end == "leaves":
                owner.communicate()
            owner.kill()
            wait_until(lambda: not Path(f"/proc/{pid}").exists())
            wait_until(lambda: answers(dsn))
            assert server_pid(used) != pid
        assert processes_below(used) == []


def test_joiner_that_leaves_does_not_stop_the_server(used: Path) -> None:
    with embedded_postgres(used, durable=False) as dsn:
        with embedded_postgres(used, durable=False) as joined:
            assert joined == dsn
        assert ask(dsn, "select 1") == 1


def test_an_interrupted_initdb_is_started_again(directory: Path) -> None:
    data = directory / "data"
    with other_process(data) as owner:
        wait_until((data / "cluster.new" / "PG_VERSION").exists)
        owner.kill()
    with embedded_postgres(data, durable=False) as dsn:
        assert ask(dsn, "select 1") == 1
    assert not (data / "cluster.new").exists()


def test_a_stale_pid_file_with_the_pid_of_another_process_is_ignored(used: Path) -> None:
    owner = (used / "cluster").stat()
    account = Account(user=owner.st_uid) if os.geteuid() == 0 else Account()
    with subprocess.Popen(["sleep", "60"], cwd="/", **account) as sleeper:
        try:
            (used / "cluster" / "postmaster.pid").write_text(
                f"{sleeper.pid}\n{used}\n1\n5432\n/tmp\n\n1 1\nready   \n"
            )
            with embedded_postgres(used, durable=False) as dsn:
                assert ask(dsn, "select 1") == 1
        finally:
            sleeper.kill()


def test_data_of_another_major_version_are_refused(directory: Path) -> None:
    cluster = directory / "data" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("12\n")
    with (
        pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 12.* pg_dump"),
        embedded_postgres(directory / "data"),
    ):
        pass
    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]


def test_failed_start_quotes_the_log(used: Path) -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match='parameter "no_such_setting"'),
        embedded_postgres(used, options={"no_such_setting": "1"}),
    ):
        pass


def test_a_server_that_never_answers_is_reported(
    monkeypatch: pytest.MonkeyPatch, used: Path
) -> None:
    monkeypatch.setattr(supervisor, "START_SECONDS", 0.0)
    with (
        pytest.raises(EmbeddedPostgresError, match="gave no answer within 0 seconds"),
        embedded_postgres(used),
    ):
        pass
    assert processes_below(used) == []


def test_missing_binaries_are_reported(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.delenv("PG_BIN_DIR", raising=False)
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    monkeypatch.setattr(programs, "INSTALLED", directory)
    with pytest.raises(EmbeddedPostgresError, match="DATABASE_URL"), embedded_postgres(directory):
        pass
    for version in ("9.6", "15", "9", "13"):
        (directory / version / "bin").mkdir(parents=True)
    assert programs.find_binaries() == directory / "15" / "bin"
    monkeypatch.setenv("PG_BIN_DIR", "/given")
    assert programs.find_binaries() == Path("/given")
