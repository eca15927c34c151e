"""The counts of this process: plain numbers, changed on the event loop only."""

import sys
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sized
from itertools import accumulate
from math import inf
from secrets import token_hex
from time import monotonic
from typing import Final

WINDOW_SECONDS: Final = 300.0
MAX_WINDOW: Final = 10_000
# Log lines a second for slow heartbeats: when thousands of players reconnect, all of them are slow.
MAX_SLOW_LINES: Final = 10

HEARTBEAT_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STATEMENT_SECONDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5)
WAIT_SECONDS: Final = (0.001, 0.01, 0.1, 0.5, 1.0)
REPORT_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
PIN_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LAG_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5)


class Histogram:
    """The number of values up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Adds one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[int]:
        """The number of values up to each bound; the last one is the number of all values."""
        return accumulate(self.counts)


class Durations:
    """Durations of one kind of work: histogram, mean, maximum, and quantiles of a window.

    The window is the last 5 minutes or the last 10,000 durations, whichever is shorter. The
    histogram is in seconds, everything else in milliseconds.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.histogram = Histogram(bounds)
        self.count = 0
        self.max_ms = 0.0
        self._window: deque[tuple[float, float]] = deque(maxlen=MAX_WINDOW)

    def add(self, ended_at: float, seconds: float) -> None:
        """Adds one duration; `ended_at` is monotonic."""
        ms = seconds * 1000
        self.count += 1
        if ms > self.max_ms:
            self.max_ms = ms
        self._window.append((ended_at, ms))
        self.histogram.add(seconds)

    @property
    def mean_ms(self) -> float:
        return self.histogram.sum * 1000 / self.count if self.count else 0.0

    def quantiles_ms(self, *percents: int) -> list[float]:
        """Quantiles of the window by nearest rank, so each is a measured value."""
        oldest = monotonic() - WINDOW_SECONDS
        latest = sorted(ms for ended_at, ms in self._window if ended_at >= oldest)
        count = len(latest)
        return [latest[-(-count * percent // 100) - 1] if count else 0.0 for percent in percents]


class Allowance:
    """At most `number` of something in each second that begins with the first of them."""

    def __init__(self, number: int) -> None:
        self._number = self._left = number
        self._began = -inf

    def take(self, now: float) -> bool:
        """Whether one more is allowed at `now` (monotonic)."""
        if now - self._began >= 1:
            self._began, self._left = now, self._number
        self._left -= 1
        return self._left >= 0


class Connections:
    """Connected clients; `open` is the server's own collection of them."""

    def __init__(self) -> None:
        self.open: Sized = ()
        self.max = sys.maxsize
        self.refused = 0
        self.is_out_of_files = False
        self.out_of_files_checks = 0  # one check a second

    @property
    def is_full(self) -> bool:
        """Whether the next client to connect is refused."""
        return self.is_out_of_files or len(self.open) >= self.max


class Metrics:
    """The counts of one service since its start."""

    def __init__(self) -> None:
        self.instance = token_hex(4)  # different after every start
        self.started = monotonic()
        self.heartbeats = Durations(HEARTBEAT_SECONDS)
        self.heartbeat_statements = 0
        self.heartbeats_failed_closed = 0
        self.heartbeats_refused = 0
        self.heartbeats_overloaded = 0
        self.refusals: Counter[str] = Counter()  # of heartbeats, by reason
        self.refused_sample: dict[str, object] = {}  # one of them, for the log
        self.unauthenticated: Counter[str] = Counter()  # requests of every endpoint, by reason
        self.slow_lines = Allowance(MAX_SLOW_LINES)
        self.verdicts = {"allowed": 0, "warning_15": 0, "warning_5": 0, "blocked": 0}
        self.batch_sizes = Histogram(BATCH_SIZES)
        self.reports = Durations(REPORT_SECONDS)
        self.report_statements = 0
        self.standby_reads: Counter[str] = Counter(
            dict.fromkeys(("answered", "refused", "failed", "skipped"), 0)
        )
        self.invalidations: Counter[str] = Counter()
        self.pin_attempts = {"right": 0, "wrong": 0, "locked": 0, "refused": 0, "failed": 0}
        self.pin_lockouts = 0
        self.pin_seconds = Histogram(PIN_SECONDS)
        self.deletions: Counter[str] = Counter(done=0, refused=0, failed=0)
        self.retention_runs: Counter[str] = Counter(done=0, elsewhere=0, refused=0, failed=0)
        self.webhook_deliveries: Counter[str] = Counter(
            dict.fromkeys(("delivered", "refused", "timed_out", "lost", "unreachable"), 0)
        )
        self.webhook_events_parked = 0
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.failures = {"own": 0, "database": 0, "deadline": 0}
        self.lag_seconds = Histogram(LAG_SECONDS)
        self.max_lag_seconds = 0.0
        self.connections = Connections()

    @property
    def heartbeats_taken(self) -> int:
        """Heartbeats that cost statements: those counted, refused or failed closed."""
        return self.heartbeats.count + self.heartbeats_refused
