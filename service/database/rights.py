"""Compares the rights of the role with those that the service needs."""

from typing import Final

import msgspec

from service.database.driver import Connection
from service.database.schema import SECONDS, TABLES
from service.database.statement import Statement


class RightsRow(msgspec.Struct, frozen=True):
    missing: list[str]
    role_name: str


RIGHTS: Final = Statement("check_rights", RightsRow)


async def missing(connection: Connection) -> list[tuple[str, str]]:
    """What the role may not do, each with the line that grants it."""
    row = await RIGHTS.one(connection, [*TABLES], timeout=SECONDS)
    return [
        (f"role {row.role_name} may not {what}", f"`grant {what} to {row.role_name}`")
        for what in row.missing
    ]
