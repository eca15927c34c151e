"""The metrics of several processes of one service as one: how they are sent, and added up.

Counters and histograms are summed, also those of processes that have ended. A gauge is reported for
each process, with the label `worker`.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import Metric

from service.context import Context
from service.operators.prometheus import OneFamily, families

SUMMED: Final = ("counter", "histogram")


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One family of one process, as it is sent."""

    name: str
    help: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


DECODER: Final = msgspec.msgpack.Decoder(list[Family])
Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]  # the name of a sample, and its labels


async def snapshot(context: Context) -> bytes:
    """All families of this process; other tasks of the event loop run between them."""
    found = []
    for metric in families(context):
        found.append(family(metric))
        await asyncio.sleep(0)
    return msgspec.msgpack.encode(found)


def family(metric: Metric) -> Family:
    """A family of this process as it is sent."""
    samples = [(sample.name, sample.labels, sample.value) for sample in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, samples)


class Sum:
    """Families of several processes, added up."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str, dict[Key, float]]] = {}

    def add(self, found: Iterable[Family], worker: str | None) -> None:
        """Adds the families of a process; None for `worker`: it has ended, and had no gauges."""
        for one in found:
            is_summed = one.kind in SUMMED
            if not is_summed and worker is None:
                continue
            *_, values = self._families.setdefault(one.name, (one.help, one.kind, {}))
            for name, labels, value in one.samples:
                if not is_summed:
                    labels = {**labels, "worker": worker or ""}
                key = name, tuple(labels.items())
                values[key] = values.get(key, 0.0) + value

    def add_sum(self, other: "Sum") -> None:
        """Adds another sum."""
        for name, (text, kind, values) in other._families.items():
            *_, own = self._families.setdefault(name, (text, kind, {}))
            for key, value in values.items():
                own[key] = own.get(key, 0.0) + value

    def exposition(self) -> bytes:
        """The sum in Prometheus' text format."""
        return b"".join(generate_latest(OneFamily(metric)) for metric in self._metrics())

    def _metrics(self) -> Iterable[Metric]:
        for name, (text, kind, values) in self._families.items():
            metric = Metric(name, text, kind)
            for (sample, labels), value in values.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
