"""Scheduling priorities that PIN workers can have instead of the service's own choice.

A module of its own, because a worker imports the module of its first function.
"""

import os

from service.credentials.pin_worker import die_with


def sched_idle(parent: int) -> None:
    """Runs only when a core has nothing else to do."""
    die_with(parent)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def sched_batch(parent: int) -> None:
    """Does not preempt another process when it wakes up."""
    die_with(parent)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def nice_in_session(parent: int) -> None:
    """The lowest nice value, in the terminal session of the service."""
    die_with(parent)
    os.setpriority(os.PRIO_PROCESS, 0, 19)


def normal(parent: int) -> None:
    """The usual priority."""
    die_with(parent)
