"""The settings of a process, read from the environment once, at start.

Every wrong value is reported in the same run, one sentence each, and the process does not start.
A secret can be in a file instead: `JWT_SECRET_FILE=/run/secrets/jwt` for `JWT_SECRET`.
"""

import ipaddress
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from service.setting_values import READERS, by_type


class SettingsError(Exception):
    """Settings that cannot be used; `errors` has one sentence for each."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process; field names are the variables' names in lower case."""

    database_url: str
    database_direct_url: str = ""
    database_read_url: str = ""
    database_schema: str = ""
    cells_file: str = ""
    cells_citus_url: str = ""  # empty in a cell whose entry has a url
    cell: str = ""  # this and the next come from CELLS_FILE
    cell_weight: int = 1
    jwt_secret: str
    jwt_secret_previous: str = ""
    jwt_jwks_url: str = ""
    jwt_jwks_file: str = ""
    jwt_jwks_refresh_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_leeway_seconds: Annotated[float, Meta(ge=0, le=300)] = 0.0
    jwt_require_exp: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535)] = 8000
    web_concurrency: Annotated[int, Meta(ge=1, le=64)] = 1
    pool_min_size: Annotated[int, Meta(ge=1, le=1000)] = 4
    pool_max_size: Annotated[int, Meta(ge=1, le=1000)] = 8
    statement_cache_size: Annotated[int, Meta(ge=0, le=10_000)] = 100
    heartbeat_connections: Annotated[int, Meta(ge=1, le=16)] = 2
    heartbeat_batch_max: Annotated[int, Meta(ge=1, le=1000)] = 256
    heartbeat_queue_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 5000
    short_path: bool = True
    credit: Literal["beats", "clock"] = "beats"
    config_cache_ttl_seconds: Annotated[float, Meta(ge=0.001, le=86_400)] = 60.0
    config_cache_max_size: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    tokens_max_size: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    pin_workers: Annotated[int, Meta(ge=1, le=64)] = 1
    bcrypt_rounds: Annotated[int, Meta(ge=4, le=16)] = 12
    pin_lock_escalation: bool = False
    cors_origins: tuple[str, ...] = ()
    log_level: str = "INFO"
    heartbeat_log_sample: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 100
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    otel_exporter_otlp_endpoint: str = ""
    request_timeout_seconds: Annotated[float, Meta(ge=0.05, le=600)] = 2.0
    # Longer than the 30 seconds between two heartbeats, so that a player keeps its connection.
    keep_alive_seconds: Annotated[int, Meta(ge=1, le=3600)] = 75
    shutdown_grace_seconds: Annotated[float, Meta(ge=0, le=600)] = 10.0
    shutdown_drain_seconds: Annotated[float, Meta(ge=0, le=600)] = 1.0
    forwarded_allow_ips: str = ""
    webhook_url: str = ""
    webhook_secret: str = ""
    webhook_secret_previous: str = ""
    retention_interval_hours: Annotated[int, Meta(ge=0, le=8760)] = 0
    retention_sessions_days: Annotated[int, Meta(ge=7, le=36_500)] = 90
    retention_balances_days: Annotated[int, Meta(ge=7, le=36_500)] = 365
    retention_events_days: Annotated[int, Meta(ge=7, le=36_500)] = 30

    @property
    def origin(self) -> str:
        """The start of every URL of the service, for this computer."""
        host = reachable(self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"


def reachable(host: str) -> str:
    """The address to connect to; `0.0.0.0` and `::` are all addresses, not one of them."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host  # a name
    return ("127.0.0.1" if address.version == 4 else "::1") if address.is_unspecified else host


FIELDS: Final = {
    field.name: field
    for field in msgspec.structs.fields(Settings)
    if field.name not in ("cell", "cell_weight")
}
MASKED: Final = {
    "database_url",
    "database_direct_url",
    "database_read_url",
    "cells_citus_url",
    "jwt_secret",
    "jwt_secret_previous",
    "webhook_url",  # can contain a password
    "webhook_secret",
    "webhook_secret_previous",
}


def setting(name: str, environment: Mapping[str, str]) -> object:
    """The value of one field; None where it is absent. Raises ValueError with a sentence."""
    variable = name.upper()
    text = environment.get(variable, "").strip()
    path = environment.get(f"{variable}_FILE", "").strip() if name in MASKED else ""
    if text and path:
        raise ValueError(f"{variable} and {variable}_FILE must not both be set.")
    if path:
        text = _content(f"{variable}_FILE", path)
    if not text:
        return None
    try:
        return READERS[name](text) if name in READERS else by_type(FIELDS[name].type, text)
    except ValueError as error:
        value = "" if name in MASKED else f", not {text[:80]!r}"
        raise ValueError(f"{variable} {error}{value}.") from error


def _content(variable: str, path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{variable} must name a file of text that can be read.") from error
    if not text:
        raise ValueError(f"{variable} names a file that is empty.")
    return text


def read(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment`; an empty variable counts as absent.

    Raises SettingsError with every error found, in the order of the fields.
    """
    values: dict[str, object] = {}
    errors: list[str] = []
    invalid: set[str] = set()
    for name, field in FIELDS.items():
        try:
            value = setting(name, environment)
        except ValueError as error:
            errors.append(str(error))
            invalid.add(name)
        else:
            if value is not None:
                values[name] = value
            elif field.required and not (name == "database_url" and environment.get("CELLS_FILE")):
                errors.append(f"{name.upper()} must be set.")
    settings = msgspec.convert({"database_url": "", "jwt_secret": "", **values}, Settings)
    if settings.pool_min_size > settings.pool_max_size:
        errors.append("POOL_MIN_SIZE must not be larger than POOL_MAX_SIZE.")
    if settings.cells_citus_url and not settings.cells_file:
        errors.append("CELLS_CITUS_URL needs CELLS_FILE, which names the cells.")
    if settings.jwt_jwks_url and settings.jwt_jwks_file:
        errors.append("JWT_JWKS_URL and JWT_JWKS_FILE must not both be set.")
    if settings.webhook_url and not settings.webhook_secret and "webhook_secret" not in invalid:
        errors.append("WEBHOOK_URL needs WEBHOOK_SECRET.")
    if (settings.host, settings.port) == (settings.metrics_host, settings.metrics_port):
        errors.append("METRICS_PORT must not be the same as PORT.")
    if settings.otel_exporter_otlp_endpoint and find_spec("opentelemetry") is None:
        errors.append(
            "OTEL_EXPORTER_OTLP_ENDPOINT needs the extra otel: pip install 'viewing-time[otel]'."
        )
    if errors:
        raise SettingsError(errors)
    return settings


def masked(settings: Settings) -> dict[str, object]:
    """The settings for a log line: secrets that are set are replaced by stars."""
    shown: dict[str, object] = msgspec.to_builtins(settings)
    return {name: "***" if value and name in MASKED else value for name, value in shown.items()}
