"""Our own client for requests that are sent when they are due, independent of the responses.

It has sockets and `epoll` instead of an event loop: the timers of the event loop have milliseconds
only, and a request costs less, so that the servers have the cores.
"""

import select
import socket
from collections import deque
from itertools import cycle
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Final

from bench.plan import (
    MAX_WAIT_SECONDS,
    PROBE,
    Answers,
    Outcome,
    Plan,
    cpu_seconds,
    error_in,
    response_bytes,
)

RECEIVED_BYTES: Final = 65_536


class Connection:
    """A connection with at most one request in flight; `due` is when that was due."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), MAX_WAIT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.in_flight = False
        self._received = b""
        self._length = 0

    def send(self, request: bytes, due: float) -> None:
        self.due, self.in_flight = due, True
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The response, or None while it is incomplete; raises OSError if the server has closed."""
        data = self.socket.recv(RECEIVED_BYTES)
        if not data:
            raise ConnectionResetError("closed by the server")
        received = self._received = self._received + data
        length = self._length = self._length or response_bytes(received)
        if not length or len(received) < length:
            return None
        self._received, self._length, self.in_flight = b"", 0, False
        return received

    def probe(self) -> None:
        """Sends a health check and waits for the response, so that the server has accepted."""
        self.send(PROBE, 0.0)
        while self.receive() is None:
            pass


class OpenLoop:
    """Sends requests when they are due; waiting for a free connection counts as latency.

    A connection that the server closed while it was idle is opened again, which counts too.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = cycle(Path(plan.requests).read_bytes().split(b"\0")[:-1])
        self.answers = Answers()
        self.free: deque[Connection] = deque()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.by_file: dict[int, Connection] = {}
        self.epoll = select.epoll()

    def run(self) -> Outcome:
        """Sends `rate` requests a second for `seconds`, and waits for the last response."""
        for _ in range(self.plan.connections):
            connection = self.connect()
            connection.probe()
            self.free.append(connection)
        try:
            self.plan.hold()
            started_at, used = perf_counter(), cpu_seconds()
            self.send_all(started_at)
            outcome = self.answers.outcome(perf_counter() - started_at, cpu_seconds() - used)
            self.plan.hold()
            return outcome
        finally:
            self.epoll.close()
            for connection in self.by_file.values():
                connection.socket.close()

    def send_all(self, begun: float) -> None:
        draw, number = Random(1), round(self.plan.rate * self.plan.seconds)
        dues = deque(sorted(begun + draw.random() * self.plan.seconds for _ in range(number)))
        ends = begun + self.plan.seconds + MAX_WAIT_SECONDS
        while len(self.answers.latencies) < number:
            now = perf_counter()
            if now > ends:
                raise TimeoutError(f"{number - len(self.answers.latencies):,} responses missing")
            while dues and dues[0] <= now:
                self.arrive(next(self.requests), dues.popleft())
            # `select` on the descriptor of `epoll` waits microseconds, `epoll` itself milliseconds.
            pause = (dues[0] if dues else now + 1) - perf_counter()
            if select.select([self.epoll], (), (), max(0.0, pause))[0]:
                for file, _ in self.epoll.poll(0):
                    self.answered(self.by_file[file])

    def arrive(self, request: bytes, due: float) -> None:
        if self.free:
            self.send(self.free.popleft(), request, due)
        else:
            self.waiting.append((request, due))

    def send(self, connection: Connection, request: bytes, due: float) -> None:
        if connection.socket.fileno() < 0:
            connection = self.connect()
        try:
            connection.send(request, due)
        except OSError as error:
            self.lost(connection, error)
            self.free.append(connection)

    def connect(self) -> Connection:
        connection = Connection(self.plan.port)
        self.by_file[connection.socket.fileno()] = connection
        self.epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def answered(self, connection: Connection) -> None:
        was_in_flight = connection.in_flight
        try:
            response = connection.receive()
        except OSError as error:
            self.lost(connection, error)
            if not was_in_flight:  # still among the free ones
                return
        else:
            if response is None:
                return
            self.answers.add(perf_counter() - connection.due, error_in(response))
        if self.waiting:
            self.send(connection, *self.waiting.popleft())
        else:
            self.free.append(connection)

    def lost(self, connection: Connection, error: OSError) -> None:
        """Closes a connection that the server has closed; its next use opens another."""
        del self.by_file[connection.socket.fileno()]
        connection.socket.close()
        if connection.in_flight:
            self.answers.add(perf_counter() - connection.due, f"connection lost: {error}")
