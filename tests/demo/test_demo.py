"""The demo in a real Chromium: a child watches and is blocked, and a parent decides."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from bench.ports import free_port
from tests.conftest import ROOT, answering, copied
from tests.demo.browser import Browser, chromium
from tests.family import PASSWORD_HASH, PIN_HASH, SECRET
from tests.processes import dying_with_parent

pytestmark = pytest.mark.timeout(600)  # a browser has minutes to start
# As `viewing-time run` serves it, with the PostgreSQL of the tests, and hashes that cost less.
RUN = """
import os
from functools import partial
from service.command import demo, environment, serving
from service.demo import page

settings = environment.all_settings(dict(os.environ))
demo.PIN_HASH, demo.PASSWORD_HASH = os.environ["HASHES"].split()
assert demo.load(settings)
serving.serve(settings, lambda: None, page.routes(partial(demo.family, settings)))
"""


@pytest.fixture(scope="module")
async def url(postgres_dsn: str, template: str) -> AsyncIterator[str]:
    """The address of a service with the demo."""
    port = str(free_port())
    async with copied(postgres_dsn, template) as dsn:
        settings = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, "PORT": port, "BCRYPT_ROUNDS": "4"}
        process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=ROOT,
            env={**os.environ, **settings, "HASHES": f"{PIN_HASH} {PASSWORD_HASH}"},
            stdout=subprocess.DEVNULL,
            preexec_fn=dying_with_parent(),
        )
        try:
            await answering(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def page(chrome: Browser, url: str) -> Browser:
    """The page as it is after "Start over"."""
    chrome.open(f"{url}/demo")
    chrome.waits(lambda: chrome.text("#left") != "–")
    chrome.click("#over")
    chrome.waits(lambda: chrome.run("return document.querySelector('#over').ariaBusy") == "false")
    assert chrome.text("#used") == "0 of 120 minutes used"
    chrome.errors()
    return chrome


def kind(page: Browser, device: str = "tv") -> Callable[[], Any]:
    """The state of a device: `playing`, `blocked`, …"""
    return lambda: page.run(f"return document.querySelector('#{device}').dataset.kind")


def is_now(page: Browser, state: str, device: str = "tv") -> None:
    """Returns when a device is in this state."""
    page.waits(lambda: kind(page, device)() == state)


def limit(page: Browser, minutes: int) -> None:
    page.click(f"#limit option[value='{minutes}']")
    page.click("#limit-form button")


def fast(page: Browser) -> None:
    page.click("#speeds label:last-child")


def watch(url: str, minutes: float) -> None:
    """Sends the heartbeats of another player of the child."""
    family = httpx.get(f"{url}/demo/family.json", timeout=60).json()
    body = {
        "profile_id": family["children"][0]["profile_id"],
        "title_id": family["titles"][0]["title_id"],
        "device_id": "tv-2",
    }
    headers = {"Authorization": f"Bearer {family['token']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as player:
        for _ in range(int(minutes * 2)):
            answer = player.post("/api/v1/viewing-time/heartbeat", json=body)
            body["session_id"] = answer.json()["session_id"]


def refusals(page: Browser) -> list[str]:
    """The status codes in the console; fails for any other line, such as a violation of the CSP."""
    lines = page.errors()
    assert all("Failed to load resource" in line for line in lines), lines
    return [line.partition("status of ")[2][:3] for line in lines]


def test_child_is_warned_and_blocked_and_plays_on_when_a_parent_approves(page: Browser) -> None:
    page.click("#tv .play")
    is_now(page, "playing")
    assert page.text("#tv .count").startswith("1:")
    assert page.text("#tv .play") == "Pause"
    fast(page)
    limit(page, 15)
    page.waits(lambda: "minutes left" in page.text("#tv .banner"))
    assert "left" in page.run("return document.querySelector('#said').textContent")
    is_now(page, "blocked")
    assert page.text("#tv .why") == "Today's viewing time is used up."
    alarm = page.run("return document.querySelector('#alarm').textContent")
    assert alarm == "Television: Blocked. Today's viewing time is used up."
    page.waits(lambda: "Ada is blocked: daily limit." in page.text("#news"))

    page.click("#tv .ask")
    page.waits(lambda: "Ada asks for 30 more minutes." in page.text("#requests"))
    page.waits(lambda: "A parent has not answered yet." in page.text("#tv .then"))
    page.click("#requests .approve")
    is_now(page, "playing")
    assert page.text("#requests") == ""
    done = page.run("return [...document.querySelectorAll('.done')].map((step) => step.id)")
    assert {"step-play", "step-limit", "step-warning", "step-blocked", "step-approved"} <= {*done}
    assert refusals(page) == []


def test_denied_child_plays_on_when_a_parent_types_the_pin(page: Browser, url: str) -> None:
    watch(url, minutes=14.5)
    limit(page, 15)
    page.click("#tv .play")
    is_now(page, "blocked")
    page.click("#tv .ask")
    page.waits(lambda: page.text("#requests"))
    page.click("#requests .deny")
    page.waits(lambda: page.text("#tv .then") == "A parent has said no.")
    page.type("#tv .pin", "9999")
    page.click("#tv .pin-grant button")
    page.waits(lambda: page.text("#tv > .fault") == "Incorrect PIN")
    assert kind(page)() == "blocked"
    page.type("#tv .pin", "1234")
    page.click("#tv .pin-grant button")
    is_now(page, "playing")
    page.waits(lambda: page.text("#tv > .fault") == "")
    assert refusals(page) == ["403"]


def test_second_device_takes_over(page: Browser) -> None:
    page.click("#tv .play")
    is_now(page, "playing")
    page.click("#tablet .play")
    is_now(page, "playing", "tablet")
    is_now(page, "displaced")
    assert page.text("#tv .why") == "A tablet plays now."
    page.click("#tv .play")
    is_now(page, "playing")
    is_now(page, "displaced", "tablet")
    assert page.text("#tablet .why") == "A television plays now."
    assert {*refusals(page)} == {"409"}


def test_every_rule_of_the_phone_reaches_the_television(page: Browser) -> None:
    fast(page)
    page.click("#tv .play")
    is_now(page, "playing")
    page.click("#lock")
    is_now(page, "blocked")
    assert page.text("#tv .why") == "A parent has locked this profile."
    assert page.text("#tv .ask") == ""  # more time does not lift a lock
    page.waits(lambda: page.text("#lock") == "Unlock")
    page.click("#lock")
    is_now(page, "playing")
    page.click("#downtime-form button")
    is_now(page, "blocked")
    assert page.text("#tv .why") == "No viewing at this time of day."
    page.click("#no-downtime")
    is_now(page, "playing")
    page.click("#grant-form button[value='']")
    page.waits(lambda: page.text("#tv .count") == "no limit")
    page.click("#tv .play")
    is_now(page, "paused")
    assert refusals(page) == []


def test_educational_exemption_needs_the_pin(page: Browser) -> None:
    page.click("#lessons")
    page.waits(lambda: "PIN token required" in page.text("#phone-fault"))
    assert refusals(page) == ["403"]
    page.type("#pin", "1234")
    page.click("#pin-form button")
    page.waits(lambda: "confirmed" in page.text("#pin-state"))
    assert page.text("#phone-fault") == ""
    page.waits(lambda: page.run("return document.querySelector('#lessons').checked"))
    page.click("#lessons")
    page.waits(
        lambda: "educational_exempt" in page.text("#curl") and "false" in page.text("#answer")
    )
    page.click("#lessons")
    page.waits(lambda: '"educational_exempt": true' in page.text("#answer"))


def test_locked_pin_is_reset_with_the_password(page: Browser) -> None:
    for attempt in range(6):
        page.type("#pin", "9999")
        page.click("#pin-form button")
        page.waits(lambda: page.text("#phone-fault"))
        assert page.text("#phone-fault").startswith(
            "Incorrect PIN" if attempt < 5 else "PIN locked"
        )
    page.waits(lambda: "The PIN is locked" in page.text("#news"))
    page.click("#pin-reset")
    page.waits(lambda: page.text("#pin-state") == "it is 1234 again")
    assert page.text("#phone-fault") == ""
    assert {*refusals(page)} == {"403"}


def test_latest_request_is_shown_as_a_curl_line_that_works(page: Browser) -> None:
    limit(page, 45)
    page.waits(lambda: "weekday_limit_minutes" in page.text("#curl"))
    page.waits(lambda: '"weekday_limit_minutes": 45' in page.text("#answer"))
    module = "import('/demo/api.mjs').then((api) => api.curl(arguments[0]))"
    call = {
        "method": "POST",
        "path": "/api/v1/viewing-time/requests",
        "headers": {"Authorization": "Bearer T"},
        "content": '{"message":"it\'s"}',
    }
    line = page.run(f"return {module}", call)
    shown = ["sh", "-c", line.replace("curl -s", "printf '%s|'", 1)]
    done = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split("|")
    assert done[:5] == ["-X", "POST", "-H", "Authorization: Bearer T", "-d"]
    assert done[5] == '{"message":"it\'s"}'
    assert done[6].endswith("/api/v1/viewing-time/requests")


def test_keyboard_suffices(page: Browser, url: str) -> None:
    watch(url, minutes=14)
    page.tab_to("#speeds input")
    page.press("Right")
    assert page.run("return document.activeElement.value") == "300"
    page.tab_to("#tv .play")
    page.press("Enter")
    is_now(page, "playing")
    page.tab_to("#limit")
    page.press("1", "5")
    page.tab_to("#limit-form button")
    page.press("Enter")
    is_now(page, "blocked")
    page.tab_to("#tv .ask")
    page.press("Enter")
    page.waits(lambda: page.text("#requests"))
    page.tab_to("#requests .approve")
    page.press("Enter")
    is_now(page, "playing")
    assert refusals(page) == []


def test_every_control_has_a_name(page: Browser) -> None:
    nodes = page.devtools("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in ("button", "textbox", "combobox", "radio", "checkbox", "timer")
    ]
    assert len(controls) > 20
    assert [control for control in controls if not control[1].strip()] == []


@pytest.mark.parametrize("width", [320, 390])
def test_phone_width_has_no_horizontal_scroll(page: Browser, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.devtools("Emulation.setDeviceMetricsOverride", **size)
    try:
        page.click("#lock")
        page.click("#tv .play")
        is_now(page, "blocked")
        widths = "return [document.documentElement.scrollWidth, innerWidth]"
        assert page.run(widths) == [width, width]
    finally:
        page.devtools("Emulation.clearDeviceMetricsOverride")


def test_dark_mode_and_reduced_motion_are_followed(page: Browser) -> None:
    page.click("#tv .play")
    is_now(page, "playing")
    color = "return getComputedStyle(document.body).backgroundColor"
    moving = "return document.getAnimations().filter((one) => one.playState === 'running').length"
    light = page.run(color)
    assert page.run(moving) > 0
    features = [
        {"name": "prefers-color-scheme", "value": "dark"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    page.devtools("Emulation.setEmulatedMedia", features=features)
    try:
        assert page.run(color) != light
        page.waits(lambda: page.run(moving) == 0)
    finally:
        page.devtools("Emulation.setEmulatedMedia", features=[])


def test_fault_of_the_service_is_shown(chrome: Browser, url: str) -> None:
    port = url.rpartition(":")[2]
    chrome.open(f"http://localhost:{port}/demo")
    chrome.waits(lambda: chrome.text("#left") != "–")  # another name of this computer
    chrome.open(f"http://a.localhost:{port}/demo")
    chrome.waits(lambda: "this computer only" in chrome.text("#fault"))
