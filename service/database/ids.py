"""Ids of new rows."""

import os
from datetime import datetime
from uuid import UUID

VERSION_7 = 0x7 << 76
VARIANT = 0x2 << 62
RANDOM = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)


def time_ordered_id(now: datetime) -> UUID:
    """A UUID of version 7 (RFC 9562, section 5.7): the milliseconds of `now`, the rest random.

    Ids that sort by time put new rows next to each other in an index; each random id would change
    another page of it.
    """
    milliseconds = int(now.timestamp() * 1000)
    random = int.from_bytes(os.urandom(10)) & RANDOM
    return UUID(int=milliseconds << 80 | VERSION_7 | VARIANT | random)


def id_prefix(now: datetime) -> str:
    """The first 24 hexadecimal digits of a new time-ordered id, for the ids of one statement.

    The statement adds the position of each row, so that existing rows cost no id.
    """
    return time_ordered_id(now).hex[:24]
