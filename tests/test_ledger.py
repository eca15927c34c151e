"""The tables, a model in plain Python and the sum of all answers say the same."""

from datetime import UTC, date, datetime, timedelta
from random import SystemRandom
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service import rules
from service.database import Connection
from service.rules import Configuration
from tests.conftest import Running
from tests.family import Family
from tests.ledger import ZONES, Model, live, settle


@pytest.mark.parametrize("seed", [1, 2, SystemRandom().randrange(10**9)])
async def test_random_lives(running: Running, connection: Connection, seed: int) -> None:
    print(f"seed {seed}")
    lives = await live(running, connection, seed, families=6, rounds=50)
    for life in lives:
        await settle(connection, life.model)
    assert sum(life.repeats for life in lives) > 0
