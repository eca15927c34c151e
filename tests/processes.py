"""Ends the processes that tests start, even if the run itself is killed."""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

# The variable that marks a run; processes inherit it unless a test replaces their environment.
RUN: Final = "VIEWING_TIME_TEST_RUN"
PR_SET_PDEATHSIG: Final = 1
# Those that have been killed, or whose parent has ended, need a moment on a busy machine.
MAX_END_SECONDS: Final = 30.0


def dying_with_parent(files: int | None = None) -> Callable[[], None]:
    """A `preexec_fn`: the kernel kills the process when the thread that started it ends.

    The process may open `files`.
    """
    parent = os.getpid()

    def prepare() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    return prepare


def mark_run() -> None:
    """Sets the variable that processes of this run inherit."""
    os.environ[RUN] = uuid4().hex


def kill_left_behind() -> list[str]:
    """Kills the processes of this run that do not end by themselves; returns a line for each."""
    ends_at = time.monotonic() + MAX_END_SECONDS
    while (found := _left_behind()) and time.monotonic() < ends_at:
        time.sleep(0.1)
    for process_id in found:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
    return [*found.values()]


def _left_behind() -> dict[int, str]:
    """The processes of this run except this one, with a line for each."""
    mark = f"{RUN}={os.environ[RUN]}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended, or belongs to another account
            variables = (folder / "environ").read_bytes().split(b"\0")
            if mark in variables and folder.name != str(os.getpid()):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                started_by = [v for v in variables if v.startswith(b"PYTEST_CURRENT_TEST=")]
                line = b" ".join([folder.name.encode(), command, *started_by])
                found[int(folder.name)] = line.decode()
    return found
