"""GET /metrics on METRICS_PORT of several processes: their counts added up, by the parent."""

import asyncio
import socket
from collections.abc import Mapping
from functools import partial
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.core import CounterMetricFamily
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.server import ServerState

from service.http import error_responses
from service.http.protocol import Protocol
from service.http.urls import METRICS
from service.observing import process_usage
from service.operators.prometheus import PREFIX
from service.operators.prometheus_sum import Sum, family
from service.server import OPERATOR_CONNECTIONS, configuration
from service.settings import Settings
from service.worker_process import WorkerProcess

PARENT: Final = "parent"  # value of the label `worker`
KEEP_SECONDS: Final = 1.0
RESTARTS: Final = (f"{PREFIX}worker_restarts_total", "Starts of workers after one had died.")


class Counts:
    """The metrics of all workers, with the counts of those that have ended."""

    def __init__(self) -> None:
        self.restarts = 0
        self._ended = Sum()

    def keep(self, worker: WorkerProcess) -> None:
        """Keeps the counts of a worker that has ended."""
        self._ended.add(worker.samples, None)

    async def exposition(
        self, current: Mapping[int, WorkerProcess], running: set[WorkerProcess]
    ) -> bytes:
        """All metrics; gauges only of the workers in `current`, with their number.

        A worker that ends meanwhile has left `running`, and is among the counts that are kept.
        """
        await asyncio.gather(*(worker.refresh() for worker in running))
        numbers = {worker: str(number) for number, worker in current.items()}
        total = Sum()
        for worker in sorted(running, key=lambda worker: numbers.get(worker, "")):
            total.add(worker.samples, numbers.get(worker))
        total.add_sum(self._ended)
        own = (*process_usage.usage(), CounterMetricFamily(*RESTARTS, value=self.restarts))
        total.add(map(family, own), PARENT)
        return total.exposition()


async def refreshing(running: set[WorkerProcess]) -> None:
    """Reads the metrics of all workers again and again, so that those of one that dies are kept."""
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        await asyncio.gather(*(worker.refresh() for worker in running))


class Operator(Protocol):
    """Closes a connection at once if OPERATOR_CONNECTIONS are open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) < OPERATOR_CONNECTIONS:
            super().connection_made(transport)
        else:
            transport.set_protocol(asyncio.Protocol())
            transport.close()


async def serving(
    settings: Settings,
    listener: socket.socket,
    counts: Counts,
    current: Mapping[int, WorkerProcess],
    running: set[WorkerProcess],
) -> asyncio.Server:
    """Serves all metrics on `listener`."""

    async def metrics(_: Request) -> Response:
        shown = await counts.exposition(current, running)
        return Response(shown, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    route = Route(METRICS, metrics, methods=["GET"])
    app = Starlette(routes=[route], exception_handlers=error_responses.TABLE)
    app.router.redirect_slashes = False
    config = configuration(settings, app)
    config.lifespan = "off"
    config.load()
    protocol = partial(Operator, config=config, server_state=ServerState(), app_state={})
    return await asyncio.get_running_loop().create_server(protocol, sock=listener)
