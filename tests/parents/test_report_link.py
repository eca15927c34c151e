"""Links to the weekly report: once, for five minutes, without an access token."""

import asyncio
import hashlib
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.parents.report_link import LINK_SECONDS, MAX_LINKS, RANDOM_BYTES
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.family import Family, add_family
from tests.parents.test_history import add_session
from tests.parents.test_weekly_report import add_children
from tests.statement_counts import of_requests

LINK = "/api/v1/parental-controls/weekly-report/link"
PAGE = "/api/v1/parental-controls/weekly-report/page/"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
UNUSABLE = {"detail": "Link is unknown, has been used or has expired"}


async def link(running: Running, family: Family, **headers: str) -> str:
    answer = await running.client.post(LINK, headers={**family.bearer, **headers})
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["url"]
    return url


async def open_links(connection: Connection, family: Family) -> int:
    count: int = await connection.fetchval(
        "select count(*)::int from viewing_report_links where account_id = $1", family.account
    )
    return count


async def test_a_link_shows_the_page_once_without_a_token(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_session(connection, family, running.clock(), seconds=3600)
    answer = await running.client.post(LINK, headers=family.bearer)
    url = answer.json()["url"]
    assert url.startswith(PAGE)
    assert answer.headers["cache-control"] == "no-store"
    expires_at = datetime.fromisoformat(answer.json()["expires_at"])
    assert abs(expires_at - datetime.now(UTC) - timedelta(seconds=LINK_SECONDS)) < timedelta(
        minutes=1
    )
    page = await running.client.get(url, headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "1\u00a0h counted, 7.1\u00a0% of the limit" in page.text
    assert page.headers["cache-control"] == "private, no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["vary"] == "Accept-Language, Origin"
    again = await running.client.get(url, headers=BROWSER)
    assert again.status_code == 404
    assert again.headers["content-type"] == "text/html; charset=utf-8"
    assert "This link has been used or has expired." in again.text
    assert "Ada" not in again.text
    as_json = await running.client.get(url)
    assert (as_json.status_code, as_json.json()) == (404, UNUSABLE)


async def test_page_of_a_link_and_its_error_are_in_the_readers_language(
    running: Running, family: Family
) -> None:
    url = await link(running, family)
    german = {**BROWSER, "Accept-Language": "de-CH"}
    for text in ("Am meisten gesehen", "Dieser Link wurde schon benutzt oder ist abgelaufen."):
        page = await running.client.get(url, headers=german)
        assert page.headers["content-language"] == "de"
        assert '<html lang="de">' in page.text
        assert (text in page.text) or "Es wurde nichts gesehen." in page.text


async def test_a_link_works_once_on_all_instances(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start() for _ in range(2)]
    url = await link(instances[0], family)
    requests = [each.client.get(url, headers=BROWSER) for each in instances * 5]
    answers = await asyncio.gather(*requests)
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 9
    assert await open_links(connection, family) == 0


async def test_a_link_expires_by_the_clock_of_the_database(
    running: Running, connection: Connection, family: Family
) -> None:
    url = await link(running, family)
    running.clock.fixed += timedelta(days=1)
    assert (await running.client.get(url)).status_code == 200
    url = await link(running, family)
    await connection.execute("update viewing_report_links set expires_at = now()")
    running.clock.fixed -= timedelta(days=2)
    assert (await running.client.get(url)).status_code == 404


async def test_a_link_of_a_deactivated_account_is_404(
    running: Running, connection: Connection, family: Family
) -> None:
    url = await link(running, family)
    await connection.execute("update users set is_active = false where id = $1", family.account)
    assert (await running.client.get(url)).status_code == 404
    answer = await running.client.post(LINK, headers=family.bearer)
    assert (answer.status_code, answer.json()) == (401, {"detail": "User not found or inactive"})
    assert await open_links(connection, family) == 1


async def test_an_account_has_at_most_twenty_open_links(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    kept = await link(running, stranger)
    urls = [await link(running, family) for _ in range(MAX_LINKS + 3)]
    assert await open_links(connection, family) == MAX_LINKS
    statuses = [(await running.client.get(url)).status_code for url in urls]
    assert statuses == [404] * 3 + [200] * MAX_LINKS
    assert (await running.client.get(kept)).status_code == 200


async def test_a_new_link_deletes_expired_ones(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    for _ in range(5):
        await link(running, stranger)
    await connection.execute("update viewing_report_links set expires_at = now()")
    await link(running, family)
    assert await open_links(connection, stranger) == 0


async def test_parallel_links_do_not_wait_for_each_other(
    running: Running, connection: Connection, family: Family
) -> None:
    for _ in range(MAX_LINKS):
        await link(running, family)
    await asyncio.gather(*(link(running, family) for _ in range(40)))
    await link(running, family)
    assert await open_links(connection, family) <= MAX_LINKS + 40


async def test_the_links_of_an_account_are_deleted_with_it(
    running: Running, connection: Connection, family: Family
) -> None:
    await link(running, family)
    await connection.execute("delete from users where id = $1", family.account)
    assert await open_links(connection, family) == 0


def signed_elsewhere(url: str) -> str:
    signed = urlsafe_b64decode(url.removeprefix(PAGE))
    return PAGE + urlsafe_b64encode(signed[:-1] + bytes([signed[-1] ^ 1])).decode()


@pytest.mark.warm
async def test_a_token_with_another_signature_costs_no_statement(
    running: Running, connection: Connection, family: Family
) -> None:
    url = await link(running, family)
    before = await of_requests(connection)
    tokens = ("x", "%00", "é", "%FF%FE", "A" * 64, "=" * 64, "A" * 5000, "not.a.token")
    for other in (signed_elsewhere(url), *(PAGE + token for token in tokens)):
        answer = await running.client.get(other)
        assert (answer.status_code, answer.json()) == (404, UNUSABLE), other
    assert await of_requests(connection) == before
    assert (await running.client.get(url)).status_code == 200
    assert await of_requests(connection) == before + 3  # the link, the children, their sums


async def test_a_link_survives_a_change_of_the_secret(
    start: Starter, settings: Settings, family: Family
) -> None:
    url = await link(await start(), family)
    renewed = msgspec.structs.replace(
        settings, jwt_secret="another secret, also long enough for HS256", jwt_secret_previous=""
    )
    assert (await (await start(renewed)).client.get(url)).status_code == 404
    renewed = msgspec.structs.replace(renewed, jwt_secret_previous=settings.jwt_secret)
    assert (await (await start(renewed)).client.get(url)).status_code == 200


async def test_the_database_and_the_log_do_not_contain_the_token(
    running: Running,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        url = await link(running, family, **{"Idempotency-Key": "k1"})
        for _ in range(2):
            await running.client.get(url, headers=BROWSER)
            await running.client.get(url + "/")
    # The records of the test's client name every URL.
    log = "".join(f"{vars(record)}" for record in caplog.records if record.name != "httpx")
    assert url.removeprefix(PAGE) not in log
    assert f"{PAGE}{{token}}" in log
    url = await link(running, family)
    stored = await connection.fetchrow("select * from viewing_report_links")
    assert stored is not None
    secret = urlsafe_b64decode(url.removeprefix(PAGE))[:RANDOM_BYTES]
    assert stored["id"] == hashlib.sha256(secret).digest()
    answers = await connection.fetch("select answer from viewing_time_request_keys")
    assert [row["answer"] for row in answers] == ["{}"]


async def test_a_repeated_request_gets_a_new_link(running: Running, family: Family) -> None:
    urls = {await link(running, family, **{"Idempotency-Key": "k1"}) for _ in range(3)}
    assert len(urls) == 3
    for url in urls:
        assert (await running.client.get(url)).status_code == 200


async def test_head_does_not_use_the_link(running: Running, family: Family) -> None:
    url = await link(running, family)
    head = await running.client.head(url)
    assert (head.status_code, head.headers["allow"]) == (405, "GET")
    assert (await running.client.get(url)).status_code == 200


async def test_page_of_a_link_shows_the_first_children_and_no_link_that_needs_a_token(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_children(connection, family, 55)
    page = await running.client.get(await link(running, family), headers=BROWSER)
    assert page.text.count('<section class="child"') == 50
    assert "<a " not in page.text
    assert "The account has more children." in page.text
    assert "link" not in page.headers


async def test_reports_of_links_are_counted(running: Running, family: Family) -> None:
    await running.client.get(await link(running, family))
    metrics = running.context.metrics
    assert (metrics.reports.count, metrics.report_statements) == (1, 2)


async def test_a_link_needs_no_pin_in_a_strict_account(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into viewing_strict_accounts (account_id, since) values ($1, now())", family.account
    )
    page: httpx.Response = await running.client.get(await link(running, family))
    assert page.status_code == 200
