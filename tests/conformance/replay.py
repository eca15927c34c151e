"""Replays a scenario over HTTP and on the database, and names the first difference found."""

import json
import re
import warnings
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
import jwt
import msgspec
from jwt.warnings import InsecureKeyLengthWarning

from tests.conformance.expectation import difference, reply_difference
from tests.conformance.matchers import Moment, utc_day
from tests.conformance.scenario import Caller, Check, Request, Scenario, Sql, Step, Token, read_step

QUARTER_SECONDS = 900
TEMPLATE = re.compile(r"\{\{([^{}]+)\}\}")
TODAY = re.compile(r"today([+-]\d+)?")


class Mismatch(AssertionError):
    """The difference between the result and a step; names file, scenario, step and request."""


class Database(Protocol):
    """The part of a database connection that a replay uses."""

    def execute(self, query: str, /) -> Awaitable[object]: ...
    def fetch(self, query: str, /) -> Awaitable[Sequence[Any]]: ...


def render(value: Any, moment: Moment) -> Any:
    """`value` with its templates filled in; ValueError for a name without a saved value."""
    if isinstance(value, str):
        return TEMPLATE.sub(lambda match: _filled(match[1], moment), value)
    if isinstance(value, dict):
        return {name: render(member, moment) for name, member in value.items()}
    if isinstance(value, list):
        return [render(member, moment) for member in value]
    return value


def _filled(name: str, moment: Moment) -> str:
    if today := TODAY.fullmatch(name):
        return utc_day(moment.now, int(today[1] or 0)).isoformat()
    if name not in moment.saved:
        raise ValueError(f"nothing was saved as {name}")
    return str(moment.saved[name])


def authorization(caller: str | Caller, secret: str, now: datetime) -> str | None:
    """The `Authorization` header of a caller, None for no header."""
    if caller == "none":
        return None
    if isinstance(caller, str):
        caller = Caller(account=caller)
    if caller.raw is not None:
        return caller.raw
    issued = int(now.timestamp())
    claims = {"sub": caller.account, "iat": issued, "exp": issued + caller.exp}
    if caller.is_admin is not None:
        claims["is_admin"] = caller.is_admin
    claims = {
        name: value
        for name, value in (claims | caller.claims).items()
        if name not in caller.without
    }
    key = "" if caller.alg == "none" else caller.secret or secret
    with warnings.catch_warnings():
        # Some scenarios use a key that is too short for the algorithm.
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return f"Bearer {jwt.encode(claims, key, algorithm=caller.alg)}"


def utc_now() -> datetime:
    """The time of the machine."""
    return datetime.now(UTC)


async def replay(
    scenario: Scenario,
    client: httpx.AsyncClient,
    database: Database,
    secret: str,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Runs a scenario; raises Mismatch at the first step with another result than expected.

    A failed run across a full quarter of an hour is repeated once, because in some time zone a
    viewing day may have ended during it.
    """
    quarter = clock().timestamp() // QUARTER_SECONDS
    try:
        await _play(scenario, client, database, secret, clock)
    except Mismatch:
        if clock().timestamp() // QUARTER_SECONDS == quarter:
            raise
        await _play(scenario, client, database, secret, clock)


async def _play(
    scenario: Scenario,
    client: httpx.AsyncClient,
    database: Database,
    secret: str,
    clock: Callable[[], datetime],
) -> None:
    document = scenario.fresh()
    saved: dict[str, object] = {}
    try:
        for statement in document.rows:
            await database.execute(statement)
        for number, raw in enumerate(document.steps, 1):
            moment = Moment(clock(), saved)
            step = read_step(render(raw, moment))
            if found := await _outcome(step, client, database, secret, moment):
                raise Mismatch(f"{scenario.place(number)}: {_title(step)}: {found}")
    finally:
        for statement in document.undo:
            await database.execute(statement)


def _title(step: Step) -> str:
    match step:
        case Sql():
            return step.sql
        case Check():
            return step.check
        case Token():
            return f"token {step.token}"
        case Request():
            content = step.body if step.json is msgspec.UNSET else json.dumps(step.json)
            return " ".join(filter(None, (step.method, step.path, content)))


async def _outcome(
    step: Step, client: httpx.AsyncClient, database: Database, secret: str, moment: Moment
) -> str | None:
    match step:
        case Sql():
            await database.execute(step.sql)
            return None
        case Check():
            rows = await database.fetch(step.check)
            if [len(row) for row in rows] != [1]:
                return f"expected one row of one value, got {rows!r}"
            return difference(step.equals, rows[0][0], moment, at="value")
        case Token():
            header = authorization(step.caller, secret, moment.now) or ""
            moment.saved[step.token] = header.removeprefix("Bearer ")
            return None
        case Request():
            reply = await _send(step, client, secret, moment)
            return reply_difference(step.expect, reply, moment)


async def _send(
    step: Request, client: httpx.AsyncClient, secret: str, moment: Moment
) -> httpx.Response:
    headers = httpx.Headers(step.headers)
    if (token := authorization(step.caller, secret, moment.now)) is not None:
        headers["authorization"] = token
    content = step.body if step.json is msgspec.UNSET else json.dumps(step.json)
    if content is not None:
        headers.setdefault("content-type", "application/json")
    return await client.request(
        step.method, step.path, params=step.query or None, headers=headers, content=content
    )
