"""What the operator decides: read from the environment (and `.env`) once, at start.

Every wrong value is reported in the same run, one sentence each, and the process does not start.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec


class SettingsError(Exception):
    """Settings that cannot be used; `faults` holds one sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process; field names are the variables' names in lower case."""

    database_url: str
    database_direct_url: str = ""
    jwt_secret: str
    jwt_require_exp: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    pool_min_size: int = 4
    pool_max_size: int = 8
    statement_cache_size: int = 100
    heartbeat_connections: int = 2
    heartbeat_batch_max: int = 256
    heartbeat_queue_max: int = 5000
    config_cache_ttl_seconds: float = 60.0
    config_cache_max_size: int = 10_000
    pin_workers: int = 1
    bcrypt_rounds: int = 12
    cors_origins: tuple[str, ...] = ()
    log_level: str = "INFO"
    request_timeout_seconds: float = 2.0
    shutdown_grace_seconds: float = 10.0
    forwarded_allow_ips: str = ""


MASKED: Final = frozenset({"database_url", "database_direct_url", "jwt_secret"})
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return value

    return read


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def _level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text.upper()


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip().rstrip("/") for origin in text.split(",") if origin.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
            raise ValueError(f"must be origins like https://tv.example, not {origin!r}")
    return origins


def _database(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("postgresql", "postgres") or not text.startswith(f"{parts.scheme}://"):
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    return text


def _secret(text: str) -> str:
    if len(text.encode()) < 32:
        raise ValueError("must be at least 32 characters long")
    return text


def _text(text: str) -> str:
    return text


READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "database_url": _database,
    "database_direct_url": _database,
    "jwt_secret": _secret,
    "jwt_require_exp": _flag,
    "host": _text,
    "port": _whole(0, 65_535),
    "pool_min_size": _whole(1, 1000),
    "pool_max_size": _whole(1, 1000),
    "statement_cache_size": _whole(0, 10_000),
    "heartbeat_connections": _whole(1, 16),
    "heartbeat_batch_max": _whole(1, 1000),
    "heartbeat_queue_max": _whole(1, 1_000_000),
    "config_cache_ttl_seconds": _seconds(0.001, 86_400),
    "config_cache_max_size": _whole(1, 10_000_000),
    "pin_workers": _whole(1, 64),
    "bcrypt_rounds": _whole(4, 16),
    "cors_origins": _origins,
    "log_level": _level,
    "request_timeout_seconds": _seconds(0.05, 600),
    "shutdown_grace_seconds": _seconds(0, 600),
    "forwarded_allow_ips": _text,
}


def read(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment`; an empty variable counts as absent.

    Raises SettingsError with every fault found, in the order of the fields.
    """
    values: dict[str, object] = {}
    faults: list[str] = []
    for name, reader in READERS.items():
        text = environment.get(name.upper(), "").strip()
        if not text:
            continue
        try:
            values[name] = reader(text)
        except ValueError as fault:
            faults.append(f"{name.upper()} {fault}.")
    faults += [
        f"{name.upper()} must be set."
        for name in ("database_url", "jwt_secret")
        if not environment.get(name.upper(), "").strip()
    ]
    if not faults:
        settings = msgspec.convert(values, Settings)
        if settings.pool_min_size <= settings.pool_max_size:
            return settings
        faults.append("POOL_MIN_SIZE must not be larger than POOL_MAX_SIZE.")
    raise SettingsError(faults)


def masked(settings: Settings) -> dict[str, object]:
    """The settings as they may stand in a log line: secrets replaced by stars."""
    shown: dict[str, object] = msgspec.to_builtins(settings)
    return {name: "***" if name in MASKED else value for name, value in shown.items()}


def dotenv(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of a `.env` file; none where there is no file.

    Quotes around a value are taken off, `#` starts a comment line, `export ` is allowed.
    """
    if not path.is_file():
        return {}
    pairs: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            pairs[name.strip()] = value
    return pairs
