"""Accounts are spread over cells by weight: online, verified, and interrupted at any time."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import click.testing
import pytest

from service.cells_file import cells as all_cells
from service.command import cells_spread
from service.command.main import main
from service.database.cell_map import shares
from service.database.cell_spread import MAX_SLOTS, plan
from service.database.cells import SLOTS, Directory, slot
from service.database.statement import Statement
from tests.cells.conftest import NAMES, FourCells
from tests.conftest import SEED
from tests.family import SECRET, Family, add_family

DOWN = 'url = "postgresql://nobody@127.0.0.1:1/none"\n'


def the_map(**counts: int) -> dict[int, tuple[int, str]]:
    cells = [name for name, count in counts.items() for _ in range(count)]
    return {number: (1, cell) for number, cell in enumerate(cells)}


def moved(weights: dict[str, int], newest: dict[int, tuple[int, str]]) -> Counter[str]:
    """Moves the slots of a plan, and returns how many each cell then has."""
    for step in plan(weights, newest):
        assert len(step.slots) <= MAX_SLOTS
        for number in step.slots:
            assert newest[number] == (1, step.source)
            newest[number] = (2, step.target)
    assert plan(weights, newest) == []
    return Counter(cell for _, cell in newest.values())


@pytest.mark.parametrize(
    ("weights", "counts", "expected", "moves"),
    [
        ({"a": 1}, {"a": 1024}, {"a": 1024}, 0),
        ({"a": 1, "b": 1}, {"a": 1024}, {"a": 512, "b": 512}, 512),
        ({"a": 1, "b": 3}, {"a": 1024}, {"a": 256, "b": 768}, 768),
        ({"a": 1, "b": 1, "c": 1}, {"a": 512, "b": 512}, {"a": 342, "b": 341, "c": 341}, 341),
        # The slot that is left after division stays where it is.
        ({"a": 1, "b": 1, "c": 1}, {"a": 341, "b": 341, "c": 342}, {"a": 341, "c": 342}, 0),
        ({"a": 1, "b": 0}, {"a": 512, "b": 512}, {"a": 1024}, 512),
        ({"a": 1000, "b": 1}, {"b": 1024}, {"a": 1023, "b": 1}, 1023),
    ],
)
def test_the_fewest_slots_move(
    weights: dict[str, int], counts: dict[str, int], expected: dict[str, int], moves: int
) -> None:
    newest = the_map(**counts)
    assert sum(len(step.slots) for step in plan(weights, newest)) == moves
    assert expected.items() <= moved(weights, newest).items()


def test_any_weights_share_all_slots() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        weights = {str(n): chance.randint(0, 1000) for n in range(chance.randint(2, 64))}
        weights["0"] = weights["0"] or 1
        has = Counter(chance.choice([*weights]) for _ in range(SLOTS))
        found = shares(weights, has)
        assert sum(found.values()) == SLOTS, seed
        for name, weight in weights.items():
            assert abs(found[name] - SLOTS * weight / sum(weights.values())) < 1, seed


async def run(cells: FourCells, *arguments: str) -> click.testing.Result:
    variables = {"JWT_SECRET": SECRET, "CELLS_FILE": str(cells.file)}
    runner = click.testing.CliRunner(env=variables)
    return await asyncio.to_thread(runner.invoke, main, ["cells", *arguments])


async def add_families(cells: FourCells, count: int, cell: str = "") -> list[Family]:
    """Families in cell a, each with a session; their accounts hash to `cell`, or to any."""
    connection = cells.connections["a"]
    families = []
    async with connection.transaction():
        for number in range(count):
            family = Family(cells.account(cell)) if cell else Family()
            await add_family(connection, family=family)
            await connection.execute(
                "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
                "last_heartbeat_at, total_seconds) values ($1, $2, $3, 'tv', now(), now(), $4)",
                uuid4(),
                family.child,
                family.title,
                number,
            )
            families.append(family)
    return families


async def one_cell_before(cells: FourCells) -> None:
    """Gives all slots to cell a, as `migrate` does if it has all accounts."""
    for connection in cells.connections.values():
        await connection.execute("update viewing_cell_slots set cell = 'a', epoch = 2")


async def homes(cells: FourCells) -> dict[UUID, str]:
    """The cell that has each account, and its session; no account is in two."""
    found: dict[UUID, str] = {}
    for name, connection in cells.connections.items():
        rows = await connection.fetch(
            "select p.user_id, s.total_seconds from viewing_sessions as s "
            "join profiles as p on p.id = s.profile_id"
        )
        accounts = [row["user_id"] for row in rows]
        assert not found.keys() & {*accounts}
        assert len({*accounts}) == len(accounts)
        assert await connection.fetchval("select count(*) from users") >= len(accounts)
        found |= dict.fromkeys(accounts, name)
    return found


async def owners(cells: FourCells) -> list[str]:
    """The cell of each slot, on which all cells agree."""
    maps = [
        [r["cell"] for r in await c.fetch("select cell from viewing_cell_slots order by slot")]
        for c in cells.connections.values()
    ]
    assert all(each == maps[0] for each in maps)
    return maps[0]


async def entries(cells: FourCells) -> set[tuple[str, str, str]]:
    return {
        (name, row["cell"], row["state"])
        for name, connection in cells.connections.items()
        for row in await connection.fetch("select cell, state from viewing_cell_accounts")
    }


async def test_the_accounts_of_one_cell_are_spread(cells: FourCells) -> None:
    await one_cell_before(cells)
    families = await add_families(cells, 60)
    cells.write(b=f'url = "{cells.urls["b"]}"\nschema = "b"\nweight = 2\n')
    result = await run(cells, "spread", "--batch", "100")
    assert result.exit_code == 0, result.output
    assert "Every cell has its share." in result.output
    slots = await owners(cells)
    counts = Counter(slots)
    assert (counts["b"], {counts["a"], counts["c"], counts["d"]}) == (409, {205})
    found = await homes(cells)
    assert found == {f.account: slots[slot(f.account)] for f in families}
    assert await entries(cells) == set()
    again = await run(cells, "spread")
    assert again.exit_code == 0
    assert "verified: 0 accounts" in again.output
    result = await run(cells, "list")
    assert result.exit_code == 0
    assert [line[:9] for line in result.output.splitlines()] == [f"{n} (weight" for n in NAMES]
    assert "b (weight 2, " in result.output
    assert "schema b): 409 slots" in result.output


async def test_a_cell_is_emptied(cells: FourCells) -> None:
    families = await add_families(cells, 10, "a")
    result = await run(cells, "spread", "--without", "a")
    assert result.exit_code == 0, result.output
    slots = await owners(cells)
    assert "a" not in slots
    assert await homes(cells) == {f.account: slots[slot(f.account)] for f in families}
    assert await cells.connections["a"].fetchval("select count(*) from users") == 0


async def test_a_cell_that_cannot_be_emptied_is_named(cells: FourCells) -> None:
    admin, *_ = await add_families(cells, 3, "a")
    await cells.connections["a"].execute(
        "update users set is_admin = true where id = $1", admin.account
    )
    result = await run(cells, "spread", "--without", "a")
    assert result.exit_code == 1
    assert "Cell a still has 1 accounts that are not moved by their slots" in result.output


async def test_a_cell_that_has_slots_must_be_in_the_file(cells: FourCells) -> None:
    text = cells.file.read_text()
    cells.file.write_text(text[: text.rindex("[[cell]]")])
    result = await run(cells, "spread")
    assert result.exit_code == 1
    assert "CELLS_FILE has no cell d, which has 256" in result.output
    assert "viewing-time cells spread --without" in result.output


async def test_accounts_that_were_moved_by_hand_and_administrators_stay(cells: FourCells) -> None:
    await one_cell_before(cells)
    by_hand, admin, away, other = await add_families(cells, 4, "b")
    a, b = cells.connections["a"], cells.connections["b"]
    await a.execute("update users set is_admin = true where id = $1", admin.account)
    assert (await run(cells, "move-account", str(away.account), "--to", "c")).exit_code == 0
    assert (await run(cells, "move-account", str(by_hand.account), "--to", "b")).exit_code == 0
    result = await run(cells, "spread")
    assert result.exit_code == 0, result.output
    assert await homes(cells) == {
        by_hand.account: "b",
        admin.account: "a",
        away.account: "c",
        other.account: (await owners(cells))[slot(other.account)],
    }
    directory = Directory()
    await directory.read(b, "b")  # cell b has the slot, and knows who is elsewhere
    assert directory.cell(admin.account) == "a"
    assert directory.cell(away.account) == "c"


async def test_accounts_that_cannot_move_are_named_and_the_others_move(cells: FourCells) -> None:
    await one_cell_before(cells)
    families = await add_families(cells, 12, "b")
    refused = families[5].account
    await cells.connections["a"].execute(
        "insert into pending_deletions (kind, id) values ('account', $1)", refused
    )
    result = await run(cells, "spread")
    assert result.exit_code == 1
    assert f"Account {refused} stays in cell a: it, or a profile of it, is being" in result.output
    found = await homes(cells)
    assert [account for account, cell in found.items() if cell == "a"] == [refused]
    slots = Counter(await owners(cells))
    assert slots == {"a": 257, "b": 255, "c": 256, "d": 256}
    await cells.connections["a"].execute("delete from pending_deletions")
    assert (await run(cells, "spread")).exit_code == 0
    assert (await homes(cells))[refused] == "b"


async def test_a_cell_that_is_down_keeps_its_part_waiting_only(cells: FourCells) -> None:
    await one_cell_before(cells)
    await add_families(cells, 20)
    cells.write(c=DOWN)
    result = await run(cells, "spread")
    assert result.exit_code == 1
    assert "Cell c does not answer" in result.output
    assert "Not moved: slots" in result.output
    slots = await cells.connections["a"].fetch("select cell from viewing_cell_slots")
    assert Counter(row["cell"] for row in slots) == {"a": 512, "b": 256, "d": 256}
    result = await run(cells, "list")
    assert result.exit_code == 1
    assert "c (weight 1, 127.0.0.1/none): does not answer" in result.output
    cells.write()
    assert (await run(cells, "spread")).exit_code == 0
    assert Counter(await owners(cells)) == dict.fromkeys(NAMES, 256)


class Killed(Exception):
    """The process was killed."""


async def test_a_spread_that_is_killed_at_any_point_can_be_run_again(
    cells: FourCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(SEED)
    await one_cell_before(cells)
    families = await add_families(cells, 40)
    every = all_cells(cells.settings)
    left = 0

    def dying(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run_or_die(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and chance.random() < 0.5:
                raise Killed
            answer = await method(*arguments, **options)
            if left < 0:
                raise Killed
            return answer

        return run_or_die

    with monkeypatch.context() as patch:
        for name in ("all", "maybe", "one"):
            patch.setattr(Statement, name, dying(getattr(Statement, name)))
        for _ in range(10):
            left = chance.randrange(20, 200)  # after the connections are open
            with suppress(Killed):
                await cells_spread.spread(every, 50, (), cells_spread.Progress())
    assert await cells_spread.spread(every, 50, (), cells_spread.Progress()) == []
    slots = await owners(cells)
    assert await homes(cells) == {f.account: slots[slot(f.account)] for f in families}
    assert await entries(cells) == set()


async def test_accounts_that_are_made_meanwhile_are_moved_or_made_in_their_new_cell(
    cells: FourCells,
) -> None:
    await one_cell_before(cells)
    await add_families(cells, 30)
    made: list[UUID] = []
    refusals: set[str | None] = set()
    spreading = asyncio.create_task(run(cells, "spread", "--batch", "60"))
    while not spreading.done():
        account, cell = uuid4(), "a"
        for cell in NAMES:
            try:
                await cells.connections[cell].execute(
                    "insert into users (id, email, password_hash) values ($1, $2, '!')",
                    account,
                    str(account),
                )
            except asyncpg.PostgresError as error:
                refusals.add(error.sqlstate)
            else:
                made.append(account)
                break
        await asyncio.sleep(0.005)
    result = await spreading
    assert result.exit_code == 0, result.output
    assert refusals <= {"VC001"}
    slots = await owners(cells)
    for account in made:
        home = cells.connections[slots[slot(account)]]
        assert await home.fetchval("select count(*) from users where id = $1", account) == 1
    counts = [
        await connection.fetchval("select count(*) from users")
        for connection in cells.connections.values()
    ]
    assert sum(counts) == 30 + len(made)
