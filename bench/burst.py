"""Our own client that opens all its connections at once, and sends one request on each.

Latencies count from the first connection. There is no event loop: the client shares the cores with
the service, and a slow one would open the connections one after the other.
"""

import select
import socket
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.plan import (
    MAX_WAIT_SECONDS,
    Answers,
    Outcome,
    Plan,
    cpu_seconds,
    error_in,
    response_bytes,
)

RECEIVED_BYTES: Final = 65_536


class Player:
    """A connection on which one request is sent; it stays open."""

    def __init__(self, request: bytes) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self._request = request
        self._received = b""

    def proceed(self, events: int) -> str | None:
        """Sends or receives; returns the error once the player is done, empty without one."""
        try:
            if events & select.EPOLLOUT:
                self.socket.send(self._request)
                return None
            part = self.socket.recv(RECEIVED_BYTES)
        except OSError as error:
            return str(error)
        received = self._received = self._received + part
        length = response_bytes(received)
        if part and not (length and len(received) >= length):
            return None
        return error_in(received) if part else "closed by the server"


def run(plan: Plan) -> Outcome:
    """Sends each request of the plan on a connection of its own."""
    requests = Path(plan.requests).read_bytes().split(b"\0")[:-1]
    players = {player.socket.fileno(): player for player in map(Player, requests)}
    answers = Answers()
    waiting = len(players)
    plan.hold()
    with select.epoll() as poll:
        started_at, used = perf_counter(), cpu_seconds()
        for number, player in players.items():
            player.socket.connect_ex(("127.0.0.1", plan.port))
            poll.register(number, select.EPOLLOUT)
        while waiting:
            if perf_counter() > started_at + MAX_WAIT_SECONDS:
                raise TimeoutError(f"{waiting:,} responses are missing")
            for number, events in poll.poll(1, 1024):
                error = players[number].proceed(events)
                if error is not None:
                    answers.add(perf_counter() - started_at, error)
                    poll.unregister(number)
                    waiting -= 1
                elif events & select.EPOLLOUT:
                    poll.modify(number, select.EPOLLIN)
        outcome = answers.outcome(perf_counter() - started_at, cpu_seconds() - used)
    plan.hold()
    for player in players.values():
        player.socket.close()
    return outcome
