"""Both drivers get the same address of the database, and no error shows a password."""

import asyncio
import socket
import ssl
from contextlib import closing
from typing import Any

import psycopg
import pytest

from bench.ports import free_port
from service import database_url
from service.database import connector, pool
from service.database_errors import Unavailable
from service.settings import Settings

PASSWORDS = [
    "s@crt",
    "s:crt",
    "s/crt",
    "s#crt",
    "s%crt",
    "s?crt",
    "s crt",
    "a@b:c/d#e%f?g",
    "@",
    "%",
]


def encoded(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.mark.parametrize("password", [*PASSWORDS, "p&ss=w+rd", "пароль"])
def test_percent_encoded_password_is_decoded(password: str) -> None:
    for url in (
        f"postgresql://us%40er:{encoded(password)}@h:1/d",
        f"postgresql://h:1/d?user=us%40er&password={encoded(password)}",
    ):
        address = database_url.read(url)
        assert (address.user, address.password) == ("us@er", password)
        assert address.libpq == psycopg.conninfo.conninfo_to_dict(
            psycopg.conninfo.make_conninfo(**address.libpq)
        )
        assert password not in repr(address)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("rest", ["@h:1/d", "@h/d?sslmode=require", "@[::1]:2", "@h1,h2/d?x_y=1"])
def test_raw_password_is_read_or_refused_without_being_shown(password: str, rest: str) -> None:
    url = f"postgresql://user:{password}{rest}"
    try:
        address = database_url.read(url)
    except ValueError as error:
        text = str(error) + repr(error.__cause__) + repr(error.__context__)
        assert not any(part in text for part in ("crt", "s@", "b:c", "%f"))
    else:
        assert address.password == password


@pytest.mark.parametrize(
    ("url", "hosts", "database"),
    [
        ("postgresql://h/d", [("h", 5432)], "d"),
        ("postgres://h:6/d", [("h", 6)], "d"),
        ("postgresql://[::1]:6/d", [("::1", 6)], "d"),
        ("postgresql://[fe80::1%25eth0]/d", [("fe80::1%eth0", 5432)], "d"),
        ("postgresql://a,b:7,[::2]/d", [("a", 5432), ("b", 7), ("::2", 5432)], "d"),
        ("postgresql:///d?host=a,b&port=1,2", [("a", 1), ("b", 2)], "d"),
        ("postgresql:///d?host=a,b&port=3", [("a", 3), ("b", 3)], "d"),
        ("postgresql:///d?host=/run/pg&port=3", [("/run/pg", 3)], "d"),
        ("postgresql://%2Frun%2Fpg:4/d", [("/run/pg", 4)], "d"),
        ("postgresql:///?host=::1&dbname=d", [("::1", 5432)], "d"),
        ("postgresql://u@:3/d?host=/run/pg", [("/run/pg", 3)], "d"),
        ("postgresql://:3/d", [("localhost", 3)], "d"),
        ("postgresql://", [], ""),
        ("postgresql:///a%2Fb", [], "a/b"),
    ],
)
def test_a_url_names_hosts_and_database(
    url: str, hosts: list[tuple[str, int]], database: str
) -> None:
    address = database_url.read(url)
    assert (list(address.hosts), address.database) == (hosts, database)


@pytest.mark.parametrize(
    ("query", "phrase"),
    [
        ("search_path=games", "must not have the parameter search_path, which"),
        ("pgbouncer=true", "must not have the parameter pgbouncer, which"),
        ("service=prod", "must not have the parameter service, which"),
        ("hostaddr=10.0.0.1", "must not have the parameter hostaddr, which"),
        ("channel_binding=require", "must have a channel_binding that is one of disable, prefer"),
        ("gssencmode=require", "must have a gssencmode that is one of disable, prefer"),
        ("sslmode=verify_full", "must have an sslmode that is one of disable, allow, prefer, "),
        ("sslrootcert=/nowhere", "must have an sslrootcert that names a readable file"),
        ("passfile=/nowhere", "must have a passfile that names a readable file"),
        ("sslrootcert=system", "must have sslmode=verify-full with sslrootcert=system"),
        ("sslnegotiation=direct", "must have an sslmode of require or stricter with "),
        ("connect_timeout=1s", "must have a connect_timeout that is a whole number"),
        ("keepalives_idle=-1", "must have a keepalives_idle that is a whole number"),
        ("load_balance_hosts=yes", "must have a load_balance_hosts that is one of disable, random"),
        ("ssl_min_protocol_version=1.2", "must have an ssl_min_protocol_version that is one of "),
        ("sslmode=x&sslmode=disable", "must have an sslmode that is one of disable, allow, prefer"),
        ("host=other", "must not give the host twice"),
    ],
)
def test_parameter_that_one_driver_does_not_support_is_refused_by_name(
    query: str, phrase: str
) -> None:
    with pytest.raises(ValueError, match="must") as raised:
        database_url.read(f"postgresql://u:p@h/d?{query}")
    assert str(raised.value).startswith(phrase)


def settings_for(url: str) -> Settings:
    return Settings(database_url=url, jwt_secret="", request_timeout_seconds=5)


ACCEPTED = (
    "connect_timeout=9&keepalives=1&keepalives_idle=31&keepalives_interval=7&keepalives_count=4"
    "&tcp_user_timeout=9000&channel_binding=prefer&gssencmode=disable&sslmode=prefer"
    "&load_balance_hosts=random&target_session_attrs=read-write&application_name=us"
    "&options=-c%20search_path%3Dgames&ssl_min_protocol_version=TLSv1.2&sslcert=&passfile="
)


async def test_every_accepted_parameter_works_for_both_drivers(database_over_tcp: str) -> None:
    url = f"{database_over_tcp}?{ACCEPTED}"
    connection = await pool.connect(settings_for(url))
    try:
        assert isinstance(connection, connector.Socketed)
        kept = connection.socket
        assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [kept.getsockopt(socket.IPPROTO_TCP, option) for option in tcp] == [31, 7, 4]
        assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
        shown_settings = [
            await connection.fetchval(f"show {name}") for name in ("search_path", "jit")
        ]
        assert shown_settings == ["games", "off"]
        assert await connection.fetchval("show application_name") == "us"
    finally:
        await connection.close()
    libpq = psycopg.conninfo.make_conninfo(**database_url.read(url).libpq)
    assert await asyncio.to_thread(shown, libpq) == ("games", "us")


def shown(libpq: str) -> tuple[str, str]:
    with psycopg.connect(libpq) as opened:
        path = opened.execute("show search_path").fetchone()
        name = opened.execute("show application_name").fetchone()
    assert path is not None
    assert name is not None
    return path[0], name[0]


@pytest.fixture
async def database_over_tcp(database: str) -> Any:
    """A URL of the test's database at a TCP address, through a proxy to its socket."""
    address = database_url.read(database)
    folder, port = address.hosts[0]

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with closing(target):
                while data := await source.read(65536):
                    target.write(data)

        await asyncio.gather(pump(reader, here), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        bound = server.sockets[0].getsockname()[1]
        yield f"postgresql://{address.user}:s%40cret@127.0.0.1:{bound}/{address.database}"


async def test_hosts_are_shuffled_only_with_load_balance_hosts() -> None:
    url = "postgresql://" + ",".join(f"h{n}" for n in range(30)) + "/d"
    in_order = [place["host"] for place in connector.hosts(database_url.read(url))]
    assert in_order == [f"h{n}" for n in range(30)]
    address = database_url.read(f"{url}?load_balance_hosts=random")
    shuffled = [place["host"] for place in connector.hosts(address)]
    assert sorted(shuffled) == sorted(in_order) != shuffled


async def test_the_host_that_answered_last_is_tried_first(database: str) -> None:
    server = database_url.read(database)
    [(folder, port)] = server.hosts
    url = f"postgresql:///{server.database}?user={server.user}&host=/nowhere,{folder}&port=1,{port}"
    address = database_url.read(url)
    assert [place["host"] for place in connector.hosts(address)] == ["/nowhere", folder]
    (await pool.connect(Settings(database_url=url, jwt_secret=""))).terminate()
    assert [place["host"] for place in connector.hosts(address)] == [folder, "/nowhere"]


def test_system_certificates_are_used_with_verify_full() -> None:
    address = database_url.read("postgresql://h/d?sslmode=verify-full&sslrootcert=system")
    (arguments,) = connector.hosts(address)
    context = arguments["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert arguments["dsn"] is None


async def test_connection_error_never_shows_the_password() -> None:
    port = free_port()
    for url in (
        f"postgresql://u:{encoded('s@c:r/e#t')}@127.0.0.1:{port}/d",
        f"postgresql://u:{encoded('s@c:r/e#t')}@nowhere.invalid/d?sslmode=require",
    ):
        with pytest.raises(Unavailable) as raised:
            await pool.connect(settings_for(url))
        assert "s@c" not in repr(raised.value) + repr(raised.value.__cause__)
