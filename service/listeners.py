"""The sockets on which the service listens: bound before anything slow begins, by one process only.

The kernel drops a connection for which a socket has no room, and the client tries again after a
second. The event loop accepts one connection per turn from each socket. So the service listens on
several sockets with the same address, among which the kernel distributes the connections.

A service manager can bind the address instead, and pass the socket on. It keeps the socket while
the service restarts, so clients that connect meanwhile wait instead of being refused.
"""

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

LISTENERS: Final = 16
MAX_BACKLOG: Final = 4096  # of each socket
SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
FIRST_PASSED: Final = 3  # the file descriptor of the first passed socket
METRICS_NAME: Final = "metrics"  # FileDescriptorName= of the socket for METRICS_PORT
TCP: Final = (socket.AF_INET, socket.AF_INET6)


class PortTaken(Exception):
    """The service cannot listen on the address `where`; the message is two sentences.

    `variable` is the setting to change, `remedy` is how to change it.
    """

    def __init__(self, where: str, reason: str | None, variable: str, remedy: str) -> None:
        super().__init__(f"Cannot serve on {where}: {reason}. {remedy[0].upper()}{remedy[1:]}.")
        self.where, self.reason, self.variable, self.remedy = where, reason, variable, remedy


def bound(host: str, port: int, variable: str = "PORT") -> socket.socket:
    """A listening socket, bound before anything slow begins; raises PortTaken."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` has addresses of both families; clients in the field use IPv4.
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: not a possible host name
        reason = error.strerror if isinstance(error, OSError) else "not the name of a machine"
        raise PortTaken(where, reason, *_remedy(None, variable)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_BACKLOG)
    except OSError as error:
        listener.close()
        remedy = _remedy(error.errno, variable)
        raise PortTaken(where, error.strerror, *remedy) from error
    return listener


class PassedWrong(Exception):
    """A socket that the service manager passed cannot be used; the message is one sentence."""


class Passed(socket.socket):
    """A listening socket that the service manager has bound and keeps."""


def passed(variable: str, environment: Mapping[str, str]) -> Passed | None:
    """The socket that replaces PORT or METRICS_PORT; None if the service manager passed none.

    The socket for METRICS_PORT is named `metrics`, the one for PORT has any other name. Raises
    PassedWrong.
    """
    number = environment.get("LISTEN_FDS", "0")
    if environment.get("LISTEN_PID") != str(os.getpid()) or number == "0":
        return None
    if number not in ("1", "2"):
        raise PassedWrong(f"LISTEN_FDS must be 1, or 2 with METRICS_PORT, not {number[:80]!r}.")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (int(number) - len(names))
    found = [
        (descriptor, name)
        for descriptor, name in enumerate(names, FIRST_PASSED)
        if (name == METRICS_NAME) == (variable == "METRICS_PORT")
    ]
    if len(names) > int(number):
        raise PassedWrong(f"LISTEN_FDNAMES must have {number} names, not {len(names)}.")
    if len(found) > 1:
        raise PassedWrong(
            f"One socket can replace {variable}, not two; "
            f"the name of the socket for METRICS_PORT must be {METRICS_NAME!r}."
        )
    return _received(*found[0]) if found else None


def _received(descriptor: int, name: str) -> Passed:
    """The passed socket, under a descriptor of its own that no other program inherits."""
    try:
        os.set_inheritable(descriptor, False)
        found = Passed(fileno=os.dup(descriptor))
    except OSError as error:
        raise PassedWrong(
            f"File descriptor {descriptor} ({name}) cannot be used as a socket: {error.strerror}."
        ) from error
    is_stream = found.family in TCP and found.type == socket.SOCK_STREAM
    if is_stream and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return found
    found.close()
    raise PassedWrong(
        f"File descriptor {descriptor} ({name}) must be a listening TCP socket: "
        "ListenStream= with a port, and Accept=no."
    )


def opened(
    address: tuple[str, int], metrics: tuple[str, int], environment: Mapping[str, str]
) -> tuple[socket.socket, socket.socket | None]:
    """The sockets for HOST:PORT and METRICS_HOST:METRICS_PORT, passed or bound.

    The second one is None if its port is 0. Raises PassedWrong and PortTaken.
    """
    with ExitStack() as failing:
        listener = failing.enter_context(passed("PORT", environment) or bound(*address))
        scrape_listener: socket.socket | None = passed("METRICS_PORT", environment)
        if scrape_listener and not metrics[1]:
            scrape_listener.close()
            raise PassedWrong("METRICS_PORT must be set, because a socket for it was passed.")
        if metrics[1]:
            scrape_listener = scrape_listener or bound(*metrics, "METRICS_PORT")
        failing.pop_all()
    return listener, scrape_listener


def sharing(first: socket.socket, number: int = LISTENERS) -> list[socket.socket]:
    """The listening socket `first`, and others with its address: `number` in all.

    Another process cannot bind the address: it would have to share it from the start, while `first`
    was bound alone. A passed socket has one queue, which outlives this process.
    """
    if isinstance(first, Passed):
        return [first, *(first.dup() for _ in range(number - 1))]
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [first, *(_beside(first) for _ in range(number - 1))]


def max_waiting() -> int:
    """How many connections can wait until they are accepted; the kernel may lower the backlog."""
    try:
        lowered = int(SOMAXCONN.read_text())
    except OSError:  # a system without this file
        lowered = MAX_BACKLOG
    return LISTENERS * min(lowered, MAX_BACKLOG)


def _beside(first: socket.socket) -> socket.socket:
    listener = socket.socket(first.family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(first.getsockname())
        listener.listen(MAX_BACKLOG)
    except OSError:  # a system on which sockets cannot begin to share an address
        listener.close()
        return first.dup()
    return listener


def _remedy(number: int | None, variable: str) -> tuple[str, str]:
    """The setting to change after the system's error `number`, and how to change it."""
    if number == errno.EADDRINUSE:
        return variable, f"set {variable} to another"
    if number in (errno.EACCES, errno.EPERM):
        return (
            variable,
            f"set {variable} to 1024 or more, or allow this process to bind lower ports",
        )
    host = variable.replace("PORT", "HOST")
    remedy = f"set {host} to an address of this machine, such as 127.0.0.1, or to 0.0.0.0 for all"
    return host, remedy
