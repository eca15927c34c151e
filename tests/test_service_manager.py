"""The protocol between a service manager, such as systemd, and the process that it starts."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from bench.ports import free_port
from service.listeners import PassedWrong, opened, passed
from service.service_manager import READY, STOPPING, notify
from tests.conftest import ROOT, logged
from tests.family import HEARTBEAT, SECRET, Family
from tests.processes import dying_with_parent

# Becomes the service with the file descriptors in sys.argv as 3 and 4, as systemd starts it.
START = """
import fcntl, os, sys
descriptors = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:]]
for number, descriptor in enumerate(descriptors, 3):
    os.dup2(descriptor, number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "service", "serve"])
"""


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """A socket that receives what processes with NOTIFY_SOCKET=`address` report."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        receiver.settimeout(60)
        yield receiver


@contextmanager
def listening(number: int = 1) -> Iterator[list[socket.socket]]:
    """Sockets that a service manager has bound."""
    with ExitStack() as all_open:
        yield [
            all_open.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]


@contextmanager
def activated(
    dsn: str, notify_socket: str, sockets: list[socket.socket]
) -> Iterator[subprocess.Popen[bytes]]:
    """A service process that gets `sockets`; PORT and METRICS_PORT are others."""
    descriptors = [each.fileno() for each in sockets]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *map(str, descriptors)],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": dsn,
            "JWT_SECRET": SECRET,
            "PORT": str(free_port()),
            "METRICS_PORT": str(free_port()),
            "SHUTDOWN_DRAIN_SECONDS": "0",
            "NOTIFY_SOCKET": notify_socket,
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": "http:metrics",
        },
        pass_fds=descriptors,
        preexec_fn=dying_with_parent(),
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


async def test_clients_wait_while_a_service_with_a_passed_socket_restarts(
    database: str, family: Family
) -> None:
    """The manager learns when the service serves and when it stops."""
    address = f"@viewing-time-{uuid4().hex}"
    with manager(address) as reports, listening(2) as sockets:
        url, metrics = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets)

        async def reported() -> bytes:
            return await asyncio.to_thread(reports.recv, 100)

        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            with activated(database, address, sockets) as process:
                assert await reported() == READY.encode()
                assert (await client.get("/health/live")).status_code == 200
                assert (await client.get(f"{metrics}/metrics")).status_code == 200
                assert (await client.get("/metrics")).status_code == 404
                process.send_signal(signal.SIGTERM)
                assert await reported() == STOPPING.encode()
                assert await asyncio.to_thread(process.wait, 60) == 0
            beat = client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
            waiting = asyncio.create_task(beat)
            with activated(database, address, sockets):
                assert (await waiting).json()["used_minutes"] == 0.5


@pytest.mark.parametrize("is_abstract", [False, True])
def test_state_is_sent_to_the_socket_of_the_manager(
    is_abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"@viewing-time-{uuid4().hex}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as reports:
        notify(READY)
        assert reports.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY)
    assert caplog.records == []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify(READY)
    assert logged(caplog, "service_manager_unreachable") == [
        {"state": "READY=1", "error": "[Errno 2] No such file or directory"}
    ]


def environment(number: str, names: str | None = None) -> dict[str, str]:
    """The variables by which a service manager passes sockets to this process."""
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": number}
    return variables if names is None else {**variables, "LISTEN_FDNAMES": names}


def test_sockets_for_another_process_are_ignored() -> None:
    for pid in ({}, {"LISTEN_PID": "1"}):
        assert passed("PORT", {"LISTEN_FDS": "1", **pid}) is None
    assert passed("PORT", environment("0")) is None


@pytest.mark.parametrize(
    ("number", "names", "sentence"),
    [
        ("many", None, "LISTEN_FDS must be 1, or 2 with METRICS_PORT, not 'many'."),
        ("3", "a:b:metrics", "LISTEN_FDS must be 1, or 2 with METRICS_PORT, not '3'."),
        ("1", "http:metrics", "LISTEN_FDNAMES must have 1 names, not 2."),
        (
            "2",
            "http:metrik",
            "One socket can replace PORT, not two; the name of the socket for METRICS_PORT must be "
            "'metrics'.",
        ),
        (
            "2",
            None,
            "One socket can replace PORT, not two; the name of the socket for METRICS_PORT must be "
            "'metrics'.",
        ),
    ],
)
def test_variables_that_name_no_possible_sockets_are_refused(
    number: str, names: str | None, sentence: str
) -> None:
    with pytest.raises(PassedWrong) as refused:
        passed("PORT", environment(number, names))
    assert str(refused.value) == sentence


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Sockets whose first descriptor is the one that the service takes as the first passed one."""
    with listening(2) as sockets:
        monkeypatch.setattr("service.listeners.FIRST_PASSED", sockets[0].fileno())
        yield sockets


def test_a_passed_socket_is_used_instead_of_the_port(third: list[socket.socket]) -> None:
    with listening() as [taken]:
        listener, metrics = opened(taken.getsockname(), ("127.0.0.1", 0), environment("1", "http"))
    assert metrics is None
    with listener:
        assert listener.getsockname() == third[0].getsockname()
        assert not listener.get_inheritable()
    assert third[0].fileno() > 0  # closing it here leaves it open for the manager


def test_a_socket_for_metrics_needs_metrics_port(third: list[socket.socket]) -> None:
    with pytest.raises(PassedWrong) as refused:
        opened(("127.0.0.1", free_port()), ("127.0.0.1", 0), environment("1", "metrics"))
    assert str(refused.value) == "METRICS_PORT must be set, because a socket for it was passed."


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_STREAM),  # not listening, as with Accept=yes
        (socket.AF_UNIX, socket.SOCK_STREAM),
    ],
)
def test_a_socket_that_is_not_for_http_is_refused(
    family: socket.AddressFamily, kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(family, kind) as wrong:
        monkeypatch.setattr("service.listeners.FIRST_PASSED", wrong.fileno())
        with pytest.raises(PassedWrong) as refused:
            passed("PORT", environment("1", "http"))
        assert str(refused.value) == (
            f"File descriptor {wrong.fileno()} (http) must be a listening TCP socket: "
            "ListenStream= with a port, and Accept=no."
        )


def test_a_descriptor_that_is_not_a_socket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "file").open("w") as wrong:
        number = wrong.fileno()
        monkeypatch.setattr("service.listeners.FIRST_PASSED", number)
        with pytest.raises(PassedWrong, match="Socket operation on non-socket"):
            passed("PORT", environment("1"))
    with pytest.raises(PassedWrong, match="Bad file descriptor"):
        passed("PORT", environment("1"))
