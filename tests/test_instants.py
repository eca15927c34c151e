"""Some tests run again at midnight, at changes of clocks and at the end of a year."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Those whose result a day, an hour or the order of moments could change.
TESTS = [
    *(
        f"tests/players/test_heartbeat.py::{name}"
        for name in (
            "test_heartbeat_counts_in_both_tables",
            "test_parallel_first_beats_leave_one_open_session",
            "test_a_long_pause_does_not_count_and_its_end_does_not_either",
            "test_the_day_turns_at_the_reset_hour_of_the_childs_zone",
            "test_a_stored_name_that_is_not_a_zone_counts_as_utc_and_is_logged_once",
            "test_a_balance_that_an_operator_moved_blocks_no_later_day",
            "test_ids_of_new_rows_sort_by_time",
            "test_a_clock_that_is_set_back_ends_no_session_before_its_start",
            "test_a_paused_beat_that_does_not_count_writes_no_balance",
        )
    ),
    "tests/players/test_session.py",
]
INSTANTS = [
    "2026-11-25T23:59:58+00:00",
    "2026-03-29T00:59:58+00:00",  # clocks go forward in Europe
    "2026-11-01T05:59:58+00:00",  # clocks go back in New York
    "2026-12-31T23:59:59.999999+00:00",
]


@pytest.mark.parametrize("instant", INSTANTS)
def test_another_instant_changes_no_result(postgres_dsn: str, template: str, instant: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TEST_INSTANT": instant, "TEST_POSTGRES": postgres_dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
