"""Opens connections: their hosts, settings, TLS and keep-alive.

A role or a database can have its own default for every setting. Direct connections override them:
the settings that the statements rely on are sent at the start of each connection (`ALWAYS`) or
right after it (`connection_prepare`). A pooler rejects most start parameters, so behind one
`in_force` checks the settings instead. `ops/database.md` lists every setting that can change the
meaning or the result of a statement.
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
# For cells of Citus. It has no generic plan for a statement on several tables. The driver looks up
# types in the catalogue, and Citus would compare each table there with those that it hides.
CITUS: Final = {
    "citus.allow_nested_distributed_execution": "on",  # functions that read tables, in statements
    "citus.override_table_visibility": "off",
    "citus.propagate_set_commands": "local",  # lock time-outs reach the node of a cell
    "plan_cache_mode": "auto",
}
# The host that the latest connection of each address leads to, which is tried first: an old primary
# that comes back as one must not get the connections of a service that has left it.
LATEST: Final[dict[object, tuple[str, int]]] = {}
# For heartbeats: a plan made while a table was small must not read all of it when it has grown.
BY_INDEX: Final = {"enable_seqscan": "off"}
# The socket option for each parameter of libpq, None where the system lacks it. asyncpg sets none.
KEEPALIVES: Final = {
    "keepalives_idle": getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None)),
    "keepalives_interval": getattr(socket, "TCP_KEEPINTVL", None),
    "keepalives_count": getattr(socket, "TCP_KEEPCNT", None),
    "tcp_user_timeout": getattr(socket, "TCP_USER_TIMEOUT", None),
}


def is_pooled(settings: Settings, *, direct: bool = False) -> bool:
    """Whether a connection leads to a pooler, which STATEMENT_CACHE_SIZE=0 declares.

    `direct` connections bypass it if DATABASE_DIRECT_URL is set.
    """
    return settings.statement_cache_size == 0 and not (direct and settings.database_direct_url)


def server_settings(
    settings: Settings,
    seconds: float | None = None,
    *,
    direct: bool = False,
    by_index: bool = False,
) -> dict[str, str]:
    """The settings that a connection is started with; its statements may take `seconds`.

    `by_index` is for statements that must find every row by an index.

    `lock_timeout` keeps a locked row from delaying the heartbeats that share a statement with it.
    Closing a connection does not stop its statement, so long statements also have
    `statement_timeout`. A pooler rejects unknown start parameters, so only the name is
    sent to it.
    """
    if is_pooled(settings, direct=direct):
        return {"application_name": NAME}
    lock_timeout = int(settings.request_timeout_seconds * 1000 / 4)
    started = {"application_name": NAME, **ALWAYS, "lock_timeout": str(lock_timeout)}
    if settings.cells_citus_url:
        started |= CITUS
    if settings.database_schema:
        started["search_path"] = settings.database_schema
    if by_index:
        started |= BY_INDEX
    if seconds is not None:
        started["statement_timeout"] = str(int(seconds * 1000))
    return started


class Socketed(Connection):
    """A connection with access to its socket."""

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self.socket = transport.get_extra_info("socket")


def hosts(address: Address) -> list[dict[str, Any]]:
    """The driver's arguments for each host of an address, in the order to try them."""
    hosts = list(address.hosts)
    if address.parameters.get("load_balance_hosts") == "random":
        random.shuffle(hosts)
    else:
        latest = LATEST.get(_place(address))
        hosts.sort(key=lambda host: host != latest)
    places: list[dict[str, Any]] = [{"host": host, "port": port} for host, port in hosts]
    return [{**place, **_driver(address)} for place in places or [{}]]


def _place(address: Address) -> object:
    return address.hosts, address.parameters.get("target_session_attrs")


async def to_host(
    address: Address, *, timeout: float, server_settings: dict[str, str], **options: Any
) -> Connection:
    """A connection to one host, within `timeout` or the connect_timeout of the address."""
    connection: Connection = await asyncpg.connect(
        **options,
        timeout=min(timeout, address.number("connect_timeout") or timeout),
        server_settings={**server_settings, **address.server_settings},
    )
    if address.hosts:
        LATEST[_place(address)] = options["host"], options["port"]
    if isinstance(connection, Socketed):
        _keep_alive(connection.socket, address)
    return connection


def _driver(address: Address) -> dict[str, Any]:
    """An address without its hosts as the driver's arguments."""
    names = ("passfile", "krbsrvname", "target_session_attrs")
    arguments: dict[str, Any] = {
        "dsn": address.tls_url,
        "user": address.user or None,
        "password": address.password or None,
        "database": address.database or None,
        **{name: address.parameters[name] for name in names if name in address.parameters},
    }
    if address.parameters.get("sslrootcert") == database_url.SYSTEM:
        arguments["ssl"] = _system_trust(address.parameters)
        arguments["direct_tls"] = address.parameters.get("sslnegotiation") == "direct"
    return arguments


def _system_trust(parameters: dict[str, str]) -> ssl.SSLContext:
    """The driver's context for sslmode=verify-full, but with the system's certificates."""
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
    """Enables TCP keep-alive as libpq does, to detect a peer that has vanished."""
    if connected.family == socket.AF_UNIX or address.parameters.get("keepalives") == "0":
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, option in KEEPALIVES.items():
        if option is not None and (value := address.number(name)):
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
