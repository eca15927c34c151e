"""Checks what several cells must agree about: a finding for each subject."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from service import database_url
from service.command.cell_connections import connected_cells
from service.command.check_database import ANSWER_SECONDS, Finding
from service.database import cell_map, cures, schema
from service.database.cell_map import Map
from service.database.cells import DOUBLED, SLOTS
from service.database.driver import Connection
from service.database.statement import Statement
from service.database_errors import DatabaseError
from service.settings import Settings

AGAIN: Final = "run `viewing-time migrate`"


class TitlesRow(msgspec.Struct, frozen=True):
    titles: int


TITLES: Final = Statement("check_cell_titles", TitlesRow)


def of_cell(cell: Settings, finding: Finding) -> Finding:
    """The finding with the name of its cell, if there are several."""
    if not cell.cell:
        return finding
    return Finding(finding.level, f"cell {cell.cell}: {finding.text}", finding.remedy)


def sharing(cell: Settings, cells: Sequence[Settings]) -> int:
    """The number of cells on the server of one of them."""
    hosts = [database_url.read(each.database_url).hosts for each in (cell, *cells)]
    return hosts[1:].count(hosts[0])


async def across(cells: Sequence[Settings]) -> list[Finding]:
    """The findings about the cells that answer; the others have one of their own."""
    async with connected_cells(cells, ANSWER_SECONDS) as opened:
        try:
            return [
                *_map(
                    {cell.cell for cell in cells},
                    {name: await cell_map.read(each) for name, each in opened.connections.items()},
                ),
                *await _migrations(opened.connections),
                *await _accounts(opened.connections),
                *await _titles(opened.connections),
            ]
        except DatabaseError as error:
            text = f"cells cannot be compared ({cures.sentence(error)})"
            return [Finding("FAULT", text, "read the servers' logs")]


def _map(names: set[str], known: Mapping[str, Map]) -> list[Finding]:
    newest = cell_map.merged(known)
    try:
        cell_map.refuse_others(newest, names)
    except cell_map.MapRefused as refusal:
        return [Finding("FAULT", f"map of accounts: {refusal}".rstrip("."), "add the cell to it")]
    if len(newest) != SLOTS:
        text = f"map of accounts: {len(newest):,} of {SLOTS:,} slots have a cell"
        return [Finding("FAULT", text, AGAIN)]
    found = []
    for name, its_map in known.items():
        places = {slot: its_map.get(slot, (0, "")) for slot in newest}
        if count := sum(place[0] < newest[slot][0] for slot, place in places.items()):
            text = f"map of accounts: cell {name} has older rows of {count:,} slots, or none"
            found.append(Finding("warn", text, f"{AGAIN}, unless accounts are being moved"))
        for slot, (epoch, cell) in places.items():
            if epoch == newest[slot][0] and cell != newest[slot][1]:
                text = f"map of accounts: slot {slot} is in cells {cell} and {newest[slot][1]}"
                found.append(Finding("FAULT", text, "restore table viewing_cell_slots of one"))
                break
    return found or [Finding("ok", f"map of accounts: {len(known)} cells agree about all slots")]


async def _migrations(connections: Mapping[str, Connection]) -> list[Finding]:
    applied = {
        name: frozenset(row.migration_id for row in await schema.APPLIED.all(connection))
        for name, connection in connections.items()
    }
    first = next(iter(applied), "")
    others = [name for name in applied if applied[name] != applied[first]]
    if others:
        text = f"migrations of cells {first} and {others[0]} differ"
        return [Finding("FAULT", text, AGAIN)]
    return []


async def _accounts(connections: Mapping[str, Connection]) -> list[Finding]:
    found = []
    for name, connection in connections.items():
        count = (await DOUBLED.one(connection, timeout=ANSWER_SECONDS)).accounts
        if count:
            text = f"accounts: {count:,} are in cell {name} and in another one"
            found.append(Finding("FAULT", text, "`viewing-time cells spread` finishes moves"))
    return found or [Finding("ok", "accounts: none that was moved is in two cells")]


async def _titles(connections: Mapping[str, Connection]) -> list[Finding]:
    counts = {
        (await TITLES.one(connection, timeout=ANSWER_SECONDS)).titles: name
        for name, connection in connections.items()
    }
    if len(counts) < 2:
        return [Finding("ok", "titles: all cells have the same number")]
    least, most = min(counts), max(counts)
    text = f"titles: cell {counts[least]} has {least:,}, and cell {counts[most]} {most:,}"
    return [Finding("warn", text, "send those that the platform has again, or delete the others")]
