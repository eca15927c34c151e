"""/demo: its files, its headers, and who receives the token of the demo family."""

import asyncio
import re
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from service.app import ROUTES
from service.command import demo
from service.database.driver import Connection
from service.demo import PATH, page
from service.http import error_responses
from service.settings import Settings
from tests.conftest import RunningService

ORIGIN = "http://127.0.0.1:8000"
FAMILY = page.Family(
    "a token",
    "1234",
    "correct horse",
    (page.Child(UUID(int=1), "Ada"),),
    (page.Title(UUID(int=2), "The Paper Boat", False),),
    "beats",
)
FILES = sorted(path for path in page.FOLDER.iterdir() if path.suffix in page.MEDIA_TYPES)
TEXTS = {path.name: path.read_text() for path in FILES}


def client(address: str = "127.0.0.1") -> httpx.AsyncClient:
    """An HTTP client of the page, which connects from `address`."""
    app = Starlette(
        routes=page.routes(lambda: FAMILY), exception_handlers={**error_responses.TABLE}
    )
    transport = httpx.ASGITransport(app, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN)


@pytest.fixture
async def local() -> AsyncIterator[httpx.AsyncClient]:
    async with client() as opened:
        yield opened


def served_paths() -> list[str]:
    return [route.path for route in page.routes(lambda: FAMILY)]


@pytest.mark.parametrize("path", served_paths())
async def test_page_runs_only_its_own_files(local: httpx.AsyncClient, path: str) -> None:
    answer = await local.get(path)
    assert answer.status_code == 200
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for kind in ("script-src", "style-src", "connect-src"):
        assert policy[kind] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"].partition(";")[0] in (
        *page.MEDIA_TYPES.values(),
        "application/json",
    )


async def test_page_is_served_at_its_path(local: httpx.AsyncClient) -> None:
    answer = await local.get(PATH)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == TEXTS["index.html"]


def test_files_name_only_files_that_are_served() -> None:
    named = set(re.findall(rf'"({PATH}/[^"]+)"', "".join(TEXTS.values())))
    imported = set(re.findall(r'from "\./([^"]+)"', "".join(TEXTS.values())))
    assert len(imported) > 5
    assert {*named, *(f"{PATH}/{name}" for name in imported)} <= {*served_paths()}


@pytest.mark.parametrize("name", TEXTS)
def test_files_have_no_external_address_and_nothing_inline(name: str) -> None:
    text = TEXTS[name].replace("http://www.w3.org/2000/svg", "")
    for forbidden in ("http:", "https:", "//cdn", "localStorage", "cookie", "innerHTML", "eval("):
        assert forbidden not in text
    if name.endswith(".html"):
        assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=", text)


def test_every_module_is_short() -> None:
    assert [name for name, text in TEXTS.items() if text.count("\n") > 270] == []


async def test_family_is_for_the_page(local: httpx.AsyncClient) -> None:
    answer = await local.get(f"{PATH}/family.json", headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.json()["token"] == "a token"
    assert answer.json()["children"] == [{"profile_id": str(UUID(int=1)), "name": "Ada"}]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000"])
async def test_family_is_served_by_the_names_of_this_computer(
    local: httpx.AsyncClient, host: str
) -> None:
    answer = await local.get(f"{PATH}/family.json", headers={"Host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # DNS rebinding
        {"Host": "evil.example:8000"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example:8000"},
        {"Host": "localhost:8000@evil.example"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"X-Forwarded-For": "127.0.0.1"},  # a proxy that is trusted, with any client before it
        {"Forwarded": "for=127.0.0.1"},
    ],
)
async def test_other_sites_do_not_get_the_token(
    local: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await local.get(f"{PATH}/family.json", headers=headers)
    assert answer.status_code == 403
    assert answer.json() == {"detail": "The demo works on this computer only, at 127.0.0.1"}


async def test_other_computers_do_not_get_the_token() -> None:
    async with client("192.0.2.7") as remote:
        assert (await remote.get(f"{PATH}/family.json")).status_code == 403


async def test_serve_has_no_demo(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url) as asking:
        for path in served_paths():
            assert (await asking.get(path)).status_code == 404
    assert [r.path for r in ROUTES if isinstance(r, Route) and "demo" in r.path] == []


async def test_names_are_those_of_the_database(settings: Settings, connection: Connection) -> None:
    assert await asyncio.to_thread(demo.load, settings)
    family = demo.family(settings)
    children = await connection.fetch("select id, name from profiles")
    assert {(one.profile_id, one.name) for one in family.children} == {*map(tuple, children)}
    titles = await connection.fetch("select id, title, is_educational from titles")
    assert {(one.title_id, one.name, one.is_educational) for one in family.titles} == {
        *map(tuple, titles)
    }
