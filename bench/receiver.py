"""A receiver of the webhook that answers in 10 ms: `python -m bench.receiver PORT`.

A GET returns how long each event took, and forgets them.
"""

import asyncio
import sys
import time
from datetime import datetime
from typing import Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.listeners import bound

ANSWER_SECONDS: Final = 0.01
PATH: Final = "/events"


class Taken(msgspec.Struct):
    """The arrivals since the last look: requests, ids, and seconds since `occurred_at`."""

    requests: int = 0
    ids: list[str] = []
    seconds: list[float] = []


class Receiver:
    """The events of this process."""

    taken = Taken()


class Sent(msgspec.Struct):
    id: str
    occurred_at: datetime


async def receive(request: Request) -> Response:
    now, message = time.time(), msgspec.json.decode(await request.body())
    events: list[Any] = message["data"]["events"]
    for event in msgspec.convert(events, list[Sent]):
        Receiver.taken.ids.append(event.id)
        Receiver.taken.seconds.append(now - event.occurred_at.timestamp())
    Receiver.taken.requests += 1
    await asyncio.sleep(ANSWER_SECONDS)
    return Response(status_code=204)


async def take(_: Request) -> Response:
    taken, Receiver.taken = Receiver.taken, Taken()
    return Response(msgspec.json.encode(taken), media_type="application/json")


APPLICATION: Final = Starlette(
    routes=[Route(PATH, receive, methods=["POST"]), Route(PATH, take, methods=["GET"])]
)


def main(port: int) -> None:
    """Serves on a port of 127.0.0.1 until a signal stops it."""
    config = uvicorn.Config(APPLICATION, log_config=None, access_log=False)
    with bound("127.0.0.1", port) as listener:
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(int(sys.argv[1]))
