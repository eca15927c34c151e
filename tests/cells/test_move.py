"""An account moves from one cell to another with every row, while services run."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import gt
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.cells_file import cells as all_cells
from service.command.cells import OpenCells, begin, opened
from service.database import cell_moves
from service.database.cell_moves import Moved, NotMoved, move
from service.database.driver import Connection
from service.database.statement import Statement
from service.platform.records import MIRROR
from tests.about_profiles import about_accounts, about_profiles, add_rows
from tests.cells.conftest import FourCells
from tests.conftest import NOW, Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, PIN, Family, add_family, session_seconds, used_seconds

TABLES: dict[str, str] = {}  # with rows of an account, and the columns that name it
# Given anew by the other cell.
OF_THE_CELL = ("seq", "position", "delivery_id")


@asynccontextmanager
async def mover(cells: FourCells) -> AsyncIterator[OpenCells]:
    async with opened(all_cells(cells.settings)) as found:
        assert await begin(found) == []
        yield found


async def move_one(cells: FourCells, account: UUID, source: str = "a", target: str = "b") -> Moved:
    async with mover(cells) as found:
        return await move(found.up[source], found.up[target], [account])


async def rows(connection: Connection, family: Family) -> dict[str, list[dict[str, Any]]]:
    """Every row of a family, by table, as the catalogue finds them."""
    if not TABLES:
        TABLES.update(await about_profiles(connection) | await about_accounts(connection))
        TABLES.update({"users": "id", "profiles": "user_id"})
    found = {}
    for table, key in TABLES.items():
        texts = await connection.fetch(
            f"select to_jsonb(t)::text as row from {table} as t where {key} = any ($1)",
            [family.account, family.child, family.adult],
        )
        each = [json.loads(text["row"]) for text in texts]
        kept = [{k: v for k, v in row.items() if k not in OF_THE_CELL} for row in each]
        found[table] = sorted(kept, key=json.dumps)
    return found


async def watched(cells: FourCells, family: Family, sessions: int = 3) -> None:
    """Stores ended sessions of a family, and a balance of each day."""
    connection = cells.connections["a"]
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at, ended_at, total_seconds) select gen_random_uuid(), $1, $2, 'tv', "
        "now() - n * interval '1 day', now(), now(), 60 * n from generate_series(1, $3::int) as n",
        family.child,
        family.title,
        sessions,
    )
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
        "select gen_random_uuid(), $1, date '2026-01-01' + n, 60 * n "
        "from generate_series(1, $2::int) as n",
        family.child,
        sessions,
    )


async def test_every_row_of_an_account_moves_exactly(cells: FourCells) -> None:
    family, other = await cells.family("a"), await cells.family("a")
    a, b = cells.connections["a"], cells.connections["b"]
    for connection in (a, b):  # columns of the platform
        await connection.execute(
            "alter table profiles add column \"Nick name\" text default 'N', "
            "add column shout text generated always as (upper(name)) stored, "
            "add column number int generated always as identity"
        )
        await connection.execute("alter table users add column since timestamptz default now()")
    for each in (family, other):
        await add_rows(a, each)
    await watched(cells, family)
    before, others = await rows(a, family), await rows(a, other)
    assert all(before.values()), "a table has no row, so the test does not cover it"
    assert await move_one(cells, family.account) == Moved(1, len(before["viewing_sessions"]), 360)
    assert await rows(b, family) == before
    assert not any((await rows(a, family)).values())
    assert await rows(a, other) == others
    for connection in (a, b):
        place = await connection.fetchval("select cell || ' ' || state from viewing_cell_accounts")
        assert place == "b lives"


async def test_an_account_can_come_back(cells: FourCells) -> None:
    family = await cells.family("a")
    a = cells.connections["a"]
    await add_rows(a, family)
    before = await rows(a, family)
    await move_one(cells, family.account)
    await move_one(cells, family.account, "b", "a")
    assert await rows(a, family) == before
    assert await a.fetchval("select cell from viewing_cell_accounts") == "a"


async def event(connection: Connection, family: Family, position: int | None, **more: Any) -> UUID:
    columns = {"id": uuid4(), "position": position, **more}
    await connection.execute(
        "insert into viewing_events (account_id, type, occurred_at, data, "
        f"{', '.join(columns)}) values ('{family.account}', 'x', now(), '{{}}', "
        f"{', '.join(f'${n + 1}' for n in range(len(columns)))})",
        *columns.values(),
    )
    id: UUID = columns["id"]
    return id


async def test_events_that_were_not_sent_get_new_positions_and_keep_their_order(
    cells: FourCells,
) -> None:
    family = await cells.family("a")
    a, b = cells.connections["a"], cells.connections["b"]
    await a.execute("update viewing_event_feed set position = 9, webhook_from = 2")
    now = await a.fetchval("select now()")
    early = await event(a, family, 1)
    sent = await event(a, family, 3, delivered_at=now)
    sending = await event(a, family, 5, delivery_id=uuid4())
    later = await event(a, family, 6, delivered_at=now)
    newest = await event(a, family, None)
    waiting = await event(a, family, 7)
    await move_one(cells, family.account)
    found = await b.fetch("select * from viewing_events order by seq")
    assert [row["id"] for row in found] == [early, sent, sending, later, waiting, newest]
    assert [row["position"] for row in found] == [1 - 2**40, 3 - 2**40, None, None, None, None]
    assert [row["delivered_at"] for row in found] == [None, now, None, now, None, None]
    assert {row["delivery_id"] for row in found} == {None}


async def test_titles_of_its_sessions_are_copied_if_they_are_missing(cells: FourCells) -> None:
    family = await cells.family("a")
    await watched(cells, family)
    b = cells.connections["b"]
    await move_one(cells, family.account)
    titles = await b.fetch("select id, title from titles")
    assert [tuple(row) for row in titles] == [(family.title, "Cartoon")]


REFUSALS = {
    "its e-mail address": "update b.users set email = '{account}@example.test'",
    "has a profile with the id of one of its": "insert into b.profiles (id, user_id, name, "
    "parental_rating, is_kids) values ('{child}', '{stranger}', 'Ada', 'TV-MA', true)",
    "an administrator": "update a.users set is_admin = true where id = '{account}'",
    "it, or a profile": "insert into a.pending_deletions (id, kind) "
    "values ('{account}', 'account')",
    "being deleted": "insert into a.pending_deletions (id, kind) values ('{child}', 'profile')",
    "another account": "insert into a.time_grants (id, profile_id, granted_by_user_id, is_remote) "
    "values (gen_random_uuid(), '{other}', '{account}', true)",
    "cell b refuses its rows: short": "alter table b.profiles add constraint short "
    "check (id <> '{child}') not valid",
    "does not store its rows": "alter table a.profiles add column colour text default 'red'",
}


async def test_an_account_that_cannot_be_moved_stays_whole(cells: FourCells) -> None:
    other, stranger = await cells.family("a"), await cells.family("b")
    a, b = cells.connections["a"], cells.connections["b"]
    for sentence, cause in REFUSALS.items():
        family = await cells.family("a")
        await watched(cells, family)
        names = {"account": family.account, "child": family.child}
        names |= {"other": other.child, "stranger": stranger.account}
        await a.execute(cause.format(**names))
        before, strangers = await rows(a, family), await rows(b, stranger)
        with pytest.raises(NotMoved, match=sentence):
            await move_one(cells, family.account)
        assert await rows(a, family) == before
        assert await rows(b, stranger) == strangers
        assert not any((await rows(b, family)).values())
        assert await b.fetchval("select count(*) from viewing_cell_accounts") == 0


async def test_a_former_administrator_moves_to_a_cell_that_has_its_mirror(cells: FourCells) -> None:
    family = await cells.family("a")
    a, b = cells.connections["a"], cells.connections["b"]
    before = await rows(a, family)
    mirror = family.account, "a", NOW, "b"
    assert await MIRROR.maybe(b, *mirror)
    await move_one(cells, family.account)
    assert await rows(b, family) == before
    # A request of the former administrator that comes too late makes no administrator.
    assert await MIRROR.maybe(b, *mirror) is None
    assert await rows(b, family) == before
    assert await b.fetchval("select cell || ' ' || state from viewing_cell_accounts") == "b lives"


async def test_the_others_of_a_batch_move(cells: FourCells) -> None:
    families = [await cells.family("a") for _ in range(5)]
    await cells.connections["a"].execute(
        "update users set is_admin = true where id = $1", families[3].account
    )
    refused: dict[UUID, str] = {}
    async with mover(cells) as found:
        accounts = [family.account for family in families]
        moved = await cell_moves.move_all(found.up["a"], found.up["b"], accounts, refused)
    assert moved.accounts == 4
    assert refused == {families[3].account: "it is an administrator's"}


async def test_one_command_moves_at_a_time(cells: FourCells) -> None:
    async with mover(cells):
        with pytest.raises(NotMoved, match="another command moves accounts of cell a"):
            await move_one(cells, uuid4())


async def test_tables_of_the_platform_that_refer_to_accounts_are_named(cells: FourCells) -> None:
    await cells.connections["b"].execute(
        "create table bills (account uuid references users (id) on delete cascade)"
    )
    with pytest.raises(NotMoved, match="table bills of cell b refers to accounts"):
        await move_one(cells, uuid4())


class Crash(Exception):
    """The process dies."""


class Crashing:
    """A statement that is not run, or whose answer does not arrive."""

    def __init__(self, statement: Statement[Any], *, is_run: bool) -> None:
        self._statement = statement
        self._is_run = is_run

    async def all(self, *arguments: Any) -> None:
        if self._is_run:
            await self._statement.all(*arguments)
        raise Crash

    async def maybe(self, *arguments: Any) -> None:
        await self.all(*arguments)

    async def one(self, *arguments: Any, timeout: float) -> None:
        await self.all(*arguments)


STEPS = (
    *("HOLD", "CHECK", "READ", "DISCARD", "ARRIVE"),
    *("WRITE", "CLAIM", "LEAVE", "REMOVE", "SETTLE"),
)


@pytest.mark.parametrize("is_run", [False, True])
async def test_a_move_that_is_interrupted_is_ended_by_the_next_one(
    cells: FourCells, monkeypatch: pytest.MonkeyPatch, is_run: bool
) -> None:
    a, b = cells.connections["a"], cells.connections["b"]
    for step in STEPS:
        family = await cells.family("a")
        await add_rows(a, family)
        before = await rows(a, family)
        async with mover(cells) as found:
            with monkeypatch.context() as patch:
                patch.setattr(cell_moves, step, Crashing(getattr(cell_moves, step), is_run=is_run))
                with pytest.raises(Crash):
                    await move(found.up["a"], found.up["b"], [family.account])
        home, other = (b, a) if step == "SETTLE" else (a, b)
        async with mover(cells) as found:
            assert await rows(home, family) == before, step
            assert not any((await rows(other, family)).values()), step
            states = "select count(*) from viewing_cell_accounts where state <> 'lives'"
            assert await b.fetchval(states) == 0
            if home is a:
                await move(found.up["a"], found.up["b"], [family.account])
        assert await rows(b, family) == before
        assert not any((await rows(a, family)).values())
        await b.execute("delete from users")  # rows of all families have one key in some tables


async def test_a_copy_waits_for_the_cell_that_knows_whether_it_has_moved(
    cells: FourCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = await cells.family("a")
    b = cells.connections["b"]
    async with mover(cells) as found:
        with monkeypatch.context() as patch:
            patch.setattr(cell_moves, "SETTLE", Crashing(cell_moves.SETTLE, is_run=False))
            with pytest.raises(Crash):
                await move(found.up["a"], found.up["b"], [family.account])
    cells.write(a='url = "postgresql://nobody@127.0.0.1:1/none"\n')
    async with opened(all_cells(cells.settings)) as found:
        [sentence] = await begin(found)
    assert "copies of 1 accounts whose cell does not answer" in sentence
    assert await b.fetchval("select count(*) from users") == 1
    cells.write()
    async with mover(cells):
        pass
    assert await b.fetchval("select state from viewing_cell_accounts") == "lives"


URL = "/api/v1/parental-controls"


class Life:
    """A family that watches and decides while its account moves."""

    def __init__(self, service: Running, family: Family) -> None:
        self.service = service
        self.family = family
        self.counted = 0
        self.granted = 0
        self.statuses: set[tuple[str, int]] = set()

    async def watch(self, until: asyncio.Event) -> None:
        """Beats one after another; one that was not answered is repeated with its key."""
        session = ""
        while not until.is_set():
            key = {"Idempotency-Key": uuid4().hex}
            body = {"session_id": session} if session and random.random() < 0.8 else {}
            answer: dict[str, Any] = {}
            while answer.get("enforcement") != "allowed":
                answer = await self.request("post", HEARTBEAT, self.family.beat(**body), key)
            session = answer["session_id"]
            self.counted += 30
            await asyncio.sleep(0.01)

    async def decide(self, until: asyncio.Event) -> None:
        """Sends changes that lock rows in other orders than heartbeats."""
        child = f"{URL}/profiles/{self.family.child}"
        while not until.is_set():
            minutes = random.choice([None, 480])
            limits = {"weekday_limit_minutes": minutes, "weekend_limit_minutes": minutes}
            await self.request("put", f"{child}/viewing-time", limits)
            granted = {"minutes": 15, "mode": "extend"}
            answer = await self.request("post", f"{child}/viewing-time/grant", granted)
            self.granted += "grant_id" in answer
            await self.request("delete", f"{child}/lock", {})
            await self.request("post", f"{URL}/pin/verify", {"pin": PIN})
            await asyncio.sleep(0.02)

    async def request(
        self, method: str, url: str, body: dict[str, Any], more: dict[str, str] | None = None
    ) -> dict[str, Any]:
        headers = self.family.bearer | (more or {})
        response = await self.service.client.request(method, url, json=body, headers=headers)
        self.statuses.add((url.rpartition("/")[2], response.status_code))
        answer: dict[str, Any] = response.json()
        return answer


async def all_counted(lives: Sequence[Life]) -> None:
    """Waits until one more heartbeat of each family has been counted."""
    before = [life.counted for life in lives]
    await eventually(lambda: all(map(gt, [life.counted for life in lives], before)))


async def test_families_that_watch_while_they_move_lose_and_gain_nothing(
    cells: FourCells, start: Starter
) -> None:
    service = await start(cells.settings)
    lives = []
    for _ in range(8):
        family = Family(cells.account("a"))
        await add_family(cells.connections["a"], limit=None, family=family)
        lives.append(Life(service, family))
    accounts, end = [life.family.account for life in lives], asyncio.Event()
    lived = [asyncio.create_task(life.watch(end)) for life in lives]
    lived += [asyncio.create_task(life.decide(end)) for life in lives[:4]]
    async with mover(cells) as found:
        for source, target in ("ab", "ba", "ab", "ba", "ab"):
            # No heartbeat lasts for two moves: its account would be unknown twice.
            await all_counted(lives)
            for batch in (accounts[:4], accounts[4:]):
                refused: dict[UUID, str] = {}
                await cell_moves.move_all(found.up[source], found.up[target], batch, refused)
                assert refused == {}
    end.set()
    await asyncio.gather(*lived)
    a, b = cells.connections["a"], cells.connections["b"]
    assert await a.fetchval("select count(*) from users") == 0
    grants = "select count(*) from time_grants where profile_id = $1"
    for life in lives:
        child = life.family.child
        assert life.counted > 0
        assert await session_seconds(b, child) == await used_seconds(b, child) == life.counted
        # A grant whose answer was lost is stored too.
        assert life.granted <= await b.fetchval(grants, child) <= life.granted + 5
        # Other requests are refused if the account moves twice meanwhile, or if they wait too long.
        assert {status for url, status in life.statuses if url == "heartbeat"} == {200}
