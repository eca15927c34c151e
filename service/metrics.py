"""What the process counts about itself; plain numbers, added to on the event loop."""

from collections import deque
from time import monotonic
from typing import Final

WINDOW_SECONDS: Final = 300.0
WINDOW_MOST: Final = 10_000


class Durations:
    """How long a kind of work took: mean and maximum since start, p95 of the latest window.

    The window is the last 5 minutes or the last 10,000 pieces of work, whichever is shorter.
    All figures are milliseconds.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW_MOST)

    def add(self, ended: float, seconds: float) -> None:
        """Adds one piece of work that ended at the monotonic instant `ended`."""
        took = seconds * 1000
        self.count += 1
        self.total_ms += took
        if took > self.max_ms:
            self.max_ms = took
        self._window.append((ended, took))

    @property
    def mean_ms(self) -> float:
        return self.total_ms / self.count if self.count else 0.0

    @property
    def p95_ms(self) -> float:
        oldest = monotonic() - WINDOW_SECONDS
        latest = sorted(took for ended, took in self._window if ended >= oldest)
        return latest[-(-len(latest) * 95 // 100) - 1] if latest else 0.0


class Metrics:
    """The counts of one process since its start."""

    def __init__(self) -> None:
        self.started = monotonic()
        self.heartbeats = Durations()
        self.heartbeat_statements = 0
        self.heartbeats_failed_closed = 0
        self.reports = Durations()
        self.report_statements = 0
        self.invalidations = 0
        self.faults = 0
