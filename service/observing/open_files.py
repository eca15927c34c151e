"""How many files this process may have open; every connection of a player is one."""

import errno
import os
import sys
from typing import Final

from service.settings import Settings

# Listening sockets, pipes, logs, connections for single pieces of work; and some to spare.
OWN: Final = 60
PIN_WORKER_FILES: Final = 2
# Some systems report no hard limit, and still allow no more than one of these.
LIMITS: Final = (1_048_576, 65_536, 10_240)
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)


def raise_limit() -> int:
    """Raises the soft limit to the hard one, as far as the system lets it; returns the soft one.

    An ordinary account starts with 1,024, for programs that cannot handle more; this one can.
    """
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in LIMITS if hard == resource.RLIM_INFINITY else (hard,):
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        soft = wanted
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def for_connections(settings: Settings, limit: int) -> int:
    """How many clients can be connected where `limit` files may be open; at least one."""
    database = settings.pool_max_size + settings.heartbeat_connections
    own = OWN + database + PIN_WORKER_FILES * settings.pin_workers
    return max(1, limit - own)


def are_exhausted() -> bool:
    """Whether no more file can be opened now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        return True
    return False
