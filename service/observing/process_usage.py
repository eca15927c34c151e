"""The kernel's counts of this process, under the names that Prometheus clients share."""

import sys
from collections.abc import Iterable
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric

KERNEL: Final = ProcessCollector(registry=None)


def usage() -> Iterable[Metric]:
    """CPU time, memory and open files; nothing except on Linux."""
    if sys.platform != "linux":
        return ()
    if families := [*KERNEL.collect()]:
        return families
    import resource  # not on every system

    # The collector reads files under /proc: it reports nothing when no file can be opened.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        GaugeMetricFamily("process_max_fds", "Maximum number of open file descriptors.", limit),
        GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", limit),
    )
