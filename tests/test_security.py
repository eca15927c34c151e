"""Access rights: every endpoint rejects callers without the right, and changes nothing."""

import re
import stat
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx
import jwt
import msgspec
import psycopg
import pytest
from starlette.routing import Route

from service.app import LIVE, ROUTES, SCRAPE
from service.database.driver import Connection
from tests.conftest import ROOT, Running
from tests.family import EXPIRES, HEARTBEAT, PASSWORD, PIN, SECRET, Family, add_family, bearer
from tests.players.test_heartbeat import beat

Body = Callable[[Family], dict[str, Any]]


class Row(NamedTuple):
    """The kind of caller that an endpoint accepts, and a valid body.

    The kinds: `anyone`; any `account`; the owner of the `profile`, `session` or (time) `request`
    in the HTTP request; an `admin`.
    """

    caller: str
    body: Body = lambda _: {}
    query: str = ""


VIEWING: Final = "/api/v1/viewing-time"
PARENTAL: Final = "/api/v1/parental-controls"
PROFILE: Final = f"{PARENTAL}/profiles/{{profile_id}}"
ADMIN: Final = "/api/v1/admin"


def pin_token(family: Family) -> str:
    """A valid PIN token of the family's parent."""
    claims = {"sub": str(family.account), "purpose": "pin_verified", "jti": "1", "exp": EXPIRES}
    return jwt.encode(claims, SECRET, algorithm="HS256")


ROWS: Final = {
    f"POST {VIEWING}/heartbeat": Row("profile", lambda family: family.beat()),
    f"GET {VIEWING}/balance/{{profile_id}}": Row("profile"),
    f"GET {VIEWING}/playback-eligible/{{profile_id}}": Row("profile"),
    f"GET {VIEWING}/decision/{{profile_id}}": Row("profile"),
    f"POST {VIEWING}/session/{{session_id}}/end": Row("session"),
    f"POST {VIEWING}/requests": Row("profile", lambda f: {"profile_id": str(f.child)}),
    f"GET {VIEWING}/requests/{{request_id}}": Row("request"),
    f"GET {PARENTAL}/requests": Row("account"),
    f"POST {PARENTAL}/requests/{{request_id}}/approve": Row("request"),
    f"POST {PARENTAL}/requests/{{request_id}}/deny": Row("request"),
    f"GET {PARENTAL}/pin/status": Row("account"),
    f"POST {PARENTAL}/pin": Row("account", lambda _: {"new_pin": "5678", "current_pin": PIN}),
    f"POST {PARENTAL}/pin/verify": Row("account", lambda _: {"pin": PIN}),
    f"POST {PARENTAL}/pin/reset": Row(
        "account", lambda _: {"password": PASSWORD, "new_pin": "5678"}
    ),
    f"GET {PARENTAL}/strict": Row("account"),
    f"PUT {PARENTAL}/strict": Row(
        "account", lambda family: {"enabled": True, "pin_token": pin_token(family)}
    ),
    f"GET {PROFILE}/viewing-time": Row("profile"),
    f"PUT {PROFILE}/viewing-time": Row("profile", lambda _: {"weekday_limit_minutes": 30}),
    f"POST {PROFILE}/viewing-time/grant": Row("profile", lambda _: {"minutes": 15}),
    f"GET {PROFILE}/schedule": Row("profile"),
    f"PUT {PROFILE}/schedule": Row("profile", lambda _: {"weekly_limit_minutes": 600}),
    f"GET {PROFILE}/exceptions": Row("profile"),
    f"PUT {PROFILE}/exceptions/{{date}}": Row("profile", lambda _: {"limit_minutes": 60}),
    f"DELETE {PROFILE}/exceptions/{{date}}": Row("profile"),
    f"GET {PROFILE}/lock": Row("profile"),
    f"PUT {PROFILE}/lock": Row("profile", lambda _: {"until": None}),
    f"DELETE {PROFILE}/lock": Row("profile"),
    f"GET {PROFILE}/grants": Row("profile"),
    f"DELETE {PROFILE}/grants/{{grant_id}}": Row("profile"),
    f"GET {PROFILE}/history": Row("profile", query="?from_date=2026-11-01&to_date=2026-11-24"),
    f"GET {PARENTAL}/events": Row("account"),
    f"GET {PARENTAL}/weekly-report": Row("account"),
    f"POST {PARENTAL}/weekly-report/link": Row("account"),
    f"GET {PARENTAL}/weekly-report/page/{{token}}": Row("anyone"),
    f"GET {ADMIN}/metrics": Row("admin"),
    f"PUT {ADMIN}/accounts/{{account_id}}": Row("admin", lambda _: {"email": "new@example.test"}),
    f"DELETE {ADMIN}/accounts/{{account_id}}": Row("admin"),
    f"PUT {ADMIN}/profiles/{{profile_id}}": Row(
        "admin",
        lambda f: {
            "account_id": str(f.account),
            "name": "New",
            "is_kids": True,
            "parental_rating": "TV-Y",
        },
    ),
    f"DELETE {ADMIN}/profiles/{{profile_id}}": Row("admin"),
    f"DELETE {ADMIN}/profiles/{{profile_id}}/viewing-data": Row("admin"),
    f"PUT {ADMIN}/titles/{{title_id}}": Row(
        "admin", lambda _: {"title": "New", "title_type": "movie", "is_educational": True}
    ),
    f"DELETE {ADMIN}/titles/{{title_id}}": Row("admin"),
    f"POST {ADMIN}/import": Row(
        "admin",
        lambda _: {
            "type": "title",
            "id": str(uuid4()),
            "title": "New",
            "title_type": "movie",
            "is_educational": True,
        },
    ),
    "GET /health/live": Row("anyone"),
    "GET /health/ready": Row("anyone"),
    "GET /health": Row("anyone"),
    "GET /metrics": Row("anyone"),
    "GET /admin/live": Row("anyone"),
    "GET /": Row("anyone"),
    "GET /openapi.json": Row("anyone"),
    "GET /docs": Row("anyone"),
}
ENDPOINTS: Final = [
    f"{method} {route.path}"
    for route in (*ROUTES, SCRAPE, LIVE)
    if isinstance(route, Route)
    for method in route.methods or ()
]

TABLES: Final = (
    "users",
    "profiles",
    "titles",
    "viewing_time_configs",
    "viewing_time_balances",
    "viewing_sessions",
    "time_grants",
    "viewing_strict_accounts",
    "viewing_requests",
    "viewing_events",
)
NOT_AUTHENTICATED: Final = (401, "Not authenticated")
BAD_TOKEN: Final = (401, "Invalid or expired token")
INACTIVE: Final = (401, "User not found or inactive")
NOT_ADMIN: Final = (403, "Admin privileges required")
FOREIGN: Final = {
    "profile": (403, "Profile not found or access denied"),
    "session": (403, "Session access denied"),
    "request": (404, "Request not found"),
    "admin": NOT_ADMIN,
}


def test_every_endpoint_has_a_row() -> None:
    assert {*ENDPOINTS} == {*ROWS}


def token(**claims: Any) -> dict[str, str]:
    made = jwt.encode(claims, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {made}"}


def refused(
    caller: str, family: Family, stranger: Family, inactive: Family
) -> dict[str, tuple[dict[str, str], tuple[int, str]]]:
    """Every call of an endpoint for `family` that must fail, with the expected response."""
    sub = str(family.account)
    cases = {
        "no token": ({}, NOT_AUTHENTICATED),
        "another scheme": ({"Authorization": "Basic dTpw"}, NOT_AUTHENTICATED),
        "malformed token": ({"Authorization": "Bearer x.y.z"}, BAD_TOKEN),
        "expired": (token(sub=sub, exp=1), BAD_TOKEN),
        "PIN token": (token(sub=sub, exp=EXPIRES, purpose="pin_verified", jti="x"), BAD_TOKEN),
        "another secret": (
            {"Authorization": "Bearer " + jwt.encode({"sub": sub}, "z" * 32, algorithm="HS256")},
            BAD_TOKEN,
        ),
        "unknown account": (bearer(uuid4()), INACTIVE),
        "deactivated account": (bearer(inactive.account), INACTIVE),
    }
    if caller in FOREIGN:
        cases["foreign account"] = (stranger.bearer, FOREIGN[caller])
        claims = bearer(stranger.account, is_admin=True)
        cases["foreign account with an administrator claim"] = (claims, FOREIGN[caller])
    if caller == "admin":
        cases["owner"] = (family.bearer, NOT_ADMIN)
    return cases


async def stored(connection: Connection) -> dict[str, list[Any]]:
    """The content of all tables."""
    return {t: await connection.fetch(f"select * from {t} order by 1") for t in TABLES}


async def call(
    running: Running, endpoint: str, family: Family, session: str, headers: dict[str, str]
) -> httpx.Response:
    method, path = endpoint.split(" ")
    names = {
        "profile_id": family.child,
        "account_id": family.account,
        "title_id": family.title,
        "session_id": session,
        "date": running.clock().date() + timedelta(days=2),
        "grant_id": session or uuid4(),
        "request_id": session or uuid4(),
    }
    row = ROWS[endpoint]
    url = path.format(**names) + row.query
    body = msgspec.json.encode(row.body(family)) if method in ("POST", "PUT") else None
    json = {"Content-Type": "application/json"} if body else {}
    return await running.client.request(method, url, content=body, headers={**headers, **json})


async def add_grant(connection: Connection, family: Family, grant_id: str, day: date) -> None:
    """Stores a grant that can be undone; it has the id of a session."""
    await connection.execute(
        "insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes, is_remote, "
        "granted_at, reset_date, mode, effect_seconds) "
        "values ($1, $2, $3, 15, true, now(), $4, 'credit', 0)",
        grant_id,
        family.child,
        family.account,
        day,
    )


async def add_request(
    connection: Connection, family: Family, request_id: str, now: datetime
) -> None:
    """Stores a pending request of the child; it has the id of a session."""
    await connection.execute(
        "insert into viewing_requests (id, account_id, profile_id, status, reset_date, "
        "requested_at, expires_at) "
        "values ($1, $2, $3, 'pending', $4, $5, $5::timestamptz + interval '1 hour')",
        request_id,
        family.account,
        family.child,
        now.date(),
        now,
    )


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if ROWS[e].caller != "anyone"])
async def test_endpoint_rejects_every_caller_without_the_right(
    running: Running, connection: Connection, family: Family, endpoint: str
) -> None:
    stranger, inactive = await add_family(connection), await add_family(connection)
    await connection.execute("update users set is_active = false where id = $1", inactive.account)
    session = (await beat(running, family))["session_id"]
    await add_grant(connection, family, session, running.clock().date())
    if ROWS[endpoint].caller == "request":
        await add_request(connection, family, session, running.clock())
    row = ROWS[endpoint]
    before = await stored(connection)
    for case, (headers, (status, detail)) in refused(
        row.caller, family, stranger, inactive
    ).items():
        answer = await call(running, endpoint, family, session, headers)
        assert (answer.status_code, answer.json()) == (status, {"detail": detail}), case
    assert await stored(connection) == before
    if row.caller == "admin":
        await connection.execute("update users set is_admin = true where id = $1", family.account)
    answer = await call(running, endpoint, family, session, family.bearer)
    assert answer.status_code in (200, 201, 204), answer.text


@pytest.mark.parametrize(
    "endpoint",
    [
        endpoint
        for endpoint in ENDPOINTS
        if ROWS[endpoint].caller == "profile"
        and PARENTAL in endpoint
        and not endpoint.startswith("GET ")
    ],
)
async def test_every_change_by_a_parent_of_a_strict_account_needs_the_pin(
    running: Running, connection: Connection, family: Family, endpoint: str
) -> None:
    await connection.execute(
        "insert into viewing_strict_accounts (account_id, since) values ($1, now())", family.account
    )
    await beat(running, family)
    before = await stored(connection)
    refusal = {"detail": "Valid PIN token required"}
    for headers in ({}, {"X-PIN-Token": "x"}):
        answer = await call(running, endpoint, family, "", {**family.bearer, **headers})
        assert (answer.status_code, answer.json()) == (403, refusal)
    assert await stored(connection) == before
    headers = {**family.bearer, "X-PIN-Token": pin_token(family)}
    answer = await call(running, endpoint, family, "", headers)
    assert answer.status_code in (200, 204) or answer.json() == {"detail": "Grant not found"}


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if ROWS[e].caller == "profile"])
async def test_a_foreign_profile_cannot_be_distinguished_from_an_unknown_one(
    running: Running, connection: Connection, family: Family, endpoint: str
) -> None:
    stranger = await add_family(connection)
    foreign = await call(running, endpoint, family, "", stranger.bearer)
    missing = await call(running, endpoint, Family(title=family.title), "", stranger.bearer)
    assert (foreign.status_code, foreign.content) == (missing.status_code, missing.content)
    assert {*foreign.headers} == {*missing.headers}


async def test_a_session_of_another_profile_or_family_is_not_continued(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    session = UUID((await beat(running, family))["session_id"])
    before = await stored(connection)
    for body, headers in (
        (stranger.beat(session_id=session), stranger.bearer),
        (family.beat(profile_id=family.adult, session_id=session), family.bearer),
    ):
        answer = await running.client.post(HEARTBEAT, json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.json() == {"detail": "Session does not belong to this profile"}
    assert await stored(connection) == before


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, "GET /nowhere", "PATCH /health"])
async def test_responses_are_not_stored_and_not_sniffed(
    running: Running, family: Family, endpoint: str
) -> None:
    method, path = endpoint.split(" ")
    for headers in ({}, {"Authorization": "Bearer x"}):
        answer = await running.client.request(method, path, headers=headers)
        if answer.headers["content-type"] == "application/json":
            cache_control = "max-age=300" if path == "/openapi.json" else "no-store"
            assert answer.headers["cache-control"] == cache_control
        if path != "/metrics":  # browsers do not read it
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


async def test_heartbeat_response_is_not_stored(running: Running, family: Family) -> None:
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_cors_allows_only_the_configured_origins(running: Running, family: Family) -> None:
    for origin, allowed in (("http://localhost:5173", True), ("https://evil.example", False)):
        headers = {**family.bearer, "Origin": origin}
        answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert "Preference-Applied" in answer.headers["access-control-expose-headers"]
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        headers["Access-Control-Request-Headers"] = "Idempotency-Key, Prefer, X-PIN-Token"
        preflight = await running.client.options(HEARTBEAT, headers=headers)
        assert (preflight.status_code == 200) == allowed


async def test_sql_in_a_text_is_stored_as_text(
    running: Running, connection: Connection, family: Family
) -> None:
    attack = "'; drop table viewing_sessions; --"
    await beat(running, family, device_id=attack)
    assert await connection.fetchval("select device_id from viewing_sessions") == attack
    for path in (f"{VIEWING}/balance/{attack}", f"{VIEWING}/session/{attack}/end"):
        answer = await running.client.get(path, headers=family.bearer)
        assert answer.status_code in (404, 405, 422)


def test_embedded_database_listens_only_on_its_private_socket(postgres_dsn: str) -> None:
    [folder] = parse_qs(urlsplit(postgres_dsn).query)["host"]
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("show listen_addresses").fetchall() == [("",)]


def test_tests_named_in_the_security_page_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    texts = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 40
    assert named - set(re.findall(r"^(?:async )?def (test_\w+)", texts, re.MULTILINE)) == set()
