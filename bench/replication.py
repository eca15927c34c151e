"""PostgreSQLs that replicate: each is a copy of another one, on a port of 127.0.0.1.

They are made with PostgreSQL's own programs, for the tests and for the question `failover`.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg

from bench.ports import free_port
from service.database.driver import Connection
from service.embedded.programs import ENVIRONMENT, account_of, as_server, find_binaries, running
from service.embedded.supervisor import USER

START_SECONDS: Final = 60.0
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # tests end processes, not machines
    "max_connections": "200",  # a standby needs as many as its primary
    "wal_keep_size": "256MB",
    "wal_log_hints": "on",  # for pg_rewind
    "wal_retrieve_retry_interval": "100ms",  # PostgreSQL 15 ends a pause of it before a promotion
}


@contextmanager
def shared_folder(parent: str | None) -> Iterator[Path]:
    """A temporary folder that the account of the servers can enter."""
    with TemporaryDirectory(prefix="vt-", dir=parent) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


class Server:
    """A PostgreSQL whose data are in a folder of its own, at one address for its life."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.port = free_port()
        self._cluster = folder / "cluster"
        self._log = folder / "log"
        self._account = account_of(self._cluster)
        self._binaries, _ = as_server(self._account, find_binaries())
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        if self._account:
            os.chown(folder, self._account["user"], self._account["group"])

    def dsn(self, database: str = USER) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    async def copy(self, dsn: str, *, is_standby: bool) -> None:
        """Makes the data as a copy of the server at `dsn`, which runs."""
        await asyncio.to_thread(self._copy, dsn, ("-R",) if is_standby else ())

    def _copy(self, dsn: str, options: tuple[str, ...]) -> None:
        if self._cluster.exists():
            shutil.rmtree(self._cluster)
        arguments = ("-D", str(self._cluster), "-d", dsn, "-c", "fast", "--no-sync", *options)
        self._run("pg_basebackup", *arguments)
        # In a file, because pg_rewind starts the server without arguments.
        with (self._cluster / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())

    async def rewind(self, primary: "Server") -> None:
        """Makes a server that has ended a standby of the one that was promoted in its place."""
        # Until then pg_rewind of PostgreSQL 15 believes that nothing has diverged.
        connection = await primary.connection("postgres")
        await connection.execute("checkpoint")
        await connection.close()
        options = ("-D", str(self._cluster), "--no-sync", "-R")
        await asyncio.to_thread(
            self._run, "pg_rewind", *options, f"--source-server={primary.dsn('postgres')}"
        )

    async def start(self, **settings: str) -> None:
        """Starts it; returns when it accepts connections."""
        given = {"port": str(self.port), **settings}
        arguments = [f"-c{name}={value}" for name, value in given.items()]
        postgres, lock = self._binaries / "postgres", os.open(os.devnull, os.O_RDONLY)
        try:
            start = running(
                postgres, self._cluster, arguments, account=self._account, log=self._log, lock=lock
            )
            # Not in a thread: the kernel ends the server with the thread that started it.
            self._process = self._running.enter_context(start)
        finally:
            os.close(lock)
        async with asyncio.timeout(START_SECONDS):
            while True:
                assert self._process.poll() is None, self._log.read_text()
                with suppress(OSError, asyncpg.PostgresError):
                    await (await self.connection("postgres")).close()
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        await asyncio.to_thread(self._running.close)

    def freeze(self) -> None:
        """Stops every process of the server, as a machine that hangs: its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Ends every process of the server at once, as a machine that is lost."""
        self._signal(signal.SIGSTOP)  # so that it starts no further ones
        self._signal(signal.SIGKILL)
        await self.stop()

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            for pid in (process.pid, *map(int, children.split())):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def connection(self, database: str = USER) -> Connection:
        return await asyncpg.connect(self.dsn(database), timeout=START_SECONDS)

    async def promote(self) -> None:
        """Makes a standby the primary; returns when it accepts writes."""
        connection = await self.connection("postgres")
        assert await connection.fetchval("select pg_promote(true)")
        await connection.close()

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / name, *arguments],
            cwd="/",
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            **self._account,
        )
        assert done.returncode == 0, done.stderr
