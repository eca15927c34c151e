"""The tests of players' requests run on both paths of a heartbeat."""

import pytest


@pytest.fixture(params=[True, False], ids=["short", "ordinary"])
def short_path(request: pytest.FixtureRequest) -> bool:
    """Whether plain heartbeats take the short path."""
    is_short: bool = request.param
    return is_short
