"""`python -m tests.faults.receiver FOLDER PORT SEED`: a receiver of the webhook that misbehaves.

It verifies each request and writes a line of JSON to `receipts` in the folder before it answers. As
long as there is no file `calm` in the folder, many answers are wrong.
"""

import asyncio
import base64
import hmac
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY: Final = base64.b64decode(SECRET.removeprefix("whsec_"))
# How often each behaviour occurs. A `lie` takes the events and answers 500.
WEIGHTS: Final = {
    "good": 50,
    "slow": 10,
    "fault": 8,
    "lie": 8,
    "garbage": 8,
    "closed before": 4,
    "closed after": 4,
    "redirect": 3,
    "hang": 1,
}
TAKING: Final = {"good", "slow", "lie", "garbage", "closed after"}
ANSWERS: Final = {
    "good": b"HTTP/1.1 204 Taken\r\n\r\n",
    "slow": b"HTTP/1.1 204 Taken\r\n\r\n",
    "fault": b"HTTP/1.1 500 Fault\r\ncontent-length: 0\r\n\r\n",
    "lie": b"HTTP/1.1 500 Fault\r\ncontent-length: 0\r\n\r\n",
    "garbage": b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n" + bytes(range(200)) * 20,
    "redirect": b"HTTP/1.1 307 Moved\r\nlocation: /moved\r\ncontent-length: 0\r\n\r\n",
    "forged": b"HTTP/1.1 401 Forged\r\ncontent-length: 0\r\n\r\n",
}
PAUSE_SECONDS: Final = 0.1
SLOW_SECONDS: Final = 2.0


class Behaviour:
    def __init__(self, folder: Path, seed: int) -> None:
        self._calm = folder / "calm"
        self._random = Random(seed)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._receipts = os.open(folder / "receipts", flags, 0o600)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while answer := await self._answer(reader):
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """The response to the next request; empty: the connection is closed."""
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers["content-length"]))
        how = self._random.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if self._calm.exists():
            how = "good"
        if not is_signed(lines, body):
            how = "forged"
        receipt = {
            "path": request.split(" ")[1],
            "delivery": headers.get("webhook-id"),
            "how": how,
            "events": json.loads(body)["data"]["events"] if how in TAKING else [],
        }
        os.write(self._receipts, json.dumps(receipt).encode() + b"\n")
        if how == "slow":  # an instance may be killed before it knows that the events were taken
            await asyncio.sleep(self._random.uniform(0, SLOW_SECONDS))
        while how == "hang" and not self._calm.exists():
            await asyncio.sleep(PAUSE_SECONDS)
        return ANSWERS.get(how, b"")


def is_signed(lines: list[str], body: bytes) -> bool:
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
    return expected in headers.get("webhook-signature", "").split(" ")


async def main(folder: Path, port: int, seed: int) -> None:
    behaviour = Behaviour(folder, seed)
    async with await asyncio.start_server(behaviour.serve, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
