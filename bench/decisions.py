"""Times `decide` and `frame` in this process, for a plain policy and for one with every rule."""

from datetime import UTC, date, datetime
from time import perf_counter
from timeit import repeat
from typing import Final

from bench.figure import Figure, Target
from service.viewing.decision import PastDay, Usage, decide
from service.viewing.frame import frame
from service.viewing.policy import Policy, stored_policy
from service.viewing.rules import DAY, Configuration

CALLS: Final = 2_000
ROUNDS: Final = 25
DAYS: Final = 365
TODAY: Final = date(2026, 11, 26)  # a Thursday, the last day of the week in ALL_RULES
NOW: Final = datetime(2026, 11, 26, 17, tzinfo=UTC)
CONFIGURATION: Final = Configuration(480, 480, 6, True, "Europe/Berlin")
ALL_RULES: Final = """
{
    "schedule": {
        "daily_limits": {
            "mon": 120, "tue": 105, "wed": 120, "thu": 105, "fri": 180, "sat": 240, "sun": 195
        },
        "downtime": [
            {"days": ["mon", "tue", "wed", "thu", "sun"], "start": "20:00", "end": "07:00"},
            {"days": ["fri", "sat"], "start": "21:30", "end": "08:00"},
            {"days": ["mon", "tue", "wed", "thu", "fri"], "start": "12:00", "end": "13:00"}
        ],
        "weekly_limit_minutes": 900,
        "week_starts_on": "fri",
        "rollover_max_minutes": 60,
        "finish_minutes": 20
    },
    "exceptions": [["2026-11-26", true, 180, false]]
}
"""
WEEK: Final = [PastDay(TODAY - ago * DAY, 3600, False, 0, None) for ago in range(6, 0, -1)]


def figures(calls: int = CALLS) -> list[Figure]:
    plain, full = stored_policy(CONFIGURATION), stored_policy(CONFIGURATION, ALL_RULES)
    usage = Usage(TODAY, 3600, week=WEEK, session_seconds=1800)
    return [
        *_figures("no rules", plain, Usage(TODAY, 3600), calls),
        *_figures("all rules", full, usage, calls),
    ]


def _figures(name: str, policy: Policy, usage: Usage, calls: int) -> list[Figure]:
    """The fastest round counts: other processes only add to the time."""
    rounds = repeat(lambda: decide(policy, usage, NOW), number=calls, repeat=ROUNDS)
    started_at = perf_counter()
    for number in range(DAYS):
        frame(policy, TODAY + number * DAY)
    once = (perf_counter() - started_at) / DAYS
    return [
        Figure(f"{name}: decide", min(rounds) / calls * 1e6, "µs", Target(5)),
        Figure(f"{name}: frame, once a viewing day", once * 1e6, "µs"),
    ]
