"""Checks everything that the service needs: a finding for each subject, with a remedy."""

import asyncio
import http.client
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from service.cells_file import cells
from service.command import check_cells
from service.command.check_cells import of_cell, sharing
from service.command.check_database import Finding as Finding
from service.command.check_database import Findings, database
from service.credentials import jwks
from service.http.urls import HEALTH, METRICS
from service.listeners import LISTENERS, PortTaken, bound, max_waiting
from service.observing import open_files
from service.settings import Settings, SettingsError, read
from service.viewing import rules

ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")


def findings(
    environment: Mapping[str, str], instances: int, now: Callable[[], datetime]
) -> Findings:
    """Yields each finding as soon as it is known; blocks for seconds at worst."""
    try:
        settings = read(environment)
        every = cells(settings)
    except SettingsError as error:
        yield from (Finding("FAULT", "settings", sentence) for sentence in error.errors)
        return
    yield Finding("ok", "settings are valid")
    yield from _players(settings)
    for cell in every:
        for finding in asyncio.run(database(cell, instances, now, sharing(cell, every))):
            yield of_cell(cell, finding)
    if settings.cells_file:
        yield from asyncio.run(check_cells.across(every))
    yield from _zones()
    yield from _ports(settings)
    yield from _published_keys(settings)


def _players(settings: Settings) -> Findings:
    limit = open_files.raise_limit()
    maximum, needed = open_files.for_connections(settings, limit), settings.heartbeat_queue_max
    processes = settings.web_concurrency
    number = f"{maximum:,}" if processes == 1 else f"{processes} x {maximum:,}"
    text = f"players: {number} can be connected at once, because {limit:,} files may be open"
    if maximum < needed:
        remedy = (
            f"raise the hard limit to {needed + limit - maximum:,} or more (`ulimit -Hn`, "
            "LimitNOFILE= of systemd), or lower HEARTBEAT_QUEUE_MAX"
        )
        yield Finding("FAULT", f"{text}; HEARTBEAT_QUEUE_MAX is {needed:,}", remedy)
    else:
        yield Finding("ok", text)
    if (waiting := max_waiting()) < needed:
        text = f"players: if more than {waiting:,} connect at once, the others wait for a second"
        remedy = f"set the kernel's net.core.somaxconn to {-(-needed // LISTENERS):,} or more"
        yield Finding("warn", f"{text}; HEARTBEAT_QUEUE_MAX is {needed:,}", remedy)


def _zones() -> Findings:
    if unknown := [name for name in ZONES if rules.zone(name) is None]:
        text = f"time zones are unknown ({', '.join(unknown)})"
        yield Finding("FAULT", text, "install the Python package tzdata")
    else:
        yield Finding("ok", "time zones are known")


def _ports(settings: Settings) -> Findings:
    status = (f"{HEALTH}/live", b'{"status":"ok"}')
    yield _port("PORT", settings.host, settings.port, *status)
    if settings.metrics_port:
        numbers = (METRICS, b"# HELP viewing_time_")
        yield _port("METRICS_PORT", settings.metrics_host, settings.metrics_port, *numbers)


def _port(variable: str, host: str, port: int, path: str, prefix: bytes) -> Finding:
    """Checks that the port is free; recognizes a running service by its response to `path`."""
    subject, where = _subject(variable), f"{host}:{port}"
    try:
        bound(host, port, variable).close()
    except PortTaken as error:
        if _answer(host, port, path).startswith(prefix):
            text = f"{subject}: a service answers on {where}"
            return Finding("warn", text, "stop it to serve there")
        text = f"{_subject(error.variable)}: {error.where} cannot be served on ({error.reason})"
        return Finding("FAULT", text, error.remedy)
    return Finding("ok", f"{subject}: {where} is free")


def _subject(variable: str) -> str:
    return variable.lower().replace("_", " ")


def _answer(host: str, port: int, path: str) -> bytes:
    """The first bytes of the response to GET `path`; empty without a response."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(100)
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


def _published_keys(settings: Settings) -> Findings:
    source = settings.jwt_jwks_url or settings.jwt_jwks_file
    if not source:
        return
    try:
        published = asyncio.run(jwks.read_published(settings)).values()
    except jwks.Unreadable as error:
        remedy = "check JWT_JWKS_URL or JWT_JWKS_FILE"
        yield Finding("FAULT", f"published keys cannot be read ({error})", remedy)
        return
    algorithms = ", ".join(sorted(key.algorithm_name for key in published))
    text = f"published keys can be read ({algorithms})"
    address = urlsplit(settings.jwt_jwks_url)
    if address.scheme == "http" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
        yield Finding(
            "warn", text, "use https: an attacker who changes them in transit can sign tokens"
        )
    else:
        yield Finding("ok", text)
