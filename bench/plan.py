"""The load that a client is to send, and the outcome that it has measured."""

import resource
import sys
from collections.abc import Sequence
from math import ceil
from typing import Final

import msgspec

PROBE: Final = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
MAX_WAIT_SECONDS: Final = 120.0  # for missing responses; then the run fails


class Plan(msgspec.Struct, frozen=True):
    """The load for a port of 127.0.0.1.

    `requests` is a file of requests, each followed by a zero byte. With `seconds`, every connection
    always has one request in flight. With `seconds` and `rate`, `rate` requests are sent a second
    at random moments, independent of the responses. With neither, each request is sent once. With
    `fresh_keys`, each request gets a new idempotency key. With `at_once`, each request is sent once
    on a connection of its own, and all connections are opened at the same moment.

    With `is_held`, the client prints a line and waits for one, once after it has connected and once
    before it closes the connections, so that neither is part of what is measured.
    """

    port: int
    requests: str
    connections: int
    seconds: float = 0.0
    rate: float = 0.0
    fresh_keys: bool = False
    at_once: bool = False
    is_held: bool = False

    def hold(self) -> None:
        """Waits for the process that measures, before the first request and after the last."""
        if self.is_held:
            print(flush=True)
            sys.stdin.readline()


class Outcome(msgspec.Struct, frozen=True):
    """The number of responses, the number of errors among them, and the latencies.

    `client_us` is the client's own CPU time for each response, in microseconds; 0: not measured.
    """

    completed: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    highest_ms: float
    first_ms: float = 0.0
    first_error: str = ""
    client_us: float = 0.0

    @property
    def per_second(self) -> float:
        return self.completed / self.seconds


def percentile(ranked: Sequence[float], share: float) -> float:
    """The nearest rank in ascending values: always a measured value."""
    return ranked[max(0, ceil(len(ranked) * share / 100) - 1)]


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of clients that ran at the same time; the latencies are the worst of them."""
    completed = sum(each.completed for each in outcomes)
    return Outcome(
        completed=completed,
        errors=sum(each.errors for each in outcomes),
        seconds=max(each.seconds for each in outcomes),
        p50_ms=max(each.p50_ms for each in outcomes),
        p95_ms=max(each.p95_ms for each in outcomes),
        p99_ms=max(each.p99_ms for each in outcomes),
        p999_ms=max(each.p999_ms for each in outcomes),
        highest_ms=max(each.highest_ms for each in outcomes),
        first_ms=max(each.first_ms for each in outcomes),
        first_error=next((each.first_error for each in outcomes if each.errors), ""),
        client_us=sum(each.client_us * each.completed for each in outcomes) / completed,
    )


class Answers:
    """The latencies and the errors of the responses so far."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors = 0
        self.first_error = ""

    def add(self, latency: float, error: str) -> None:
        self.latencies.append(latency)
        if error:
            self.errors += 1
            self.first_error = self.first_error or error

    def outcome(self, seconds: float, cpu_seconds: float) -> Outcome:
        ranked = sorted(latency * 1000 for latency in self.latencies)
        return Outcome(
            completed=len(ranked),
            errors=self.errors,
            seconds=seconds,
            p50_ms=percentile(ranked, 50),
            p95_ms=percentile(ranked, 95),
            p99_ms=percentile(ranked, 99),
            p999_ms=percentile(ranked, 99.9),
            highest_ms=ranked[-1],
            first_ms=self.latencies[0] * 1000,
            first_error=self.first_error,
            client_us=cpu_seconds * 1e6 / len(ranked),
        )


def response_bytes(received: bytes) -> int:
    """The length of the response that starts in `received`; 0 while its head is incomplete."""
    head = received.find(b"\r\n\r\n")
    if head < 0:
        return 0
    start = received.lower().index(b"content-length:") + 15
    return head + 4 + int(received[start : received.index(b"\r\n", start)])


def error_in(response: bytes) -> str:
    """The response, if it is an error or blocks; else an empty text."""
    is_good = response.startswith(b"HTTP/1.1 200") and b'"blocked"' not in response
    return "" if is_good else response.decode()


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
