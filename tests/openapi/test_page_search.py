"""The search of the page of the API, in a real browser with the page's Content-Security-Policy."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from service.openapi import page
from tests.demo.browser import Browser, chromium
from tests.openapi.described import DOCUMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a browser has minutes to start


class PageHandler(BaseHTTPRequestHandler):
    """Answers every request with the page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        for name, value in page.HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page.page(DOCUMENT).encode())

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with HTTPServer(("127.0.0.1", 0), PageHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with chromium(tmp_path_factory.mktemp("browser")) as window:
            window.open(f"http://127.0.0.1:{server.server_port}/docs")
            yield window
        server.shutdown()


def results(browser: Browser) -> list[str]:
    found: list[str] = browser.run(
        "return [...document.querySelectorAll('#results a')].map((link) => link.textContent)"
    )
    return found


def query(browser: Browser, words: str) -> list[str]:
    browser.run("document.getElementById('query').value = ''")
    browser.type("#query", words)
    return results(browser)


def test_results_are_operations_whose_names_match_then_the_others(browser: Browser) -> None:
    found = query(browser, "lock profiles")
    assert found[:3] == [
        "Returns whether a child is locked, and until when",
        "Locks a child: nothing plays until the lock ends",
        "Ends a child's lock",
    ]
    assert query(browser, "grants GET")[0].startswith("Lists the extra time")
    assert "Sets the first PIN, or changes it with the current one" in query(
        browser, "Current PIN is incorrect"
    )


def test_number_of_results_is_announced(browser: Browser) -> None:
    assert query(browser, "zebra") == []
    assert browser.text("#found") == "0 results"
    assert browser.run("return document.getElementById('found').role") == "status"
    assert len(query(browser, "minutes")) == 20
    assert browser.text("#found").startswith("The first 20 of ")


def test_keyboard_opens_a_result_and_moves_the_focus_to_it(browser: Browser) -> None:
    browser.run("document.activeElement.blur()")
    browser.press("/", *"undo grant", "Enter")
    place = browser.run("return [location.hash, document.activeElement.id]")
    assert place == ["#undo_grant", "undo_grant"]
    assert browser.run("return document.getElementById('results').hidden")


def test_browser_reports_no_violation_of_the_policy(browser: Browser) -> None:
    assert [line for line in browser.errors() if "favicon" not in line] == []


def test_page_fits_the_width_of_a_phone(browser: Browser) -> None:
    browser.devtools(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=740,
        deviceScaleFactor=1,
        mobile=True,
    )
    query(browser, "pin")
    assert browser.run("return document.documentElement.scrollWidth") == 360
