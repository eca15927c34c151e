"""The server to compare with: Starlette and uvicorn without work of their own.

`python -m bench.echo PORT` answers a heartbeat with a JSON object of the usual length without
reading it, and a GET with the number of heartbeats so far. It has the service's garbage-collector
thresholds; with Python's own it would be slower, and the comparison too easy.
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

from service.listeners import MAX_BACKLOG, bound, sharing

PATH: Final = "/api/v1/viewing-time/heartbeat"
RESPONSE: Final = {
    "session_id": "00000000-0000-4000-8000-000000000000",
    "enforcement": "allowed",
    "remaining_minutes": 100.5,
    "used_minutes": 19.5,
    "is_educational": False,
}


class Count:
    """The number of heartbeats answered."""

    posts = 0


async def echo(request: Request) -> Response:
    Count.posts += 1
    return JSONResponse(RESPONSE)


async def count(request: Request) -> Response:
    return JSONResponse(Count.posts)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    yield


def main(port: int) -> None:
    """Serves on a port of 127.0.0.1 until a signal stops it."""
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
        backlog=MAX_BACKLOG,
    )
    with bound("127.0.0.1", port) as listener:
        uvicorn.Server(config).run(sockets=sharing(listener))


if __name__ == "__main__":
    main(int(sys.argv[1]))
