"""The processes that hash PINs, and all that they import.

The module stands apart from the hasher because a worker imports the one that its first function is
in: with the event loop's modules left out, it is 7 MB smaller.
"""

import ctypes
import multiprocessing.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Final

# All that Python and the loader read on the way to a worker's first instruction.
INHERITED: Final = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ"),
    *("PYTHONHOME", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUTF8"),
)

PR_SET_PDEATHSIG: Final = 1
AUTOGROUP: Final = "/proc/self/autogroup"
GROUP_TRIES: Final = 50


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
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            sys.modules["__main__"] = main


class Spawn(SpawnContext):
    Process = Worker


def keep_secrets() -> None:
    """Has multiprocessing start its processes without the secrets in this one's environment.

    Everyone with this account on the machine may read a process's environment, and it stays where
    it is for the process's life. The module starts workers and the resource tracker through one
    function, whenever it needs one, and gives no way to choose their environment: so the function
    is replaced, for good.
    """
    vars(multiprocessing.util)["spawnv_passfds"] = _start


def _start(path: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    """Starts a process that has `descriptors` and the harmless variables; returns its id."""
    import subprocess  # not needed in a worker

    harmless = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = subprocess.Popen(
        arguments, executable=path, pass_fds=descriptors, env=harmless, restore_signals=False
    )
    process.returncode = 0  # for multiprocessing to wait for, not for `subprocess`
    return process.pid


def begin(parent: int) -> None:
    """Runs first in a worker: it dies with its parent, and gives way to everyone."""
    die_with(parent)
    give_way()


def die_with(parent: int) -> None:
    """Has this process killed when its parent ends, where the system can do that.

    It ends at once when the parent has ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def give_way() -> None:
    """Puts this process behind all others that want its core.

    Niceness, not SCHED_IDLE: the scheduler takes a core with nothing but idle tasks for a free one
    and wakes the heartbeats' processes there (`python -m bench pin` has both). Where each session
    is scheduled as a group (sched_autogroup), niceness counts within one only, and every backend of
    PostgreSQL is a session: there the worker becomes one too, and its group is what gives way.
    """
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    if sys.platform != "linux":
        return
    try:
        group = os.open(AUTOGROUP, os.O_WRONLY)
    except OSError:  # no such kernel, or no such right: within the service's session, then
        return
    os.setsid()
    for _ in range(GROUP_TRIES):
        try:
            os.write(group, b"19")
            break
        except BlockingIOError:  # the kernel takes one such change per tenth of a second
            time.sleep(0.1)
    os.close(group)
