"""What processes used, by the kernel's account in `/proc`."""

import os
from pathlib import Path
from typing import Final

TICK: Final = 1 / os.sysconf("SC_CLK_TCK")  # seconds


def cpu_seconds(root: int) -> float:
    """User and system time of a process, of all below it, and of those that have ended.

    A process that has ended is in its parent's account of waited-for children.
    """
    times, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            times[pid] = sum(map(int, fields[11:15])) * TICK
    return sum(spent for pid, spent in times.items() if _is_below(pid, root, parents))


def resident_bytes(pid: int) -> int:
    """The memory that one process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the third on: the second, a name, may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return []


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True
