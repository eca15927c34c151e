"""Parses DATABASE_URL, the same way for both drivers.

asyncpg serves and psycopg (libpq) migrates, and they parse a URL differently: asyncpg passes
unknown parameters to the server as settings, libpq rejects them. Both quote parts of a URL in their
errors, even passwords. So neither receives the URL. The parameters that are accepted here
work for both; all others are refused with a sentence that quotes only the names of parameters.
"""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlencode

import msgspec

SHAPE: Final = "must look like postgresql://user:password@host:5432/database"
ENCODED: Final = f"{SHAPE}; percent-encode special characters in the password"
SCHEMES: Final = ("postgresql://", "postgres://")
SERVERS: Final = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
TLS_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")  # Python warns of older ones
# The values that both drivers support.
CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "target_session_attrs": SERVERS,
    "load_balance_hosts": ("disable", "random"),
    "keepalives": ("0", "1"),
    # asyncpg supports neither channel binding nor GSSAPI encryption, so they cannot be required.
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
}
NUMBERS: Final = (
    "connect_timeout",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
TEXTS: Final = ("sslpassword", "application_name", "options", "krbsrvname")
PLACES: Final = ("host", "port", "user", "password", "dbname")
SYSTEM: Final = "system"


class Address(msgspec.Struct, frozen=True):
    """The address of a database. The driver has a default for every absent or empty part.

    `hosts` are names, addresses or folders of Unix sockets, each with its port.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    database: str
    parameters: dict[str, str]

    def __repr__(self) -> str:
        """Without the password, for tracebacks."""
        return f"Address(hosts={self.hosts}, database={self.database!r})"

    def number(self, name: str) -> int | None:
        """The value of a parameter that is a number."""
        text = self.parameters.get(name)
        return None if text is None else int(text)

    @property
    def tls_url(self) -> str | None:
        """A URL with the parameters of TLS only, which asyncpg reads from nowhere else."""
        tls = {name: text for name, text in self.parameters.items() if name.startswith("ssl")}
        if not tls or tls.get("sslrootcert") == SYSTEM:
            return None
        return f"postgresql://?{urlencode(tls)}"

    @property
    def server_settings(self) -> dict[str, str]:
        """The parameters that are settings of the server."""
        names = ("application_name", "options")
        return {name: self.parameters[name] for name in names if name in self.parameters}

    @property
    def libpq(self) -> dict[str, str]:
        """The parameters for libpq."""
        places = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port) for _, port in self.hosts),
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
        }
        return {**{name: value for name, value in places.items() if value}, **self.parameters}


def read(url: str) -> Address:
    """Parses a URL; raises ValueError with a phrase that quotes names of parameters only."""
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise ValueError(SHAPE)
    if re.search(r"[\0#]", url):
        raise ValueError(ENCODED)
    head, _, query = url.removeprefix(scheme).partition("?")
    authority, _, path = head.partition("/")
    # A separator here was meant as a part of the password.
    if re.search(r"[/@]", path):
        raise ValueError(ENCODED)
    credentials, _, hosts = authority.rpartition("@")
    if "@" in credentials:
        raise ValueError(ENCODED)
    user, _, password = credentials.partition(":")
    hosts, port = ("", hosts[1:]) if re.fullmatch(r":[0-9]+", hosts) else (hosts, "")
    places = {"host": hosts, "port": port, "user": user, "password": password, "dbname": path}
    places = {name: _decoded(value) for name, value in places.items() if value}
    parameters = _parameters(query)
    for name in PLACES:
        value = parameters.pop(name, "")
        if value and places.setdefault(name, value) != value:
            raise ValueError(f"must not give the {name} twice")
    _check_together(parameters)
    return Address(
        hosts=_hosts(places.get("host", ""), places.get("port", "")),
        user=places.get("user", ""),
        password=places.get("password", ""),
        database=places.get("dbname", ""),
        parameters=parameters,
    )


def _decoded(text: str) -> str:
    """Removes the percent-encoding; raises ValueError for an incomplete sequence."""
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise ValueError(ENCODED)
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(ENCODED) from None


def _parameters(query: str) -> dict[str, str]:
    """The query's parameters as libpq reads them: the last one counts, a plus stays a plus."""
    supported = {*CHOICES, *NUMBERS, *FILES, *TEXTS, *PLACES}
    parameters: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or re.search(r"@.*/", value):
            raise ValueError(ENCODED)
        if (name, value) == ("ssl", "true"):
            name, value = "sslmode", "require"
        if name not in supported:
            # The text after a raw separator in a password can look like a name.
            is_name = re.fullmatch(r"[a-z_]{1,40}", name) and not re.search("@|password=", query)
            parameter = f"the parameter {name}" if is_name else "parameters of another kind"
            hint = "; a setting of the server goes into options=-c%20name%3Dvalue"
            raise ValueError(f"must not have {parameter}, which not every command can honour{hint}")
        if value:
            _check_value(name, value := _decoded(value))
            parameters[name] = value
    return parameters


def _check_value(name: str, value: str) -> None:
    a_name = f"{'an' if name[0] in 'aos' else 'a'} {name}"
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"must have {a_name} that is one of {', '.join(CHOICES[name])}")
    if name in NUMBERS and not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError(f"must have {a_name} that is a whole number")
    # For a missing file one driver gives no error, and the other an error without its name.
    if name in FILES and (name, value) != ("sslrootcert", SYSTEM) and not is_readable(value):
        raise ValueError(f"must have {a_name} that names a readable file")


def _check_together(parameters: dict[str, str]) -> None:
    mode, negotiation = parameters.get("sslmode", "prefer"), parameters.get("sslnegotiation")
    if parameters.get("sslrootcert") == SYSTEM and mode != "verify-full":
        raise ValueError("must have sslmode=verify-full with sslrootcert=system")
    if negotiation == "direct" and not mode.startswith(("require", "verify")):
        raise ValueError("must have an sslmode of require or stricter with sslnegotiation=direct")


def is_readable(path: str) -> bool:
    """Whether a file can be read."""
    try:
        Path(path).open("rb").close()
    except (OSError, ValueError):
        return False
    return True


def _hosts(hosts: str, ports: str) -> tuple[tuple[str, int], ...]:
    """Each host with its port; empty if none is given. Raises ValueError."""
    names = hosts.split(",") if hosts or ports else []
    shared = ports.split(",") if ports else [""]
    if len(shared) not in (1, len(names)):
        raise ValueError("must have one port, or one for each host")
    if len(shared) == 1:
        shared *= len(names)
    return tuple(_host(name, port) for name, port in zip(names, shared, strict=True))


def _host(text: str, port: str) -> tuple[str, int]:
    match = (
        re.fullmatch(r"(/.*?)(?::([0-9]+))?", text)
        or re.fullmatch(r"([0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)()", text)
        or re.fullmatch(r"\[([0-9A-Fa-f:.]+(?:%\w+)?)\](?::([0-9]*))?", text)
        or re.fullmatch(r"([^:\[\]@/\s]*)(?::([0-9]*))?", text)
    )
    if match is None:
        raise ValueError(SHAPE)
    number = match[2] or port or "5432"
    if not re.fullmatch(r"[0-9]{1,5}", number) or not 1 <= int(number) <= 65_535:
        raise ValueError(SHAPE)
    return match[1] or "localhost", int(number)
