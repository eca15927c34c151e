"""The viewing days that heartbeats of uncached profiles may have.

The statement of a heartbeat reads the zone and the reset hour, and only `rules` computes viewing
days. So the service sends the days of the pairs that it has read lately.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Final, NamedTuple

from msgspec.structs import replace

from service.viewing import rules
from service.viewing.rules import DEFAULTS, Configuration

MAX_GUESSES: Final = 64


class Guesses(NamedTuple):
    """The last arguments of the statement, in step; the first is that of the defaults.

    A key is the zone and the reset hour as the statement joins them.
    """

    keys: list[str]
    days: list[date]
    begin_seconds: list[int]


class DayGuesses:
    """The defaults and the latest MAX_GUESSES - 1 other pairs of a zone and a reset hour."""

    def __init__(self) -> None:
        self._seen = {_key(DEFAULTS): DEFAULTS}
        self._guesses = Guesses([], [], [])
        self._begins = self._ends = datetime.min.replace(tzinfo=UTC)

    def learn(self, configuration: Configuration) -> None:
        """Adds the pair of a configuration, in place of the one that was added first."""
        key = _key(configuration)
        if key in self._seen:
            return
        if len(self._seen) == MAX_GUESSES:
            _, first, *_ = self._seen
            del self._seen[first]
        self._seen[key] = configuration
        self._ends = self._begins

    def learn_all(self, timezones: Iterable[str], reset_hours: Iterable[int]) -> None:
        """Adds pairs that configurations have; the arguments are in step."""
        for timezone, reset_hour in zip(timezones, reset_hours, strict=True):
            self.learn(replace(DEFAULTS, timezone=timezone, reset_hour=reset_hour))

    def at(self, now: datetime) -> Guesses:
        """The viewing days at `now`, which are computed again when one of them ends."""
        if not self._begins <= now < self._ends:
            days = [rules.current_day(configuration, now) for configuration in self._seen.values()]
            self._begins = max(day.begins for day in days)
            self._ends = min(day.ends for day in days)
            self._guesses = Guesses(
                [*self._seen], [day.day for day in days], [day.begin_seconds for day in days]
            )
        return self._guesses


def _key(configuration: Configuration) -> str:
    return f"{configuration.timezone} {configuration.reset_hour}"
