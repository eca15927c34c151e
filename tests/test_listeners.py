"""The listening sockets: room for every player that reconnects, and one process for an address."""

import asyncio
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service.listeners import LISTENERS, PortTaken, bound, max_waiting, sharing
from tests.conftest import needs_files, served

PLAYERS = 5_000
ESTABLISHED = 1  # the first byte of the kernel's `tcp_info`


@contextmanager
def connecting(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Sockets that have begun to connect at the same moment."""
    with ExitStack() as opened:
        players = [opened.enter_context(socket.socket()) for _ in range(number)]
        for player in players:
            player.setblocking(False)
            player.connect_ex(("127.0.0.1", port))
        yield players


def established(players: list[socket.socket]) -> int:
    """How many sockets the kernel has connected at their first attempt."""
    return sum(
        player.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
        for player in players
    )


async def test_no_player_is_dropped_when_all_reconnect_at_once(database: str) -> None:
    """The process is stopped meanwhile: however slow it is, a connection has room to wait."""
    needs_files(PLAYERS + 500)
    if max_waiting() < PLAYERS * 1.5:
        pytest.skip(f"the kernel lets only {max_waiting():,} connections wait")
    async with served(database) as service:
        port = int(service.url.rpartition(":")[2])
        service.process.send_signal(signal.SIGSTOP)
        try:
            with connecting(port, PLAYERS) as players:
                assert established(players) == PLAYERS
                service.process.send_signal(signal.SIGCONT)
                answers = await asyncio.to_thread(ask_all, players)
        finally:
            service.process.send_signal(signal.SIGCONT)
    assert answers == PLAYERS


def ask_all(players: list[socket.socket]) -> int:
    """Sends a request on every connection; returns the number of answers within a minute."""
    waiting = {player.fileno(): player for player in players}
    for player in players:
        player.send(b"GET /health/live HTTP/1.1\r\nHost: service.test\r\n\r\n")
    ends_at = time.monotonic() + 60
    with select.epoll() as poll:
        for number in waiting:
            poll.register(number, select.EPOLLIN)
        while waiting and time.monotonic() < ends_at:
            for number, _ in poll.poll(1):
                answer = waiting.pop(number).recv(4096)
                poll.unregister(number)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
    return len(players) - len(waiting)


def test_connections_are_distributed_among_sockets_of_their_own() -> None:
    with ExitStack() as opened:
        first = opened.enter_context(bound("127.0.0.1", 0))
        listeners = [opened.enter_context(each) for each in sharing(first)]
        assert len({each.fileno() for each in listeners}) == LISTENERS
        with connecting(first.getsockname()[1], 500) as players:
            assert established(players) == 500
            accepted = [accept_all(each) for each in listeners]
    assert sum(accepted) == 500
    assert all(accepted)


def accept_all(listener: socket.socket) -> int:
    """Accepts the connections that wait at a socket; returns their number."""
    listener.setblocking(False)
    number = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return number
        number += 1


def test_an_address_that_is_shared_here_is_taken_for_others() -> None:
    with ExitStack() as opened:
        first = opened.enter_context(bound("127.0.0.1", 0))
        listeners = [opened.enter_context(each) for each in sharing(first)]
        port = first.getsockname()[1]
        with pytest.raises(PortTaken):
            bound("127.0.0.1", port)
        first.close()
        with pytest.raises(PortTaken):
            bound("127.0.0.1", port)
        for listener in listeners:
            listener.close()
        bound("127.0.0.1", port).close()


def test_a_system_that_does_not_share_addresses_has_one_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = bound("127.0.0.1", 0)

    def refuse(listener: socket.socket, address: object) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with ExitStack() as opened:
        listeners = [opened.enter_context(each) for each in sharing(first)]
        assert len(listeners) == LISTENERS
        assert {each.getsockname() for each in listeners} == {first.getsockname()}
