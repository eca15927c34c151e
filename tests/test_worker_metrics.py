"""The metrics of several processes, added up while processes end."""

import httpx

from service.listeners import bound
from service.operators.prometheus_sum import Family
from service.settings import Settings
from service.worker_metrics import Counts, serving
from service.worker_process import WorkerProcess
from tests.family import SECRET


class Ending(WorkerProcess):
    """A worker that ends while it is asked for its metrics."""

    def __init__(self, counts: Counts, running: set[WorkerProcess]) -> None:
        self.samples = [Family("beats", "Heartbeats.", "counter", [("beats_total", {}, 5.0)])]
        self._counts, self._running = counts, running

    async def refresh(self) -> None:
        self._running.discard(self)
        self._counts.keep(self)


async def test_worker_that_ends_during_a_scrape_is_counted_once() -> None:
    counts, running = Counts(), set[WorkerProcess]()
    worker = Ending(counts, running)
    running.add(worker)
    listener = bound("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
    settings = Settings(database_url="postgresql:///", jwt_secret=SECRET)
    async with (
        await serving(settings, listener, counts, {1: worker}, running),
        httpx.AsyncClient(timeout=60) as client,
    ):
        shown = [(await client.get(url)).text for _ in range(2)]
    assert ["\nbeats_total 5.0\n" in each for each in shown] == [True, True]
