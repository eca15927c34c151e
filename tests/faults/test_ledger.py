"""The tables, a model in plain Python and all responses agree."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from random import Random
from uuid import uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.database.driver import Connection
from service.viewing import rules
from service.viewing.decision import Usage, decide
from service.viewing.policy import limit_minutes, stored_policy
from service.viewing.rules import Configuration
from tests.conftest import SEED, Running
from tests.family import Family
from tests.faults.ledger import ZONES, Model, add_lives, cut, live, settle


@pytest.mark.parametrize("seed", [1, 2, pytest.param(SEED, id="any")])
async def test_random_requests_have_the_results_of_the_model(
    running: Running, connection: Connection, seed: int
) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    lives = await add_lives(running, connection, random, families=6)
    for number in range(50):
        if number % 10 == 9:
            await asyncio.gather(cut(connection), live(lives, random))
        else:
            await live(lives, random)
    for life in lives:
        await settle(connection, life.model)
    assert sum(life.repeats for life in lives) > 0


# No deadline, because a machine can be slow. No database, because found examples become tests.
steady = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
limits = st.none() | st.integers(1, 32).map(lambda quarters: quarters * 15)
configurations = st.builds(
    Configuration, limits, limits, st.integers(0, 23), st.booleans(), st.sampled_from(ZONES)
)
instants = st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC))


def modelled(configuration: Configuration) -> Model:
    weekday, weekend, reset_hour, exempt, zone = msgspec.structs.astuple(configuration)
    return Model(Family(), weekday, weekend, reset_hour, exempt, zone)


@steady
@given(configurations, instants)
def test_viewing_day_is_that_of_the_model(configuration: Configuration, now: datetime) -> None:
    model, day = modelled(configuration), rules.viewing_day(configuration, now)
    assert day == model.today(now)
    assert limit_minutes(stored_policy(configuration), day) == model.limit(now)


@steady
@given(configurations, instants)
def test_the_next_reset_is_the_end_of_the_day(configuration: Configuration, now: datetime) -> None:
    day = rules.viewing_day(configuration, now)
    reset = rules.next_reset(configuration, day)
    assert timedelta(0) < reset - now <= timedelta(hours=25)
    assert rules.viewing_day(configuration, reset - timedelta(seconds=1)) == day
    assert rules.viewing_day(configuration, reset) == day + timedelta(days=1)


class Evening(RuleBasedStateMachine):
    """A child watches, time passes, and a parent changes the configuration."""

    @initialize(configuration=configurations, now=instants)
    def begin(self, configuration: Configuration, now: datetime) -> None:
        self.configuration, self.now = configuration, now
        self.model = modelled(configuration)
        self.used: dict[date, int] = {}
        self.override: set[date] = set()
        self.model.start(session := str(uuid4()))
        self.session = session

    @property
    def day(self) -> date:
        return rules.viewing_day(self.configuration, self.now)

    @rule(beats=st.integers(1, 60))
    def watch(self, beats: int) -> None:
        for _ in range(beats):
            self.now += timedelta(seconds=30)
            self.used[self.day] = self.used.get(self.day, 0) + rules.BEAT_SECONDS
            self.model.count(self.session, self.now, paused=False, lesson=False)

    @rule(hours=st.integers(1, 30))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(configuration=configurations)
    def change(self, configuration: Configuration) -> None:
        self.configuration = configuration
        changed = modelled(configuration)
        changed.sessions, changed.days = self.model.sessions, self.model.days
        self.model = changed

    @rule()
    def lift(self) -> None:
        self.override.add(self.day)
        self.model.day(self.now).unlimited = True

    @invariant()
    def rules_and_model_agree(self) -> None:
        usage = Usage(self.day, self.used.get(self.day, 0), self.day in self.override)
        decision = decide(stored_policy(self.configuration), usage, self.now)
        assert decision.enforcement == self.model.enforcement(self.now)
        left = decision.remaining_seconds
        assert (None if left is None else round(left / 60, 2)) == self.model.remaining(self.now)


TestEvening = Evening.TestCase
TestEvening.settings = settings(steady, max_examples=50, stateful_step_count=30)
