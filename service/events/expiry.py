"""Ends requests for more time that nobody decided before their viewing day was over."""

from datetime import datetime
from typing import Final

import msgspec

from service.database.driver import Source
from service.database.statement import Statement

MAX_AT_ONCE: Final = 500


class ExpiredRow(msgspec.Struct, frozen=True):
    requests: int


EXPIRE: Final = Statement("viewing_request_expire", ExpiredRow)


async def expire(source: Source, now: datetime) -> int:
    """Ends every pending request whose viewing day is over; returns their number.

    `now` is the time of the instance, which also computes viewing days. A request has expired for
    every reader at its end; this stores it, with its event.
    """
    ended = 0
    while row := await EXPIRE.maybe(source, now, MAX_AT_ONCE):
        ended += row.requests
        if row.requests < MAX_AT_ONCE:
            break
    return ended
