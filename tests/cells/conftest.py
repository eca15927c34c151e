"""Four cells: schemas a, b and c of one database, and a database of its own for d."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from service.database.cells import SLOTS, slot
from service.database.driver import Connection
from service.database.migrate import migrate
from service.settings import Settings
from tests.conftest import copied, named
from tests.family import Family, add_family

NAMES = ("a", "b", "c", "d")


def cell_of(account: UUID) -> str:
    """The cell that an account's id hashes to."""
    return NAMES[slot(account) * len(NAMES) // SLOTS]


def account_of(cell: str) -> UUID:
    """A new account's id that belongs to a cell."""
    while cell_of(account := uuid4()) != cell:
        pass
    return account


def cells_text(urls: Mapping[str, str], **lines: str) -> str:
    """The text of CELLS_FILE, with other lines for some of the cells."""
    return "".join(
        f'[[cell]]\nname = "{name}"\n'
        + lines.get(name, f'url = "{urls[name]}"\nschema = "{name}"\n')
        for name in NAMES
    )


@dataclass(frozen=True)
class FourCells:
    """The cells, with a connection to each; every cell has a quarter of the slots."""

    settings: Settings
    file: Path
    urls: dict[str, str]
    connections: dict[str, Connection]

    def account(self, cell: str) -> UUID:
        """A new account's id that belongs to a cell."""
        return account_of(cell)

    async def family(self, cell: str, *, lives_in: str = "") -> Family:
        """Stores a family whose account hashes to `cell`, or its copy that arrives in another."""
        family = Family(self.account(cell))
        if lives_in:
            await self.place(family.account, "arrives", lives_in, in_cells=(lives_in,))
        await add_family(self.connections[lives_in or cell], family=family)
        return family

    async def place(self, account: UUID, state: str, cell: str, *, in_cells: Iterable[str]) -> None:
        """Stores the entry of an account that is in another cell than its slot."""
        for name in in_cells:
            await self.connections[name].execute(
                "insert into viewing_cell_accounts (id, cell, epoch, state) values ($1, $2, 1, $3) "
                "on conflict (id) do update set state = excluded.state",
                account,
                cell,
                state,
            )

    def write(self, **lines: str) -> None:
        """Writes CELLS_FILE with other lines for some of the cells."""
        self.file.write_text(cells_text(self.urls, **lines))


@pytest.fixture(scope="session")
async def cells_template(postgres_dsn: str) -> str:
    """A database with the tables of every cell, each in a schema with its name."""
    database = f"cells_{uuid4().hex}"
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"create database {database}")
    await server.close()
    dsn = named(postgres_dsn, database)
    for name in NAMES:
        connection = await asyncpg.connect(dsn, server_settings={"search_path": name})
        await connection.execute(f"create schema {name}")
        migrate(f"{dsn}{'&' if '?' in dsn else '?'}options=-csearch_path%3D{name}")
        await connection.execute("select viewing_cell_join($1)", name)
        for number in range(SLOTS):
            await connection.execute(
                "insert into viewing_cell_slots (slot, cell, epoch) values ($1, $2, 1)",
                number,
                NAMES[number * len(NAMES) // SLOTS],
            )
        await connection.close()
    return database


@pytest.fixture
async def cells(
    postgres_dsn: str, cells_template: str, settings: Settings, tmp_path: Path
) -> AsyncIterator[FourCells]:
    """Four cells with nothing in them."""
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(copied(postgres_dsn, cells_template))
        second = await opened.enter_async_context(copied(postgres_dsn, cells_template))
        urls = {name: second if name == "d" else first for name in NAMES}
        connections = {}
        for name, url in urls.items():
            connections[name] = await asyncpg.connect(url, server_settings={"search_path": name})
            opened.push_async_callback(connections[name].close)
        file = tmp_path / "cells.toml"
        several = msgspec.structs.replace(settings, database_url="", cells_file=str(file))
        found = FourCells(several, file, urls, connections)
        found.write()
        yield found
