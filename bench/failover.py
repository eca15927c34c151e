"""Measures how soon heartbeats are allowed again after a standby was promoted.

The primary is lost in two ways: `killed`, its connections are closed; `frozen`, its machine hangs,
so connections stay open without an answer. The clock starts when the promotion is ordered.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

from bench import peer, seed
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.replication import Server, shared_folder
from service.database import migrate
from service.embedded.supervisor import USER, embedded_postgres

# An odd number, so that each server is lost in each way, whatever its place in the address is.
LOSSES: Final = ("killed", "frozen", "frozen")
ROUNDS: Final = 3  # in a quick run too: they do not depend on the size of the data
PLAYERS: Final = 50
PAUSE_SECONDS: Final = 0.1  # of each player, between two heartbeats
WARM_SECONDS: Final = 2.0
AWAY_SECONDS: Final = 3.0  # from the loss to the promotion
MAX_WAIT_SECONDS: Final = 30.0
AFTER_PROMOTION: Final = Target(2.0)  # seconds
LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


async def measure(bench: Bench) -> list[Figure]:
    found: dict[str, list[tuple[float, float]]] = {}
    with shared_folder(None) as folder:
        async with _pair(bench, folder) as (primary, standby, requests):
            first = primary
            hosts = ",".join(f"127.0.0.1:{server.port}" for server in (primary, standby))
            dsn = f"postgresql://{USER}@{hosts}/{USER}?target_session_attrs=read-write"
            async with peer.service("failover", dsn, bench.folder, {}, peer.OURS) as service:
                for turn in range(1, ROUNDS + 1):
                    for loss in LOSSES:
                        place = "first" if primary is first else "second"
                        name = loss if loss == "killed" else f"{loss}, {place} host"
                        bench.progress(f"{name}, round {turn}")
                        times = await _lose(loss, primary, standby, service.port, requests)
                        found.setdefault(name, []).append(times)
                        primary, standby = standby, primary
                        await standby.kill()
                        await standby.copy(primary.dsn("postgres"), is_standby=True)
                        await standby.start()
    return [
        Figure(f"primary {name}: {who} allowed again, most of {len(times)}", max(each), "s", target)
        for name, times in found.items()
        for who, each, target in zip(
            ("first player", "all players"),
            zip(*times, strict=True),
            (None, AFTER_PROMOTION),
            strict=True,
        )
    ]


@asynccontextmanager
async def _pair(bench: Bench, folder: Path) -> AsyncIterator[tuple[Server, Server, list[bytes]]]:
    """A primary, its standby, and a heartbeat of each player."""
    async with AsyncExitStack() as parts:
        primary, standby = (Server(folder / name) for name in ("first", "second"))
        with embedded_postgres(folder / "source", durable=False) as dsn:
            await asyncio.to_thread(migrate.migrate, dsn)
            await primary.copy(dsn, is_standby=False)
        await primary.start()
        parts.push_async_callback(primary.stop)
        connection = await primary.connection()
        await seed.seed(connection, 2 * PLAYERS, 7, 1, bench.progress)
        viewers = await seed.viewers(connection, PLAYERS, "children")
        await connection.close()
        await standby.copy(primary.dsn("postgres"), is_standby=True)
        await standby.start()
        parts.push_async_callback(standby.stop)
        yield primary, standby, seed.heartbeats(viewers).split(b"\0")[:-1]


async def _lose(
    loss: str, primary: Server, standby: Server, port: int, requests: Sequence[bytes]
) -> tuple[float, float]:
    """Seconds from a promotion until the first player, and all of them, are allowed again."""
    allowed = _awaited(requests)
    async with asyncio.TaskGroup() as group:
        players = [
            group.create_task(_play(port, request, allowed, number))
            for number, request in enumerate(requests)
        ]
        await asyncio.sleep(WARM_SECONDS)
        if loss == "killed":
            await primary.kill()
        else:
            primary.freeze()
        await asyncio.sleep(AWAY_SECONDS)
        promoted_at = monotonic()
        allowed[:] = _awaited(requests)
        await standby.promote()
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            times = await asyncio.gather(*allowed)
        for player in players:
            player.cancel()
    return min(times) - promoted_at, max(times) - promoted_at


def _awaited(requests: Sequence[bytes]) -> list[asyncio.Future[float]]:
    """For each player the moment of its next allowed heartbeat."""
    return [asyncio.get_running_loop().create_future() for _ in requests]


async def _play(
    port: int, request: bytes, allowed: list[asyncio.Future[float]], number: int
) -> None:
    """Sends heartbeats, and notes when one was allowed for the first time."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = LENGTH.search(head)
                    assert length is not None
                    body = await reader.readexactly(int(length[1]))
                    if b'"allowed"' in body and not allowed[number].done():
                        allowed[number].set_result(monotonic())
                    await asyncio.sleep(PAUSE_SECONDS)
            finally:
                writer.close()
