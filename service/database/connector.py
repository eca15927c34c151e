"""How a connection is made: to which host, with which settings in force, and kept alive.

A role or a database can have its own defaults for every setting. On direct connections they must
not matter, so what the statements rely on is sent with the start of each connection (`ALWAYS`), or
set right after it (`connection_prepare`). A pooler refuses most start parameters: behind one,
`in_force` looks at what is in force instead. `ops/database.md` lists every setting that can change
the meaning or the result of a statement, and what is done about it.
"""

import random
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from service import database_url
from service.database_url import Address
from service.settings import Settings

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

NAME: Final = "viewing-time"
ALWAYS: Final = {
    "datestyle": "ISO, MDY",
    "default_table_access_method": "heap",
    "default_transaction_isolation": "read committed",
    "exit_on_error": "off",
    "idle_in_transaction_session_timeout": "60000",
    "intervalstyle": "postgres",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "timezone": "UTC",
}
# By the names that libpq gives them; asyncpg sets none by itself.
KEEPALIVES: Final = {
    "keepalives_idle": getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None)),
    "keepalives_interval": getattr(socket, "TCP_KEEPINTVL", None),
    "keepalives_count": getattr(socket, "TCP_KEEPCNT", None),
    "tcp_user_timeout": getattr(socket, "TCP_USER_TIMEOUT", None),
}


def is_pooled(settings: Settings, *, direct: bool = False) -> bool:
    """Whether a connection leads to a pooler (STATEMENT_CACHE_SIZE=0 says that there is one).

    `direct` connections go around it, where DATABASE_DIRECT_URL says how.
    """
    return settings.statement_cache_size == 0 and not (direct and settings.database_direct_url)


def server_settings(
    settings: Settings, seconds: float | None = None, *, direct: bool = False
) -> dict[str, str]:
    """The settings that a connection is started with, one whose statements may take `seconds` too.

    Compiling (`jit`) costs more than any statement here. `lock_timeout` keeps a locked row
    from holding up the beats that share a statement with it. A statement that is no longer waited
    for must not go on and commit, which ending its connection does not stop: where one has long
    enough for that to matter, the server is told how long. A pooler refuses start parameters that
    it does not know, so it gets the name only.
    """
    if is_pooled(settings, direct=direct):
        return {"application_name": NAME}
    lock_timeout = int(settings.request_timeout_seconds * 1000 / 4)
    chosen = {"application_name": NAME, **ALWAYS, "lock_timeout": str(lock_timeout)}
    if seconds is not None:
        chosen["statement_timeout"] = str(int(seconds * 1000))
    return chosen


class Socketed(Connection):
    """A connection that knows its socket."""

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self.socket = transport.get_extra_info("socket")


def hosts(address: Address) -> list[dict[str, Any]]:
    """The driver's arguments for each host of an address, in the order to try them."""
    places = [{"host": host, "port": port} for host, port in address.hosts]
    if address.parameters.get("load_balance_hosts") == "random":
        random.shuffle(places)
    return [{**place, **_driver(address)} for place in places or [{}]]


async def to_host(
    address: Address, *, timeout: float, server_settings: dict[str, str], **options: Any
) -> Connection:
    """A connection to one host, within `timeout` or the connect_timeout of the address."""
    connection: Connection = await asyncpg.connect(
        **options,
        timeout=min(timeout, address.number("connect_timeout") or timeout),
        server_settings={**server_settings, **address.server_settings},
    )
    if isinstance(connection, Socketed):
        _keep_alive(connection.socket, address)
    return connection


def _driver(address: Address) -> dict[str, Any]:
    """An address without its hosts as the driver's arguments."""
    names = ("passfile", "krbsrvname", "target_session_attrs")
    chosen: dict[str, Any] = {
        "dsn": address.tls_url,
        "user": address.user or None,
        "password": address.password or None,
        "database": address.database or None,
        **{name: address.parameters[name] for name in names if name in address.parameters},
    }
    if address.parameters.get("sslrootcert") == database_url.SYSTEM:
        chosen["ssl"] = _trusting_the_system(address.parameters)
        chosen["direct_tls"] = address.parameters.get("sslnegotiation") == "direct"
    return chosen


def _trusting_the_system(parameters: dict[str, str]) -> ssl.SSLContext:
    """What the driver would make of sslmode=verify-full, with the system's certificates."""
    context = ssl.create_default_context()
    if crl := parameters.get("sslcrl"):
        context.load_verify_locations(cafile=crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if certificate := parameters.get("sslcert"):
        password = parameters.get("sslpassword", "")
        context.load_cert_chain(certificate, parameters.get("sslkey"), lambda: password)
    for name, bound in (("minimum_version", "min"), ("maximum_version", "max")):
        if version := parameters.get(f"ssl_{bound}_protocol_version"):
            setattr(context, name, ssl.TLSVersion[version.replace(".", "_")])
    return context


def _keep_alive(connected: socket.socket, address: Address) -> None:
    """Has the system notice a peer that is gone without a word, as libpq does."""
    if connected.family == socket.AF_UNIX or address.parameters.get("keepalives") == "0":
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, option in KEEPALIVES.items():
        if option is not None and (value := address.number(name)):
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
