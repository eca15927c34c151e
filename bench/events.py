"""Measures the webhook: 500 events a second through one instance, and a backlog of events."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

from bench import peer
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.peer import Peer
from bench.plan import percentile
from bench.procfs import cpu_seconds
from bench.receiver import PATH, Taken
from bench.seed import Viewer

PER_SECOND: Final = 500
SECONDS: Final = 20.0
QUICK_SECONDS: Final = 3.0
INSERT_SECONDS: Final = 0.02  # between two statements, which write as many events as are due
BACKLOG: Final = 20_000
QUICK_BACKLOG: Final = 2_000
MAX_WAIT_SECONDS: Final = 60.0
SECRET: Final = "whsec_" + "YmVuY2htYXJr" * 3
P95_SECONDS: Final = Target(1.5)
DRAINED: Final = Target(PER_SECOND, at_least=True)
# Each profile in turn, so that a batch has events of many.
INSERT: Final = """
insert into viewing_events (account_id, profile_id, type, occurred_at, data)
select v.account_id, v.profile_id, 'lock.set', clock_timestamp(), '{"locked_until": null}'
from generate_series($3::int, $3::int + $4::int - 1) as n
join unnest($1::uuid[], $2::uuid[]) with ordinality as v (account_id, profile_id, place)
    on v.place = 1 + n % cardinality($1::uuid[])
"""
BEGIN: Final = "update viewing_event_feed set webhook_from = position"


async def measure(bench: Bench) -> list[Figure]:
    seconds, backlog = (QUICK_SECONDS, QUICK_BACKLOG) if bench.is_quick else (SECONDS, BACKLOG)
    async with peer.receiver(bench.folder) as receiver:
        url = f"http://127.0.0.1:{receiver.port}{PATH}"
        async with bench.service(
            variables={"WEBHOOK_URL": url, "WEBHOOK_SECRET": SECRET}
        ) as service:
            await bench.connection.execute(BEGIN)
            await _steady(bench, receiver, 1)  # connects and prepares the statements
            bench.progress(f"{PER_SECOND} events a second for {seconds:g} s")
            before = cpu_seconds(service.pid), cpu_seconds(bench.postmaster)
            steady = await _steady(bench, receiver, seconds)
            after = cpu_seconds(service.pid), cpu_seconds(bench.postmaster)
            bench.progress(f"a backlog of {backlog:,} events")
            rate = await _drained(bench, receiver, backlog)
    ranked, number = sorted(steady.seconds), len(steady.seconds)
    cpu = [(end - begin) * 1e6 / number for begin, end in zip(before, after, strict=True)]
    return [
        Figure("event to receiver, p50", percentile(ranked, 50), "s"),
        Figure("event to receiver, p95", percentile(ranked, 95), "s", P95_SECONDS),
        Figure("events in a request", number / steady.requests),
        Figure("CPU of the service for an event", cpu[0], "µs"),
        Figure("CPU of PostgreSQL for an event, with writing it", cpu[1], "µs"),
        Figure("backlog sent by one instance", rate, "events/s", DRAINED),
    ]


async def _steady(bench: Bench, receiver: Peer, seconds: float) -> Taken:
    """Writes PER_SECOND events a second, and returns them when all have arrived."""
    began, written = monotonic(), 0
    while (passed := monotonic() - began) < seconds:
        due = int(passed * PER_SECOND) + 1 - written
        await _write(bench, bench.viewers, written, due)
        written += due
        await asyncio.sleep(INSERT_SECONDS)
    return await _arrived(receiver, written)


async def _drained(bench: Bench, receiver: Peer, backlog: int) -> float:
    """Events a second, from one transaction that writes them all to the last arrival."""
    await _write(bench, bench.viewers, 0, backlog)
    began = monotonic()
    await _arrived(receiver, backlog)
    return backlog / (monotonic() - began)


async def _write(bench: Bench, viewers: Sequence[Viewer], first: int, number: int) -> None:
    accounts = [viewer.account_id for viewer in viewers]
    profiles = [viewer.profile_id for viewer in viewers]
    await bench.connection.execute(INSERT, accounts, profiles, first, number)


async def _arrived(receiver: Peer, number: int) -> Taken:
    """Everything that arrives until there are `number` events; raises RuntimeError."""
    taken, began = Taken(), monotonic()
    while len(taken.ids) < number:
        if monotonic() - began > MAX_WAIT_SECONDS:
            raise RuntimeError(f"{len(taken.ids)} of {number} events arrived")
        await asyncio.sleep(0.1)
        part = await receiver.get(PATH)
        taken.requests += part["requests"]
        taken.ids += part["ids"]
        taken.seconds += part["seconds"]
    if len({*taken.ids}) != number:
        raise RuntimeError("events arrived twice, although the receiver accepts each")
    return taken
