"""The sockets on which the service listens: bound before anything slow begins, by one process only.

The kernel drops a connection for which a socket has no room, and the client tries again after a
second. The event loop accepts one connection per turn from each socket. So the service listens on
several sockets with the same address, among which the kernel distributes the connections.
"""

import errno
import socket
from pathlib import Path
from typing import Final

LISTENERS: Final = 16
MAX_BACKLOG: Final = 4096  # of each socket
SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")


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


def sharing(first: socket.socket) -> list[socket.socket]:
    """The listening socket `first`, and others with its address.

    Another process cannot bind the address: it would have to share it from the start, while `first`
    was bound alone.
    """
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [first, *(_beside(first) for _ in range(LISTENERS - 1))]


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
