"""The peer to compare with: Starlette and uvicorn with nothing to do.

`python -m bench.echo PORT` answers a heartbeat with a small JSON object of the usual length, looks
at nothing, and answers a GET with the number of heartbeats so far. It collects garbage as seldom
as the service does, or it would be an easier peer.
"""

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.server import bound

# The event loop takes one new connection a turn from each listening socket. With one socket and a
# thousand players that send as fast as they can, the last of them waits for seconds.
TAKES: Final = 16
PATH: Final = "/api/v1/viewing-time/heartbeat"
ANSWER: Final = {
    "session_id": "00000000-0000-4000-8000-000000000000",
    "enforcement": "allowed",
    "remaining_minutes": 100.5,
    "used_minutes": 19.5,
    "is_educational": False,
}


class Count:
    """How many were answered."""

    posts = 0


async def echo(request: Request) -> Response:
    Count.posts += 1
    return JSONResponse(ANSWER)


async def count(request: Request) -> Response:
    return JSONResponse(Count.posts)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    yield


def main(port: int) -> None:
    """Serves on a port of 127.0.0.1 until a signal ends it."""
    routes = [Route(PATH, echo, methods=["POST"]), Route(PATH, count, methods=["GET"])]
    config = uvicorn.Config(
        Starlette(routes=routes, lifespan=lifespan),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    with bound("127.0.0.1", port) as listener:
        uvicorn.Server(config).run(sockets=[listener, *(listener.dup() for _ in range(TAKES - 1))])


if __name__ == "__main__":
    main(int(sys.argv[1]))
