"""The limit of open files; each connected player takes one."""

import errno
import os
import sys
from typing import Final

from service.cells_file import cells
from service.settings import Settings

# Listening sockets, pipes, logs, short-lived connections, and a reserve.
OWN_FILES: Final = 60
PIN_WORKER_FILES: Final = 2
# Some systems report no hard limit, but allow no more than one of these.
LIMITS: Final = (1_048_576, 65_536, 10_240)
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)


def raise_limit() -> int:
    """Raises the soft limit to the hard one, as far as the system allows; returns the soft one.

    The usual soft limit is 1,024, for programs that use select(); this one does not.
    """
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in LIMITS if hard == resource.RLIM_INFINITY else (hard,):
        if soft == resource.RLIM_INFINITY or soft >= limit:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            continue
        soft = limit
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def for_connections(settings: Settings, limit: int) -> int:
    """Returns how many clients can be connected if `limit` files can be open; at least one."""
    pools = 2 if settings.database_read_url else 1
    database = pools * settings.pool_max_size + settings.heartbeat_connections
    database *= len(cells(settings))
    others = settings.web_concurrency - 1  # processes, whose listening sockets this one has too
    return max(1, limit - OWN_FILES - others - database - PIN_WORKER_FILES * settings.pin_workers)


def are_exhausted() -> bool:
    """Returns whether no further file can be opened now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        return True
    return False
