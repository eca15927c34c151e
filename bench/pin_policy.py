"""What a PIN worker may do first instead of giving way as the service's own do.

A module of its own, since a worker imports the one that its first function is in.
"""

import os

from service.credentials.pin_worker import die_with


def sched_idle(parent: int) -> None:
    """Runs only when a core has nothing else to do."""
    die_with(parent)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def sched_batch(parent: int) -> None:
    """Never takes a core from another by waking up."""
    die_with(parent)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def nice_in_session(parent: int) -> None:
    """Gives way in the service's own session."""
    die_with(parent)
    os.setpriority(os.PRIO_PROCESS, 0, 19)


def normal(parent: int) -> None:
    """Does not give way."""
    die_with(parent)
