"""How the text of a setting becomes its value.

A reader raises ValueError with the rest of a sentence that begins with the name of the variable.
"""

import base64
import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import jwt
from msgspec.inspect import BoolType, FloatType, IntType, LiteralType, type_info

from service import database_url

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
WEBHOOK_PREFIX: Final = "whsec_"
MAX_PROCESSES: Final = 64
CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")  # microseconds in each period, or `max`
MIN_WEBHOOK_KEY_BYTES: Final = 24
MAX_WEBHOOK_KEY_BYTES: Final = 64
FLAGS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text.upper()


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip().rstrip("/") for origin in text.split(",") if origin.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
            raise ValueError("must be origins like https://tv.example, separated by commas")
    return origins


def _database(text: str) -> str:
    database_url.read(text)
    return text


def _schema(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", text):
        raise ValueError("must be the name of a schema in lower case")
    return text


def _secret(text: str) -> str:
    """Rejects a public key too: it is known to others, who could sign tokens with it."""
    if len(text.encode()) < 32:
        raise ValueError("must be at least 32 characters long")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(text)
    except jwt.InvalidKeyError as error:
        raise ValueError("must be a secret, not a key or a certificate") from error
    return text


def _web_address(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_open = parts.hostname and parts.port != 0 and parts.username is None
        if is_open and parts.scheme in ("http", "https"):
            return text
    raise ValueError("must look like https://accounts.example/.well-known/jwks.json")


def _webhook_address(text: str) -> str:
    """An address that can contain a user and a password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_plain = re.fullmatch(r"[!-~]+", text) and "#" not in text
        if is_plain and parts.hostname and parts.port != 0 and parts.scheme in ("http", "https"):
            return text
    raise ValueError("must look like https://platform.example/viewing-events")


def webhook_key(secret: str) -> bytes:
    """The key in a secret of Standard Webhooks."""
    key = b""
    if secret.startswith(WEBHOOK_PREFIX):
        with contextlib.suppress(ValueError):
            key = base64.b64decode(secret.removeprefix(WEBHOOK_PREFIX), validate=True)
    if not MIN_WEBHOOK_KEY_BYTES <= len(key) <= MAX_WEBHOOK_KEY_BYTES:
        length = f"{MIN_WEBHOOK_KEY_BYTES} to {MAX_WEBHOOK_KEY_BYTES}"
        raise ValueError(f"must be {WEBHOOK_PREFIX} and {length} random bytes in base64")
    return key


def _webhook_secret(text: str) -> str:
    webhook_key(text)
    return text


def _proxies(text: str) -> str:
    """Normalized, because the server rejects a network address with host bits set."""
    if text == "*":
        return text
    try:
        networks = [ipaddress.ip_network(proxy.strip(), strict=False) for proxy in text.split(",")]
    except ValueError as error:
        raise ValueError("must be * or addresses and networks, separated by commas") from error
    return ",".join(map(str, networks))


def _file(text: str) -> str:
    if not database_url.is_readable(text):
        raise ValueError("must name a file that can be read")
    return text


def _processes(text: str) -> int:
    """`auto` is the number of cores that this process may use."""
    if text.lower() == "auto":
        return min(_cores(), MAX_PROCESSES)
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PROCESSES:
        raise ValueError(f"must be auto or a whole number from 1 to {MAX_PROCESSES}")
    return int(text)


def _cores() -> int:
    """The cores of the machine, or fewer if a container or `taskset` allows fewer; at least 1."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(cores, 1)


# The other fields are read by their types.
READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "web_concurrency": _processes,
    "database_url": _database,
    "database_direct_url": _database,
    "database_read_url": _database,
    "database_schema": _schema,
    "cells_file": _file,
    "cells_citus_url": _database,
    "jwt_secret": _secret,
    "jwt_secret_previous": _secret,
    "jwt_jwks_url": _web_address,
    "jwt_jwks_file": _file,
    "webhook_url": _webhook_address,
    "webhook_secret": _webhook_secret,
    "webhook_secret_previous": _webhook_secret,
    "cors_origins": _origins,
    "log_level": _level,
    "otel_exporter_otlp_endpoint": _web_address,
    "forwarded_allow_ips": _proxies,
}


def by_type(kind: object, text: str) -> object:
    """The value of a setting of this type; raises ValueError with the rest of a sentence."""
    match type_info(kind):
        case IntType(ge=int(low), le=int(high)):
            # int() also reads other digits, underscores and signs.
            if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
                raise ValueError(f"must be a whole number from {low} to {high}")
            return int(text)
        case FloatType(ge=int() | float() as low, le=int() | float() as high):
            with contextlib.suppress(ValueError):
                if low <= float(text) <= high:
                    return float(text)
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        case BoolType():
            if text.lower() not in FLAGS:
                raise ValueError("must be true or false")
            return FLAGS[text.lower()]
        case LiteralType(values=values):
            if text.lower() not in values:
                raise ValueError(f"must be {' or '.join(map(str, values))}")
            return text.lower()
    return text
