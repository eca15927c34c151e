"""Measures what the rules of parents cost a heartbeat, and what they cost families without any.

- Without rules: this commit beside the one before the rules existed, on one database in turn.
- With all rules: two halves of the children, one of which has every rule, on one service in turn.
- `decide` and `frame` in this process, see `decisions`.

A ratio is the median of the rounds.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Final, NamedTuple

from bench import against, decisions, seed
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import Viewer, fresh_day
from service.database.driver import Connection

BEFORE: Final = "35283f5745b54a0749361d90d90f5c89e0f62beb"  # the last commit without the rules
SAME: Final = Target(1.02)
MORE: Final = Target(1.3)
READINGS: Final[tuple[tuple[str, Callable[[Window], float]], ...]] = (
    ("service CPU", lambda window: window.server_us),
    ("PostgreSQL CPU", lambda window: window.postgres_us),
)


class Rounds(NamedTuple):
    """A number of rounds, and the seconds of each window."""

    number: int
    seconds: float


ONCE: Final = Rounds(1, 1)  # in a quick run
CLOSED: Final = Rounds(6, 2)
OPEN: Final = Rounds(2, 4)
HALVED: Final = Rounds(4, 3)
Pair = tuple[Window, Window]  # the second is divided by the first
Halves = tuple[list[Viewer], list[Viewer]]  # without and with rules

# Sets every rule for children, in windows of downtime that begin in hours. The viewing week ends
# today, so it has six earlier balances. Each child has other windows, because equal policies share
# what the service computes for a day.
POLICIES: Final = """
with children as (
    select
        c.profile_id,
        i.number::int as number,
        array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as names,
        now() at time zone c.timezone as clock,
        (now() at time zone c.timezone - make_interval(hours => c.reset_hour))::date as day
    from unnest($1::uuid[]) with ordinality as i (profile_id, number)
    join viewing_time_configs as c using (profile_id)
),
schedules as (
    insert into viewing_schedules (
        profile_id, daily_limits, downtime, weekly_limit_minutes, week_starts_on,
        rollover_max_minutes, finish_minutes, updated_at
    )
    select
        profile_id,
        (
            select jsonb_object_agg(d.name, 1440 - 15 * d.number)
            from unnest(names) with ordinality as d (name, number)
        ),
        (
            select jsonb_agg(jsonb_build_object(
                'days', names,
                'start', to_char(clock + later, 'HH24:MI'),
                'end', to_char(clock + later + interval '1 hour', 'HH24:MI')
            ))
            from unnest(array[
                make_interval(hours => 6, mins => number % 60),
                make_interval(hours => 9, mins => number / 60 % 60),
                make_interval(hours => 12)
            ]) as w (later)
        ),
        10080,
        names[extract(isodow from day + 1)::int],
        240,
        60,
        now()
    from children
),
balances as (
    insert into viewing_time_balances (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override
    )
    select gen_random_uuid(), profile_id, day - ago, 3600, 600, false
    from children, generate_series(1, 6) as ago
    on conflict do nothing
)
insert into viewing_exceptions (
    profile_id, day, changes_limit, limit_minutes, lifts_downtime, updated_at
)
select profile_id, day, true, 1440, false, now() from children
"""


async def measure(bench: Bench) -> list[Figure]:
    return [
        *await _without_rules(bench),
        *await _with_all_rules(bench),
        *decisions.figures(),
    ]


async def _without_rules(bench: Bench) -> list[Figure]:
    if not against.is_present(BEFORE):
        bench.progress(f"this clone lacks commit {BEFORE:.7}: no figures of profiles without rules")
        return []
    closed, open_loop = (ONCE, ONCE) if bench.is_quick else (CLOSED, OPEN)
    async with against.beside(bench, BEFORE) as peers:
        pairs = await against.rounds(bench, peers, against.CLOSED, *closed)
        pairs |= await against.rounds(bench, peers, [against.OPEN], *open_loop)
    return [
        figure
        for load, windows in pairs.items()
        for figure in _ratios(
            f"no rules, {load}",
            "to the commit before the rules",
            windows,
            SAME if windows[0][0].rate == 0 else None,
        )
    ]


async def _with_all_rules(bench: Bench) -> list[Figure]:
    rounds, seconds = ONCE if bench.is_quick else HALVED
    children = await seed.viewers(bench.connection, bench.scale.viewers, "children")
    halves = (children[::2], children[1::2])
    figures = []
    async with all_rules(bench.connection, halves[1]), bench.service() as service:
        alone = [await _alone(bench, service, half) for half in halves]
        for load in against.CLOSED:
            bench.progress(f"all rules, {load:,} in flight")
            pairs = [
                await _pair(bench, service, load, seconds, halves, number % 2 > 0)
                for number in range(rounds)
            ]
            name = f"all rules, {load:,} in flight"
            figures += _ratios(name, "to profiles without rules", pairs, MORE)
    statements = alone[1].statements / alone[0].statements
    return [
        *figures,
        Figure("all rules, one in flight: statements", alone[1].statements, "", Target(1)),
        Figure("all rules, one in flight: statements, to profiles without rules", statements, "x"),
    ]


@asynccontextmanager
async def all_rules(connection: Connection, children: Sequence[Viewer]) -> AsyncIterator[None]:
    """Sets every rule for these children, until the block ends."""
    await connection.execute(POLICIES, [child.profile_id for child in children])
    await connection.execute("analyze viewing_schedules, viewing_exceptions")
    try:
        yield
    finally:
        await connection.execute("truncate viewing_schedules, viewing_exceptions")


async def _alone(bench: Bench, service: Peer, half: list[Viewer]) -> Window:
    """One heartbeat of each viewer, one after the other, from a warm cache."""
    await bench.each_once(service, half)
    return await bench.each_once(service, half, connections=1)


async def _pair(
    bench: Bench, service: Peer, load: int, seconds: float, halves: Halves, is_reversed: bool
) -> Pair:
    """A window of each half, from a warm cache."""
    await fresh_day(bench.connection)
    windows = []
    for half in reversed(halves) if is_reversed else halves:
        await bench.each_once(service, half)
        windows.append(await bench.closed_loop(service, load, seconds, half))
    first, second = windows
    return (second, first) if is_reversed else (first, second)


def _ratios(name: str, compared: str, pairs: Sequence[Pair], target: Target | None) -> list[Figure]:
    return [
        Figure(
            f"{name}: {reading}, {compared}",
            median(read(second) / read(first) for first, second in pairs),
            "x",
            target,
        )
        for reading, read in READINGS
    ]
