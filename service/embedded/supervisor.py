"""An embedded PostgreSQL for `make run`, the tests and the benchmarks.

Below the data directory:
  cluster/       the database cluster, made in `cluster.new` and renamed when complete
  lock           flocked by the process that owns the server, and by the server itself
  postgres.log   the output of initdb and of the server

The first process on a directory owns its server. Others join it; when the owner leaves or dies, the
first of them that gets the lock starts the server again at the same address.
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
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
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
NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
SOCKETS: Final = Path("/tmp")  # noqa: S108  a socket's path is limited to 107 bytes

logger = logging.getLogger(__name__)


@contextmanager
def embedded_postgres(
    data: Path,
    *,
    durable: bool = True,
    options: Mapping[str, str] | None = None,
    database: str = USER,
) -> Iterator[str]:
    """Runs a PostgreSQL on `data`, made if new, and yields the DSN of `database`, made if missing.

    `options` are further server settings; `durable=False` trades safety for speed. A server that
    already runs on `data` is joined and keeps its settings. Raises EmbeddedPostgresError, after
    60 seconds at the latest.
    """
    with _explained(data):
        server = _Server(data.absolute(), durable, options or {}, database)
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
    """Waits for the directory's lock, and runs the server while it holds it.

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
        # Short, private, and the same for every process that sees the directory.
        place = data.stat()
        self.sockets = SOCKETS / f"viewing-time-{place.st_dev:x}-{place.st_ino:x}"
        where = urlencode({"host": self.sockets, "port": PORT, "user": USER}, safe="/")
        self.dsn = f"postgresql:///{quote(database, safe='')}?{where}"
        self.address = ("-h", str(self.sockets), "-p", PORT, "-U", USER)
        self.ready: Future[None] = Future()
        self.stopping = threading.Event()

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
        """Runs the server until `stopping` is set; raises if it ends before."""
        start = partial(running, account=self.account, log=self.log, lock=lock)
        self._make_private(self.sockets)
        try:
            if not self.cluster.exists():
                # Made in another folder: after an interruption, an incomplete one must not be used.
                unfinished = self.data / "cluster.new"
                self._make_private(unfinished)
                with at_plain_path(self.binaries) as binaries:
                    arguments = self._initdb_arguments()
                    with start(binaries / "initdb", unfinished, arguments) as initdb:
                        self._watch(initdb, lambda: False)
                if initdb.returncode != 0:
                    code = initdb.returncode
                    raise self._failed(f"was not initialised, initdb ended with {code}")
                unfinished.rename(self.cluster)
            self._check_major()
            self._remove_stale_pid_file()
            settings = [f"-c{name}={value}" for name, value in self.options.items()]
            arguments = ["-k", str(self.sockets), "-p", PORT, *settings]
            with start(self.binaries / "postgres", self.cluster, arguments) as postgres:
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

    def _initdb_arguments(self) -> list[str]:
        arguments = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        if self.major >= 17:  # the one collation that no operating system update changes
            arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return arguments if self.durable else [*arguments, "--no-sync"]

    def _check_major(self) -> None:
        found = (self.cluster / "PG_VERSION").read_text().strip()
        if found != str(self.major):
            raise EmbeddedPostgresError(
                f"{self.data} holds data of PostgreSQL {found}, and {self.binaries} is PostgreSQL "
                f"{self.major}: set PG_BIN_DIR to the binaries of {found}, save the data with "
                "pg_dump, and restore them into a new directory."
            )

    def _remove_stale_pid_file(self) -> None:
        """PostgreSQL does not start while any process has the pid of a server that has died."""
        with suppress(OSError):  # no pid file, no such process, or one of another account
            pid = (self.cluster / "postmaster.pid").read_text().partition("\n")[0]
            if Path(f"/proc/{pid}/cwd").samefile(self.cluster):
                return
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _make_private(self, directory: Path) -> None:
        """Makes `directory` anew, for the server's account only."""
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)
        if self.account:
            os.chown(directory, self.account["user"], self.account["group"])

    def _watch(
        self, process: subprocess.Popen[bytes], until: Callable[[], bool], every: float = 0.01
    ) -> bool:
        """Whether `until` came true before the process ended or `stopping` was set."""
        while process.poll() is None and not self.stopping.wait(every):
            if until():
                return True
        return False

    def _pid(self) -> int | None:
        """The pid of the server once it accepts connections, from the line that pg_ctl reads."""
        with suppress(FileNotFoundError):
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            if len(lines) > 7 and lines[7].strip() == "ready":
                return int(lines[0])
        return None

    def _has_database(self) -> bool:
        """Creates a missing database; returns whether it exists, False without an answer."""
        if self.database in self._databases():
            return True
        made = self._client("createdb", self.database).returncode == 0
        return made or self.database in self._databases()  # another process may have been faster

    def _databases(self) -> list[str]:
        listing = self._client("psql", "--no-psqlrc", "--list", "--csv", "--tuples-only")
        return [row[0] for row in csv.reader(listing.stdout.splitlines(keepends=True))]

    def _client(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.log.open("ab") as errors:
            return subprocess.run(
                [self.binaries / name, *self.address, *arguments],
                cwd="/",
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=START_SECONDS,
            )

    def _failed(self, reason: str) -> EmbeddedPostgresError:
        output = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = "\n".join(output.splitlines()[-6:])
        return EmbeddedPostgresError(
            f"The embedded PostgreSQL on {self.data} {reason}. The end of {self.log}:\n{lines}"
        )


def _locked(lock: int) -> bool:
    """Whether this process holds the lock now; another process, or its server, may hold it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
