"""CELLS_FILE: the cells of this service, a TOML file with a table `[[cell]]` for each.

A cell is all tables of the service in one schema of one database. Without the file there is one
cell, the tables at DATABASE_URL.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from service import database_url
from service.settings import Settings, SettingsError

MAX_CELLS: Final = 64


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[cell]]`; what is empty is as without the file. `weight` is its share of accounts."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    url: str = ""
    direct_url: str = ""
    read_url: str = ""
    schema: Annotated[str, Meta(pattern=r"^([a-z_][a-z0-9_]{0,62})?$")] = ""
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1


class CellsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cell: Annotated[list[Entry], Meta(min_length=1, max_length=MAX_CELLS)]


def cells(settings: Settings) -> tuple[Settings, ...]:
    """The settings of each cell, in the order of the file; raises SettingsError."""
    if not settings.cells_file:
        return (settings,)
    try:
        text = Path(settings.cells_file).read_bytes()
        entries = msgspec.toml.decode(text, type=CellsFile).cell
    except (OSError, ValueError) as error:  # no value of the file is in its text
        raise SettingsError([f"CELLS_FILE must be TOML with a [[cell]] each: {error}."]) from error
    errors = [error for entry in entries for error in _errors(settings, entry)]
    found = tuple(_cell(settings, entry) for entry in entries)
    errors = errors or _repeated(found)
    if errors:
        raise SettingsError(errors)
    return found


def _cell(settings: Settings, entry: Entry) -> Settings:
    return msgspec.structs.replace(
        settings,
        cell=entry.name,
        cell_weight=entry.weight,
        database_url=entry.url or settings.cells_citus_url or settings.database_url,
        cells_citus_url="" if entry.url else settings.cells_citus_url,
        database_direct_url=entry.direct_url or ("" if entry.url else settings.database_direct_url),
        # A standby of another server would have the rows of another cell.
        database_read_url=entry.read_url or ("" if entry.url else settings.database_read_url),
        database_schema=entry.schema or ("" if entry.url else settings.database_schema),
    )


def _errors(settings: Settings, entry: Entry) -> list[str]:
    """The mistakes in one entry, a sentence each."""
    name, errors = entry.name, []
    if not (entry.url or settings.cells_citus_url or settings.database_url):
        errors.append(f"CELLS_FILE: cell {name} needs a url, because DATABASE_URL is not set.")
    for field in ("url", "direct_url", "read_url"):
        if url := getattr(entry, field):
            try:
                database_url.read(url)
            except ValueError as error:
                errors.append(f"CELLS_FILE: the {field} of cell {name} {error}.")
    return errors


def _repeated(found: tuple[Settings, ...]) -> list[str]:
    """Cells with one name or one schema; the names in the tables reveal the other cases."""
    names = Counter(cell.cell for cell in found)
    errors = [f"CELLS_FILE: two cells are called {name}." for name in names if names[name] > 1]
    places: dict[object, str] = {}
    for cell in found:
        address = database_url.read(cell.database_url)
        place = (address.hosts, address.database, cell.database_schema, _path(address))
        other = places.setdefault(place, cell.cell)
        if other != cell.cell:
            errors.append(
                f"CELLS_FILE: cells {other} and {cell.cell} are one schema of one database: give "
                "each a schema of its own."
            )
    return errors


def _path(address: database_url.Address) -> tuple[str, str]:
    """The parts of an address that decide the schema too: the role and the options."""
    return address.user, address.parameters.get("options", "")
