"""The program of a process that hashes PINs: `salt secret` in, a bcrypt hash out, one line each.

The secret is in hexadecimal. The process ends when its input ends, so it does not outlive the
service. It imports nothing of the service, which keeps it at 10 MB.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from typing import Final

import bcrypt

AUTOGROUP: Final = "/proc/self/autogroup"
MAX_GROUP_TRIES: Final = 50


def close_inherited() -> None:
    """Closes all files except the standard streams; uvloop starts a process with inherited ones."""
    with os.scandir("/dev/fd") as entries:
        descriptors = [int(entry.name) for entry in entries]
    for descriptor in descriptors:
        if descriptor > 2:
            with suppress(OSError):  # that of the listing is closed
                os.close(descriptor)


def lower_priority() -> None:
    """Gives this process, which has called `setsid`, the lowest priority.

    Niceness, not SCHED_IDLE: the scheduler considers a core with only idle tasks free and wakes the
    heartbeats' processes there (`python -m bench pin_ways` measures it). With sched_autogroup, the
    kernel schedules a group for each `setsid`, and niceness counts only inside it, so the group's
    own niceness is set too.
    """
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    if sys.platform != "linux":
        return
    try:
        group = os.open(AUTOGROUP, os.O_WRONLY)
    except OSError:  # the kernel has no autogroups, or the process has no right to write them
        return
    for _ in range(MAX_GROUP_TRIES):
        try:
            os.write(group, b"19")
            break
        except BlockingIOError:  # the kernel accepts one change each tenth of a second
            time.sleep(0.1)
    os.close(group)


def serve() -> None:
    """Hashes each line until the input ends; ignores Ctrl-C, which the parent process handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        salt, _, secret = line.rstrip(b"\n").partition(b" ")
        digest = bcrypt.hashpw(bytes.fromhex(secret.decode()), salt)
        sys.stdout.buffer.write(digest + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    close_inherited()
    lower_priority()
    serve()
