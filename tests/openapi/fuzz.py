"""Sends generated requests, valid and invalid, to a live service and checks the responses.

`python -m tests.openapi.fuzz` runs schemathesis twice: as a parent, and as an administrator, who
deletes accounts. It exits with the exit code of schemathesis. The seed is fixed, so that a finding
can be reproduced.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg

from service import settings
from service.command import demo
from service.database import migrate
from service.embedded.supervisor import embedded_postgres
from tests.conftest import served
from tests.family import PASSWORD_HASH, SECRET, bearer

SECONDS: Final = "60"
ADMINISTRATOR: Final = UUID("a1f4c2de-5b7a-4d0c-9e63-8c2b7f10d5e9")
ADMIN_PATHS: Final = "^/api/v1/admin"
# Excluded, because a body that fits its schema can still break a rule (a range of dates that is too
# long, an unknown time zone); the response is then the described 400 or 422.
CHECKS: Final = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")


async def main(arguments: list[str]) -> int:
    """Starts a database and a service on it, with the demo family; then runs schemathesis."""
    with (
        tempfile.TemporaryDirectory(prefix="vt-") as folder,
        embedded_postgres(Path(folder) / "pg", durable=False) as dsn,
    ):
        await asyncio.to_thread(_fill, dsn)
        async with served(dsn, BCRYPT_ROUNDS="4") as service, _administrator(dsn):
            parent = _command(service.url, demo.ACCOUNT, "--exclude-path-regex", ADMIN_PATHS)
            admin = _command(service.url, ADMINISTRATOR, "--include-path-regex", ADMIN_PATHS)
            return max([await _run(command + arguments) for command in (parent, admin)])


def _fill(dsn: str) -> None:
    migrate.migrate(dsn)
    demo.load(settings.read({"DATABASE_URL": dsn, "JWT_SECRET": SECRET}))


@asynccontextmanager
async def _administrator(dsn: str) -> AsyncIterator[None]:
    """An administrator, inserted again whenever schemathesis deletes the account of its token."""
    connection = await asyncpg.connect(dsn)

    async def keep() -> None:
        while True:
            await connection.execute(
                "insert into users (id, email, password_hash, is_admin, is_active) "
                "values ($1, 'administrator@demo.example', $2, true, true) "
                "on conflict (id) do update set is_admin = true, is_active = true",
                ADMINISTRATOR,
                PASSWORD_HASH,
            )
            await asyncio.sleep(0.05)

    keeper = asyncio.create_task(keep())
    yield
    assert not keeper.done(), keeper.exception()
    keeper.cancel()
    await connection.close()


def _command(url: str, account: UUID, *options: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{url}/openapi.json",
        "--header",
        f"Authorization: {bearer(account)['Authorization']}",
        *CHECKS,
        *options,
        *("--seed", "1", "--max-time", SECONDS, "--continue-on-failure", "--no-color"),
    ]


async def _run(command: list[str]) -> int:
    return (await asyncio.to_thread(subprocess.run, command, check=False)).returncode


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
