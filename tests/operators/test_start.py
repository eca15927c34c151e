"""GET /: links to the pages for people; clients with a token get the 404 of the contract."""

import re

import pytest

from tests.conftest import Running
from tests.family import Family

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
async def test_start_lists_pages_that_exist(running: Running, accept: str) -> None:
    answer = await running.client.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    paths = [link["path"] for link in answer.json()["links"]]
    assert paths == ["/docs", "/openapi.json", "/admin/live", "/health"]
    for path in paths:
        assert (await running.client.get(path)).status_code == 200


async def test_start_is_a_page_with_the_same_links_for_a_browser(running: Running) -> None:
    listed = (await running.client.get("/")).json()["links"]
    answer = await running.client.get("/", headers={"Accept": BROWSER})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Accept" in answer.headers["vary"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    shown = re.findall(r'<a href="(.*?)">', answer.text)
    assert shown == [link["path"] for link in listed]


@pytest.mark.parametrize("accept", ["*/*", BROWSER])
async def test_client_with_a_token_gets_the_404_of_the_contract(
    running: Running, family: Family, accept: str
) -> None:
    answer = await running.client.get("/", headers={**family.bearer, "Accept": accept})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
