"""How a report counts: in which days, and which time. Pure, without I/O."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import inspect

from service.http.fields import doc
from service.http.lenient_values import reader
from service.viewing import rules
from service.viewing.rules import Configuration

Zone = Annotated[
    Literal["utc", "child"],
    doc(
        "`child`: the days are the child's viewing days, by its zone and reset hour, and a session"
        " belongs to the days on which it was watched. `utc`, the default: UTC days, and a session"
        " belongs to the day on which it started.",
        "child",
    ),
]
Counted = Annotated[
    bool,
    doc(
        "true: sums leave out educational time that the child's configuration exempts from the"
        " limit. Default: false.",
        True,
    ),
]
# Python has no instants beyond its calendar, and a zone can be a day off.
FIRST_DAY: Final = date.min + timedelta(days=2)
LAST_DAY: Final = date.max - timedelta(days=3)


class View(msgspec.Struct, frozen=True):
    """The days of a report and the time that it counts, as in the query."""

    zone: Zone = "utc"
    counted: Counted = False


PAGE_VIEW: Final = View("child", True)
READ: Final = reader(inspect.type_info(View))


def read_view(params: Mapping[str, str]) -> View | None:
    """The parameters `zone` and `counted`; None if neither is there. Raises FieldError."""
    given = {name: params[name] for name in View.__struct_fields__ if name in params}
    view = READ(given, ("query",))
    assert isinstance(view, View)
    return view if given else None


class Days(NamedTuple):
    """Viewing days from `first` on: when each begins, and when the last one ends."""

    first: date
    bounds: list[datetime]


def days_between(configuration: Configuration, first: date, last: date) -> Days:
    """The viewing days from `first` to `last`, except those at the ends of Python's calendar."""
    first, last = max(first, FIRST_DAY), min(last, LAST_DAY)
    days = [first + timedelta(days=n) for n in range((last - first).days + 2)]
    return Days(first, [rules.reset(configuration, day) for day in days])
