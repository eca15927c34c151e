"""Ends the processes that tests start, even if the run itself is killed."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

# The variable that marks a run; processes inherit it unless a test replaces their environment.
RUN: Final = "VIEWING_TIME_TEST_RUN"
PR_SET_PDEATHSIG: Final = 1


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
    """Kills the processes of this run that still exist; returns a line for each."""
    mark = f"{RUN}={os.environ[RUN]}".encode()
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended, or belongs to another account
            variables = (folder / "environ").read_bytes().split(b"\0")
            if mark in variables and folder.name != str(os.getpid()):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                started_by = [v for v in variables if v.startswith(b"PYTEST_CURRENT_TEST=")]
                os.kill(int(folder.name), signal.SIGKILL)
                lines.append(b" ".join([folder.name.encode(), command, *started_by]).decode())
    return lines
