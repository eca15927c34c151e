"""Reports the state of the process to the service manager that started it, such as systemd."""

import logging
import os
import socket
from typing import Final

logger = logging.getLogger("viewing_time.service_manager")

READY: Final = "READY=1"
RELOADING: Final = "RELOADING=1"
STOPPING: Final = "STOPPING=1"


def notify(state: str) -> None:
    """Sends `state` to the socket in NOTIFY_SOCKET; does nothing if there is none.

    A service manager that cannot be reached is logged: it stops the process after its own time-out.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name without a file, in the abstract namespace of Linux
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # the event loop never waits for the manager
            sender.sendto(state.encode(), address)
    except OSError as error:
        fields = {"state": state, "error": str(error)}
        logger.warning("service_manager_unreachable", extra={"fields": fields})
