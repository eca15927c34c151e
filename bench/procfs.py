"""CPU time and memory of processes, read from `/proc`."""

import os
from pathlib import Path
from typing import Final

TICK: Final = 1 / os.sysconf("SC_CLK_TCK")  # seconds


def cpu_seconds(root: int) -> float:
    """User and system time of a process and its descendants, including those that have ended.

    The kernel adds the time of an ended process to its parent.
    """
    times, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            times[pid] = sum(map(int, fields[11:15])) * TICK
    return sum(seconds for pid, seconds in times.items() if _is_below(pid, root, parents))


def resident_bytes(pid: int) -> int:
    """The resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def listen_drops() -> int:
    """Connections that listening sockets of this network namespace had no room for, since boot."""
    lines = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == "TcpExt:")
    return int(values[names.index("ListenDrops")])


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the third on; the second is a name with spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # the process has ended
        return []


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True
