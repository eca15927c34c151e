"""Ports that tests and measurements give to servers (bench/ports.py)."""

import socket
from pathlib import Path

import pytest

from bench.ports import RESERVED_MAX, free_port


def test_port_is_given_to_nobody_else() -> None:
    port = free_port()

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_server_gets_its_port_again_and_again() -> None:
    address = ("127.0.0.1", free_port())

    for _ in range(3):
        with socket.create_server(address), socket.create_connection(address):
            pass  # the connection leaves the port in TIME_WAIT


def test_connections_are_refused_until_a_server_listens() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free_port()))


def test_open_files_are_bounded() -> None:
    for _ in range(RESERVED_MAX):
        free_port()
    held = len([*Path("/proc/self/fd").iterdir()])

    for _ in range(10):
        free_port()

    assert len([*Path("/proc/self/fd").iterdir()]) == held
