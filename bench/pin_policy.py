"""A PIN worker with another priority than the service's: `python -m bench.pin_policy POLICY`."""

import os
import sys

from service.credentials.pin_worker import serve


def sched_idle() -> None:
    """Runs only when a core has nothing else to do."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def sched_batch() -> None:
    """Does not preempt another process when it wakes up."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def nice_in_session() -> None:
    """Lowers only the niceness, which has no effect across autogroups of the scheduler."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)


def normal() -> None:
    """Keeps the priority of the service."""


POLICIES = {
    "SCHED_IDLE": sched_idle,
    "SCHED_BATCH": sched_batch,
    "nice 19 only": nice_in_session,
    "normal priority": normal,
}


if __name__ == "__main__":
    POLICIES[sys.argv[1]]()
    serve()
