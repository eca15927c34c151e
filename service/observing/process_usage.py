"""What the kernel counts about this process, under the names that Prometheus' clients share."""

import errno
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
STAT_START: Final = 19  # fields after the command's name in /proc/[pid]/stat: see proc(5)
STAT_VIRTUAL: Final = 20
STAT_RESIDENT: Final = 21


class Usage(NamedTuple):
    is_counter: bool
    name: str
    doc: str
    value: float


def usage() -> Iterator[Usage]:
    """Time in seconds, memory in bytes; nothing except on Linux."""
    if sys.platform != "linux" or not (PROC / "self/stat").exists():
        return
    import resource  # which not every system has

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Usage(False, "process_max_fds", "How many files may be open.", files)
    try:
        files_open = sum(1 for _ in (PROC / "self/fd").iterdir())
        stat = (PROC / "self/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        yield Usage(False, "process_open_fds", "Open files.", files)
        return
    times = os.times()
    cpu = times.user + times.system
    page = os.sysconf("SC_PAGE_SIZE")
    started = _booted() + int(stat[STAT_START]) / os.sysconf("SC_CLK_TCK")
    resident, virtual = int(stat[STAT_RESIDENT]) * page, int(stat[STAT_VIRTUAL])
    yield Usage(True, "process_cpu_seconds_total", "User and system CPU time.", cpu)
    yield Usage(False, "process_resident_memory_bytes", "Resident memory.", resident)
    yield Usage(False, "process_virtual_memory_bytes", "Virtual memory.", virtual)
    yield Usage(False, "process_open_fds", "Open files.", files_open)
    yield Usage(False, "process_start_time_seconds", "Start, seconds since 1970 UTC.", started)


@cache
def _booted() -> float:
    """When the machine started, in seconds since 1970."""
    lines = (PROC / "stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
