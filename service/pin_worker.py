"""The processes that hash PINs, and all that they import.

The module stands apart from the hasher because a worker imports the one that its first function is
in: with the event loop's modules left out, it is 7 MB smaller.
"""

import ctypes
import os
import signal
import sys
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Final

PR_SET_PDEATHSIG: Final = 1


class Worker(SpawnProcess):
    """A worker process.

    Spawned: a server with threads must not fork, and a fork server would be one process more to
    watch. A spawned process has none of the server's files and sockets.
    """

    def start(self) -> None:
        # Spawn imports the parent's __main__ into the child: all of the service, where a console
        # script was started. Ctrl-C is the parent's: a blocked signal stays so in the child, from
        # its first instruction on.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            sys.modules["__main__"] = main
        assert self.pid is not None
        give_way(self.pid)


class Spawn(SpawnContext):
    Process = Worker


def give_way(pid: int) -> None:
    """Lets a process run only when no other wants the core, from its first import on."""
    try:
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, pid, 19)


def begin(parent: int) -> None:
    """Runs first in a worker: it dies with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
