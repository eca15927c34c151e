"""The interpreter of the scenarios accepts valid replies and refuses all others."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.conformance.expectation import difference, errors_difference, header_difference
from tests.conformance.matchers import Moment
from tests.conformance.replay import Mismatch, authorization, render, replay
from tests.conformance.scenario import Caller, Scenario, load

SECRET = "s" * 40
# A Saturday: before six o'clock UTC the viewing day is still Friday.
NOW = datetime(2026, 3, 7, 5, 30, tzinfo=UTC)
ACCOUNT = "72cd5ff7-f646-01f6-45ca-88848ed2bf7e"
PROFILE = "9a985437-b88b-e31f-4043-e3534874ae35"
SIGNED = jwt.encode({"sub": ACCOUNT}, SECRET, algorithm="HS256")


def moment(**saved: object) -> Moment:
    return Moment(NOW, dict(saved))


@pytest.mark.parametrize(
    ("expected", "accepted", "refused"),
    [
        ("<uuid>", [ACCOUNT], [ACCOUNT.upper(), ACCOUNT.replace("-", ""), ACCOUNT + "0", None, 7]),
        ("<jwt>", [SIGNED], ["a.b.c", SIGNED.rpartition(".")[0] + ".", "", None]),
        (
            "<datetime>",
            ["2026-03-07T05:30:00Z", "2020-02-29T23:59:59.000001Z"],
            [
                "2026-03-07T05:30:00",
                "2026-03-07T05:30:00+00:00",
                "2026-03-07T05:30:00.5Z",
                "2026-02-30T05:30:00Z",
                "2026-03-07 05:30:00Z",
                "2026-03-07",
                None,
                0,
            ],
        ),
        (
            "<now>",
            ["2026-03-07T05:30:30Z", "2026-03-07T05:29:30.000000Z"],
            ["2026-03-07T05:30:31Z", "2026-03-07T05:29:29Z", "2026-03-07T05:30:00", None],
        ),
        (
            "<in:1800>",
            ["2026-03-07T06:00:00Z", "2026-03-07T06:00:30Z"],
            ["2026-03-07T05:30:00Z", "2026-03-07T06:00:31Z", "2026-03-07T05:00:00Z", None],
        ),
        ("<in:-60>", ["2026-03-07T05:29:00Z"], ["2026-03-07T05:31:00Z"]),
        ("<date:0>", ["2026-03-07"], ["2026-03-06", "2026-03-07T00:00:00Z", None]),
        ("<date:-7>", ["2026-02-28"], ["2026-03-14"]),
        ("<next_reset:6:UTC>", ["2026-03-07T06:00:00Z"], ["2026-03-08T06:00:00Z", None, "06:00"]),
        ("<next_reset:5:UTC>", ["2026-03-08T05:00:00Z"], ["2026-03-07T05:00:00Z"]),
        # On the night of the change to daylight saving the day has 23 hours.
        (
            "<next_reset:23:America/New_York>",
            ["2026-03-08T04:00:00Z"],
            ["2026-03-08T03:00:00Z", "2026-03-07T04:00:00Z"],
        ),
        ("<next_reset:0:Asia/Kathmandu>", ["2026-03-07T18:15:00Z"], ["2026-03-07T18:00:00Z"]),
        ("<weekday_or_weekend:119.5:179.5>", [119.5], [179.5, "119.5", None]),
        ("<weekday_or_weekend:120.0:180.0>", [120, 120.0], [180, True]),
        ("<save:tok>", [SIGNED, "x"], ["", None, 7]),
        ("<any>", [None, 0, "", [], {"a": 1}], []),
    ],
)
def test_matcher_accepts_only_its_values(
    expected: str, accepted: list[object], refused: list[object]
) -> None:
    for value in accepted:
        assert difference(expected, value, moment()) is None, value
    for value in refused:
        assert difference(expected, value, moment()) is not None, value


def test_weekend_begins_at_the_reset_hour() -> None:
    later = Moment(NOW + timedelta(minutes=30))
    assert difference("<weekday_or_weekend:1:2>", 2, later) is None
    assert difference("<weekday_or_weekend:1:2>", 1, later) is not None


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 120}, {"a": 120.0}),
        ({"a": None, "b": [1, {"c": "x"}]}, {"b": [1.0, {"c": "x"}], "a": None}),
        ([], []),
        (True, True),
    ],
)
def test_equal_values_have_no_difference(expected: object, actual: object) -> None:
    assert difference(expected, actual, moment()) is None


@pytest.mark.parametrize(
    ("expected", "actual", "place"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, "missing ['b']"),
        ({"a": None}, {}, "missing ['a']"),
        ({"a": "<any>"}, {}, "missing ['a']"),
        ({"a": 1}, {"a": 1, "b": 2}, "not expected ['b']"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "body.a.b[1]"),
        ([1, 2], [1], "2 elements"),
        ([1], [1, 2], "1 elements"),
        ([1, 2], [2, 1], "body[0]"),
        ({}, [], "body"),
        ([], {}, "body"),
        ({"a": 1}, None, "body"),
        (120, 120.01, "body"),
        (1, True, "body"),
        (False, 0, "body"),
        (120, "120", "body"),
        ("120", 120, "body"),
        (None, "", "body"),
        (None, 0, "body"),
        ("a", "A", "body"),
    ],
)
def test_different_values_are_reported_with_their_place(
    expected: object, actual: object, place: str
) -> None:
    found = difference(expected, actual, moment())
    assert found is not None
    assert place in found


def test_only_ignores_other_members() -> None:
    reply = {"a": 1, "b": {"c": 2, "d": 3}}
    assert difference({"b": {"c": 2}}, reply, moment(), only=True) is None
    assert difference({"b": {"c": 3}}, reply, moment(), only=True) is not None
    assert difference({"b": {"e": 3}}, reply, moment(), only=True) is not None


@pytest.mark.parametrize(
    ("name", "expected", "actual", "same"),
    [
        ("content-type", "application/json", "application/json; charset=utf-8", True),
        ("Content-Type", "application/json", "Application/JSON", True),
        ("content-type", "application/json", "application/problem+json", False),
        ("content-type", "application/json", None, False),
        ("www-authenticate", "Bearer", "Bearer", True),
        ("www-authenticate", "Bearer", "bearer", False),
        ("www-authenticate", "Bearer", None, False),
        ("www-authenticate", None, None, True),
        ("www-authenticate", None, "Bearer", False),
        ("x-locked-until", "<in:1800>", "2026-03-07T06:00:00+00:00", True),
        ("x-locked-until", "<in:1800>", "2026-03-07T06:00:00.000001+00:00", True),
        ("x-locked-until", "<in:1800>", "2026-03-07T06:00:00Z", False),
        ("x-locked-until", "<in:1800>", "2026-03-07T06:00:00", False),
        ("x-locked-until", "<in:1800>", "2026-03-07T06:01:00+00:00", False),
        ("x-request-id", "<uuid>", ACCOUNT, True),
        ("x-request-id", "<uuid>", "Z", False),
        ("x-request-id", "<any>", "Z", True),
        ("x-request-id", "<any>", None, False),
    ],
)
def test_headers_are_compared(
    name: str, expected: str | None, actual: str | None, same: bool
) -> None:
    assert (header_difference(name, expected, actual, moment()) is None) is same


FAULT = {"type": "missing", "loc": ["body", "pin"], "msg": "Field required", "input": {}}
OTHER = {"type": "string_type", "loc": ["body", "new_pin"], "msg": "no string"}


@pytest.mark.parametrize("errors", [[FAULT], [OTHER], [OTHER, FAULT], [FAULT | {"msg": "else"}]])
def test_expected_validation_errors_are_accepted(errors: list[dict[str, Any]]) -> None:
    assert errors_difference([FAULT, OTHER], {"detail": errors}) is None


@pytest.mark.parametrize(
    "body",
    [
        {"detail": []},
        {"detail": "Field required"},
        {"detail": [FAULT | {"type": "string_type"}]},
        {"detail": [FAULT | {"loc": ["query", "pin"]}]},
        {"detail": [FAULT | {"loc": ["body"]}, FAULT]},
        {"detail": [{"type": "missing", "loc": ["body", "pin"]}]},
        {"detail": [FAULT, {"type": "missing", "msg": "m"}]},
        {"detail": ["missing"]},
        {"detail": [FAULT], "title": "extra"},
        [FAULT],
    ],
)
def test_other_validation_errors_are_a_difference(body: object) -> None:
    assert errors_difference([FAULT, OTHER], body) is not None


def test_templates_are_filled_in() -> None:
    saved = moment(s1="abc")
    template = {"a": ["/x/{{s1}}/end", "{{today}}", "{{today-7}}", "{{today+1}}"], "b": 1}
    filled = {"a": ["/x/abc/end", "2026-03-07", "2026-02-28", "2026-03-08"], "b": 1}
    assert render(template, saved) == filled
    with pytest.raises(ValueError, match="nothing was saved as s2"):
        render("{{s2}}", saved)


def claims(header: str | None, secret: str = SECRET, alg: str = "HS256") -> dict[str, Any]:
    """The claims of a header, verified at the time of the test."""
    assert header is not None
    scheme, _, token = header.partition(" ")
    assert scheme == "Bearer"
    options: Any = {"verify_exp": False, "verify_iat": False}
    return jwt.decode(token, secret, algorithms=[alg], options=options)


def test_callers_have_their_authorization_header() -> None:
    at = int(NOW.timestamp())
    full = {"sub": ACCOUNT, "iat": at, "exp": at + 3600}
    assert authorization("none", SECRET, NOW) is None
    assert authorization(Caller(raw="Basic abc"), SECRET, NOW) == "Basic abc"
    assert claims(authorization(ACCOUNT, SECRET, NOW)) == full
    assert claims(authorization(Caller(ACCOUNT, exp=-10), SECRET, NOW))["exp"] == at - 10
    assert claims(authorization(Caller(ACCOUNT, is_admin=True), SECRET, NOW))["is_admin"] is True
    assert claims(authorization(Caller(ACCOUNT, claims={"sub": "x"}), SECRET, NOW))["sub"] == "x"
    without = Caller(ACCOUNT, without=["sub", "exp"])
    assert claims(authorization(without, SECRET, NOW)) == {"iat": at}
    assert claims(authorization(Caller(ACCOUNT, secret="y" * 40), SECRET, NOW), "y" * 40) == full
    with pytest.raises(jwt.InvalidSignatureError):
        claims(authorization(Caller(ACCOUNT, secret="y" * 8), SECRET, NOW))
    unsigned = authorization(Caller(ACCOUNT, alg="none"), SECRET, NOW)
    assert unsigned is not None
    assert unsigned.endswith(".")


def scenario(*steps: dict[str, Any], rows: tuple[str, ...] = ()) -> Scenario:
    document = {"name": "it works", "rows": list(rows), "steps": steps, "undo": ["delete"]}
    return Scenario("some.json", "it works", json.dumps(document))


def test_fresh_ids_are_consistent_ordered_and_spelled_alike() -> None:
    hashed = "$2b$12$YoG4b449C4UoHr36EJjxKubBY3Ies/pqA4UB.DOktrZqaUpQJ4LFW"
    row = f"insert into users values ('{ACCOUNT}','{ACCOUNT}@example.test','{hashed}')"
    spellings = [PROFILE.upper(), ACCOUNT.replace("-", ""), f"{{{PROFILE}}}", ACCOUNT[:-1]]
    step = {"sql": json.dumps(spellings)}
    original = scenario(step, rows=(row,))
    first, second = original.fresh(), original.fresh()
    assert first.rows != second.rows
    account = first.rows[0].split("'")[1]
    assert account != ACCOUNT
    assert first.rows[0] == row.replace(ACCOUNT, account)
    upper, plain, braces, cut = json.loads(first.steps[0]["sql"])
    assert (plain, braces) == (account.replace("-", ""), f"{{{upper.lower()}}}")
    assert upper.isupper()
    assert cut == ACCOUNT[:-1]
    assert account < upper.lower()


STEP = {"method": "GET", "path": "/", "expect": {"status": 200}}


@pytest.mark.parametrize(
    "step",
    [
        {"sql": "select 1", "equals": 1},
        {"check": "select 1"},
        {"token": "name"},
        STEP | {"expects": {}},
        STEP | {"as": {"acount": ACCOUNT}},
        STEP | {"expect": {"json": {}}},
        STEP | {"expect": {"status": 200, "text": "OK"}},
        STEP | {"expect": {"status": 200, "json": {"a": "<uuidd>"}}},
        STEP | {"expect": {"status": 200, "json": ["<in>"]}},
        STEP | {"expect": {"status": 200, "json": ["<now:5>"]}},
        STEP | {"expect": {"status": 200, "headers": {"x": "<later>"}}},
        STEP | {"json": {}, "body": ""},
        {},
    ],
)
def test_invalid_step_is_refused(step: dict[str, Any], tmp_path: Path) -> None:
    document = {"name": "odd", "rows": [], "steps": [STEP, step], "undo": []}
    (tmp_path / "a.json").write_text(json.dumps([document]))
    with pytest.raises(ValueError, match=r"a\.json: odd: step 2: "):
        load(tmp_path)


def test_two_scenarios_with_one_name_are_refused(tmp_path: Path) -> None:
    document = {"name": "same", "rows": [], "steps": [], "undo": []}
    (tmp_path / "a.json").write_text(json.dumps([document]))
    assert [loaded.name for loaded in load(tmp_path)] == ["same"]
    (tmp_path / "b.json").write_text(json.dumps([document]))
    with pytest.raises(ValueError, match="one name"):
        load(tmp_path)


class Statements:
    """A fake database that records statements and answers two queries."""

    answers: ClassVar[dict[str, list[tuple[int, ...]]]] = {
        "select 120": [(120,)],
        "select 120, 1": [(120, 1)],
    }

    def __init__(self) -> None:
        self.run: list[str] = []

    async def execute(self, query: str, /) -> None:
        self.run.append(query)

    async def fetch(self, query: str, /) -> list[tuple[int, ...]]:
        return self.answers.get(query, [])


async def echo(request: Request) -> Response:
    """Returns the request, and an id that counts the requests."""
    request.app.state.count += 1
    return JSONResponse(
        {
            "id": f"request-{request.app.state.count}",
            "token": request.headers.get("authorization"),
            "type": request.headers.get("content-type"),
            "query": str(request.query_params),
            "path": request.url.path,
            "body": (await request.body()).decode(),
        },
        headers={"X-Odd": "1"},
    )


async def moved(request: Request) -> Response:
    return RedirectResponse("/echo")


async def plain(request: Request) -> Response:
    return Response('{"minutes": NaN}', media_type="application/json")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    every = ["GET", "POST", "PUT"]
    routes = [
        Route("/echo", echo, methods=every),
        Route("/echo/{rest:path}", echo, methods=every),
        Route("/moved", moved),
        Route("/nan", plain),
    ]
    application = Starlette(routes=routes)
    application.state.count = 0
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as opened:
        yield opened


Play = Callable[..., Awaitable[None]]


@pytest.fixture
def play(client: httpx.AsyncClient) -> Play:
    async def run(*steps: dict[str, Any]) -> None:
        await replay(scenario(*steps), client, Statements(), SECRET)

    return run


def get(path: str = "/echo", **members: Any) -> dict[str, Any]:
    """A request that expects the given status, headers, json and only."""
    named = ("status", "headers", "json", "only")
    expect = {"status": 200} | {name: members.pop(name) for name in named if name in members}
    return {"method": "GET", "path": path, "expect": expect} | members


async def test_scenario_without_a_difference_passes(play: Play) -> None:
    sent = {"method": "POST", "path": "/echo", "query": {"a": "{{today}}"}}
    await play(
        get(json={"id": "<save:first>", "token": None}, only=True),
        get("/echo/{{first}}", json={"path": "/echo/request-1"}, only=True),
        get(headers={"x-ODD": "1", "content-type": "application/json", "x-even": None}),
        get("/moved", status=307),
        {"sql": "select 1"},
        {"check": "select 120", "equals": 120.0},
        {"token": "mine", "as": {"account": ACCOUNT}},
        get(json={"token": "Bearer {{mine}}"}, only=True) | {"as": {"raw": "Bearer {{mine}}"}},
        sent | {"body": "nonsense", "expect": {"status": 200, "json": "<any>"}},
        sent
        | {
            "body": "",
            "expect": {
                "status": 200,
                "only": True,
                "json": {"type": "application/json", "body": "", "query": "a={{today}}"},
            },
        },
        sent
        | {
            "json": {"é": None},
            "headers": {"Content-Type": "text/plain"},
            "expect": {
                "status": 200,
                "only": True,
                "json": {"type": "text/plain", "body": '{"\\u00e9": null}'},
            },
        },
    )


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (get(status=201), "status: expected 201, got 200"),
        (get("/nothing", status=200), "status: expected 200, got 404"),
        (get("/moved"), "status: expected 200, got 307"),
        (get(json={"id": "<any>"}), "not expected"),
        (get(json={"minutes": 1}, only=True), "missing ['minutes']"),
        (get(json={"query": None}, only=True), "body.query: expected None, got ''"),
        (get(headers={"x-odd": "2"}), "header x-odd: expected '2', got '1'"),
        (get(headers={"x-even": "2"}), "header x-even: expected '2', got None"),
        (get(headers={"x-odd": None}), "header x-odd: expected None, got '1'"),
        (get(headers={"content-type": "text/plain"}), "header content-type"),
        (
            get(json={"id": "{{first}}"}, only=True),
            "body.id: expected 'request-1', got 'request-2'",
        ),
        (get("/nothing", status=404, json={}), "body: no JSON"),
        (get("/nan", json={"minutes": "<any>"}), "NaN is no JSON"),
        ({"check": "select 120", "equals": 121}, "value: expected 121, got 120"),
        ({"check": "select 120", "equals": "120"}, "value: expected '120', got 120"),
        ({"check": "select nothing", "equals": None}, "expected one row of one value"),
        ({"check": "select 120, 1", "equals": 120}, "expected one row of one value"),
    ],
)
async def test_scenario_with_a_difference_fails(
    play: Play, step: dict[str, Any], found: str
) -> None:
    with pytest.raises(Mismatch) as raised:
        await play(get(json={"id": "<save:first>"}, only=True), step)
    text = str(raised.value)
    assert found in text
    title = step["check"] if "check" in step else f"GET {step['path']}"
    assert text.startswith(f"some.json: it works: step 2: {title}: ")


@pytest.mark.parametrize("status", [200, 201])
async def test_undo_runs_even_after_a_failure(client: httpx.AsyncClient, status: int) -> None:
    database = Statements()
    played = scenario({"sql": "update"}, get(status=status), {"sql": "last"}, rows=("insert",))
    try:
        await replay(played, client, database, SECRET)
    except Mismatch:
        assert database.run == ["insert", "update", "delete"]
    else:
        assert database.run == ["insert", "update", "last", "delete"]


@pytest.mark.parametrize(
    ("minutes", "plays", "holds"), [([0, 0, 1], 1, False), ([14, 14, 15, 15], 2, True)]
)
async def test_a_run_across_a_quarter_of_an_hour_is_repeated_once(
    client: httpx.AsyncClient, minutes: list[int], plays: int, holds: bool
) -> None:
    database = Statements()
    clock = iter([NOW.replace(minute=minute) for minute in minutes])
    second = scenario(get(json={"id": "request-2"}, only=True))
    repeated = replay(second, client, database, SECRET, clock=lambda: next(clock))
    if holds:
        await repeated
    else:
        with pytest.raises(Mismatch):
            await repeated
    assert database.run == ["delete"] * plays
