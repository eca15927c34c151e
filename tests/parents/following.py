"""A client that follows the events of an account over a socket of its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

PATH: Final = "/api/v1/parental-controls/events"
WRITE: Final = """
insert into viewing_events (account_id, profile_id, type, occurred_at, data)
select $1, $2, 'lock.cleared', now(), jsonb_build_object('number', n)
from generate_series($3::int, $4::int) as n
returning id
"""


@dataclass
class Following:
    """A response whose head has arrived; `events` are those read up to now."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int
    headers: dict[str, str]
    ids: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    comments: int = 0
    last_id: str | None = None
    _lines: bytes = b""

    @property
    def numbers(self) -> list[int]:
        return [event["data"]["number"] for event in self.events]

    async def read(self) -> bytes:
        """The next chunk; none after the end of the response."""
        if self.headers.get("transfer-encoding") != "chunked":
            return await self.reader.read(65536)
        size = int(await self.reader.readline() or b"0", 16)
        chunk = await self.reader.readexactly(size + 2) if size else b""
        return chunk[:-2]

    async def take(self) -> bool:
        """Reads one chunk and the events in it; False at the end."""
        chunk = await self.read()
        *blocks, self._lines = (self._lines + chunk).split(b"\n\n")
        for block in blocks:
            self._block(block.decode())
        return bool(chunk)

    async def until(self, count: int, seconds: float = 60.0) -> None:
        """Reads until `count` events have arrived; AssertionError if the stream ends before."""
        async with asyncio.timeout(seconds):
            while len(self.events) < count:
                assert await self.take(), f"ended after {self.numbers}"

    async def to_end(self, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while await self.take():
                pass

    def _block(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line[:1] != ":")
        self.comments += any(line[:1] == ":" for line in block.split("\n"))
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            event = json.loads(fields["data"])
            assert (event["id"], event["type"]) == (fields["id"], fields["event"])
            self.events.append(event)


@asynccontextmanager
async def following(
    url: str,
    headers: dict[str, str],
    last_id: UUID | str | None = None,
    *,
    query: str = "",
    version: str = "1.1",
) -> AsyncIterator[Following]:
    """Opens the stream of the account in `headers`, after the event `last_id`."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        lines = {"Host": where.netloc, "Accept": "text/event-stream", **headers}
        if last_id is not None:
            lines["Last-Event-ID"] = str(last_id)
        head = f"GET {PATH}{query} HTTP/{version}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(60):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        received = dict(line.lower().split(": ", 1) for line in answer[1:] if line)
        yield Following(reader, writer, int(answer[0].split(" ")[1]), received)
    finally:
        writer.close()
