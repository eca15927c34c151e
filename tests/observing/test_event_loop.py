"""The service watches itself."""

import asyncio
import gc
import weakref

import pytest

from service.observing import event_loop
from service.observing.metrics import Metrics


class Cycle:
    """What no count of references frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("age", [0, 2])
async def test_what_failures_leave_behind_is_freed(
    age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "SWEEP_SECONDS", 0.01)
    metrics = Metrics()
    sweeping = asyncio.create_task(event_loop._sweep(metrics))
    gc.disable()
    try:
        living = Cycle()
        for _ in range(age):  # what lives through a collection is older, up to two
            gc.collect(1)
        left = weakref.ref(living)
        del living
        await asyncio.sleep(0.1)
        assert left() is not None
        metrics.heartbeats_failed_closed += 1
        while left() is not None:
            await asyncio.sleep(0.01)
    finally:
        gc.enable()
        sweeping.cancel()
