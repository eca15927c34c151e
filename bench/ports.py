"""Ports for servers whose port is chosen before they start."""

import os
import socket
from collections import deque
from typing import Final

RESERVED_MAX: Final = 256

_reserved: deque[int] = deque()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on and that no other program is given.

    A socket stays bound to it: the kernel then gives the port neither to a connection nor to a
    server that asks for any port. A server that asks for this one gets it, also after a restart,
    because both set SO_REUSEADDR, as servers do. Until it listens, connections are refused.
    The first ports are released after RESERVED_MAX others, so that open files stay bounded.
    """
    if len(_reserved) == RESERVED_MAX:
        os.close(_reserved.popleft())
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        _reserved.append(holder.detach())
        return port
