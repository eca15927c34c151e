"""A client that opens all its connections at once, and sends one request on each.

`python -m bench.burst PLAN` takes a `load.Plan` as JSON and prints a `load.Outcome`. Latencies
count from the first connection. It has no event loop: it shares the cores with the service, and a
slow client would open the connections one after the other.
"""

import select
import socket
import sys
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec

from bench.load import MAX_WAIT_SECONDS, Outcome, Plan, percentile

LENGTH: Final = b"content-length:"
READY: Final = b"HTTP/1.1 200"


def run(plan: Plan) -> Outcome:
    """Sends each request of the plan on a connection of its own."""
    requests = Path(plan.requests).read_bytes().split(b"\0")[:-1]
    connections = {}
    for request in requests:
        connection = socket.socket()
        connection.setblocking(False)
        connections[connection.fileno()] = (connection, request)
    latencies: list[float] = []
    failures: list[str] = []
    received = dict.fromkeys(connections, b"")
    with select.epoll() as poll:
        started_at = perf_counter()
        for number, (connection, _) in connections.items():
            connection.connect_ex(("127.0.0.1", plan.port))
            poll.register(number, select.EPOLLOUT)
        while received:
            if perf_counter() - started_at > MAX_WAIT_SECONDS:
                raise TimeoutError(f"{len(received):,} responses are missing")
            for number, events in poll.poll(1, 1024):
                connection, request = connections[number]
                try:
                    if events & select.EPOLLOUT:
                        connection.send(request)
                        poll.modify(number, select.EPOLLIN)
                        continue
                    part = connection.recv(65_536)
                except OSError as error:
                    failures.append(str(error))
                    part = b""
                received[number] += part
                if part and not _is_whole(received[number]):
                    continue
                latencies.append(perf_counter() - started_at)
                answer = received.pop(number)
                poll.unregister(number)
                if not answer.startswith(READY) or b'"blocked"' in answer:
                    failures.append(answer.decode() or "connection lost")
        seconds = perf_counter() - started_at
    for connection, _ in connections.values():
        connection.close()
    return _outcome(sorted(latency * 1000 for latency in latencies), seconds, failures)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(LENGTH)[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def _outcome(ranked: list[float], seconds: float, failures: list[str]) -> Outcome:
    return Outcome(
        completed=len(ranked),
        errors=len(failures),
        seconds=seconds,
        p50_ms=percentile(ranked, 50),
        p95_ms=percentile(ranked, 95),
        p99_ms=percentile(ranked, 99),
        p999_ms=percentile(ranked, 99.9),
        highest_ms=ranked[-1],
        first_ms=ranked[0],
        first_error=failures[0] if failures else "",
    )


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(run(plan)))
