"""An embedded PostgreSQL for `make run`, the tests and the benchmarks.

Below the data directory:
  cluster/       the database cluster, made in `cluster.new` and renamed when complete
  lock           flocked by the process that owns the server, and by the server itself
  postgres.log   everything that initdb and the server said

The first process on a directory owns its server. Others join it, and the first of them to get
the lock starts the server again, at the same address, when the owner leaves or dies.
"""

import csv
import fcntl
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, urlencode

from service.embedded.programs import (
    ENVIRONMENT,
    EmbeddedPostgresError,
    account_of,
    as_server,
    at_plain_path,
    find_binaries,
    running,
)

USER: Final = "viewing_time"
PORT: Final = "5432"  # only names the socket file: nothing listens on TCP
START_SECONDS: Final = 60.0
NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})
NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
SOCKETS: Final = Path("/tmp")  # noqa: S108  a socket's path is limited to 107 bytes

logger = logging.getLogger(__name__)


@contextmanager
def embedded_postgres(
    data: Path,
    *,
    durable: bool = True,
    options: Mapping[str, str] = NO_OPTIONS,
    database: str = USER,
) -> Iterator[str]:
    """Runs a PostgreSQL on `data`, made if new, and yields the DSN of `database`, made if missing.

    `options` are further server settings, `durable=False` trades safety for speed; a server that
    runs on `data` already is joined with the settings it has. Raises EmbeddedPostgresError, after
    60 seconds at the latest.
    """
    with _explained(data):
        server = _Server(data.absolute(), durable, options, database)
    server.start()
    try:
        server.wait_until_ready()
        yield server.dsn
    finally:
        server.stopping.set()
        server.join()


@contextmanager
def _explained(data: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL cannot run on {data}: {error}. "
            "Choose another directory, or set DATABASE_URL to a PostgreSQL of your own."
        ) from error


class _Server(threading.Thread):
    """Runs the server while it holds the directory's lock; while it does not, waits for the lock.

    A thread of its own, because the kernel ends the server with the thread that started it.
    """

    def __init__(
        self, data: Path, durable: bool, options: Mapping[str, str], database: str
    ) -> None:
        super().__init__(name="embedded-postgres", daemon=True)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)  # at any umask
        self.data, self.cluster, self.log = data, data / "cluster", data / "postgres.log"
        self.durable, self.database = durable, database
        self.options = {"listen_addresses": "", **({} if durable else NOT_DURABLE), **options}
        self.account = account_of(self.cluster)
        self.binaries, self.major = as_server(self.account, find_binaries())
        # Where every process that sees the directory finds the server: short, and ours alone.
        place = data.stat()
        self.sockets = SOCKETS / f"viewing-time-{place.st_dev:x}-{place.st_ino:x}"
        self.ready: Future[None] = Future()
        self.stopping = threading.Event()

    @property
    def dsn(self) -> str:
        where = urlencode({"host": self.sockets, "port": PORT, "user": USER}, safe="/")
        return f"postgresql:///{quote(self.database, safe='')}?{where}"

    def wait_until_ready(self) -> None:
        try:
            self.ready.result(START_SECONDS)
        except TimeoutError:
            raise self._failed(f"gave no answer within {START_SECONDS:.0f} seconds") from None

    def run(self) -> None:
        try:
            with _explained(self.data), (self.data / "lock").open("ab") as lock:
                while not self.stopping.wait(0.05):
                    if _locked(lock.fileno()):
                        self._serve(lock.fileno())
                    elif not self.ready.done() and self._pid() and self._has_database():
                        self.ready.set_result(None)
        except Exception as error:
            if self.ready.done():
                logger.exception("the embedded PostgreSQL is gone")
            else:
                self.ready.set_exception(error)

    def _serve(self, lock: int) -> None:
        """Runs the server until it is no longer wanted; raises when it does not last that long."""
        self._make_private(self.sockets)
        try:
            if not self.cluster.exists():
                self._initialise(lock)
            self._check_major()
            self._forget_dead_server()
            settings = [f"-c{name}={value}" for name, value in self.options.items()]
            arguments = ["-k", str(self.sockets), "-p", PORT, *settings]
            program = self.binaries / "postgres"
            with self._running(program, self.cluster, arguments, lock) as postgres:
                if self._watch(postgres, lambda: self._pid() == postgres.pid):
                    if not self._has_database():
                        raise self._failed(f"has no database {self.database}")
                    if not self.ready.done():
                        self.ready.set_result(None)
                    self._watch(postgres, lambda: False, every=0.5)
                if not self.stopping.is_set():
                    raise self._failed(f"ended with code {postgres.returncode}")
        finally:
            shutil.rmtree(self.sockets, ignore_errors=True)

    def _initialise(self, lock: int) -> None:
        """Makes the cluster aside, so that one cut off in the making is never taken for whole."""
        unfinished = self.data / "cluster.new"
        self._make_private(unfinished)
        arguments = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        if self.major >= 17:  # the one collation that no operating system update changes
            arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.durable:
            arguments += ["--no-sync"]
        with (
            at_plain_path(self.binaries) as binaries,
            self._running(binaries / "initdb", unfinished, arguments, lock) as initdb,
        ):
            self._watch(initdb, lambda: False)
        if initdb.returncode != 0:
            raise self._failed(f"was not initialised, initdb ended with {initdb.returncode}")
        unfinished.rename(self.cluster)

    def _check_major(self) -> None:
        found = (self.cluster / "PG_VERSION").read_text().strip()
        if found != str(self.major):
            raise EmbeddedPostgresError(
                f"{self.data} holds data of PostgreSQL {found}, and {self.binaries} is PostgreSQL "
                f"{self.major}: set PG_BIN_DIR to the binaries of {found}, save the data with "
                "pg_dump, and restore them into a new directory."
            )

    def _forget_dead_server(self) -> None:
        """After a crash PostgreSQL takes whatever process has the old number for a live server."""
        note = self.cluster / "postmaster.pid"
        if note.exists():
            number = note.read_text().partition("\n")[0]
            with suppress(OSError):  # no such process, or one of somebody else
                if Path(f"/proc/{number}/cwd").samefile(self.cluster):
                    return
            note.unlink()

    def _make_private(self, directory: Path) -> None:
        """Makes `directory` anew, for the server's account only."""
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)
        if self.account:
            os.chown(directory, self.account["user"], self.account["group"])

    def _running(
        self, program: Path, directory: Path, arguments: list[str], lock: int
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return running(program, self.account, directory, arguments, self.log, lock)

    def _watch(
        self, process: subprocess.Popen[bytes], until: Callable[[], bool], every: float = 0.01
    ) -> bool:
        """Whether `until` came true before the process ended or was no longer wanted."""
        while process.poll() is None and not self.stopping.wait(every):
            if until():
                return True
        return False

    def _pid(self) -> int | None:
        """The server that accepts connections: it says so in the line that pg_ctl reads too."""
        with suppress(FileNotFoundError):
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            if len(lines) > 7 and lines[7].strip() == "ready":
                return int(lines[0])
        return None

    def _has_database(self) -> bool:
        """Whether the database is there, made if it was missing; False without an answer."""
        if self.database in self._databases():
            return True
        made = self._client("createdb", self.database).returncode == 0
        return made or self.database in self._databases()  # another process may have been faster

    def _databases(self) -> list[str]:
        listing = self._client("psql", "--no-psqlrc", "--list", "--csv", "--tuples-only")
        return [row[0] for row in csv.reader(listing.stdout.splitlines(keepends=True))]

    def _client(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        address = ["-h", str(self.sockets), "-p", PORT, "-U", USER]
        with self.log.open("ab") as errors:
            return subprocess.run(
                [self.binaries / name, *address, *arguments],
                cwd="/",
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=START_SECONDS,
            )

    def _failed(self, what: str) -> EmbeddedPostgresError:
        said = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = "\n".join(said[-6:])
        return EmbeddedPostgresError(
            f"The embedded PostgreSQL on {self.data} {what}. The end of {self.log}:\n{lines}"
        )


def _locked(lock: int) -> bool:
    """Whether the lock is ours now: no other process, and no server of one, holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
