"""A real Chromium for tests, over the WebDriver protocol: JSON over HTTP to chromedriver."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from bench.ports import free_port
from tests.processes import dying_with_parent

ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"  # the key of a reference (WebDriver, 12.2)
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,1000",
)
KEYS: Final = {"Tab": "\ue004", "Enter": "\ue007", "Right": "\ue014"}


class Browser:
    """One window."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._client.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.is_success, value
        return value

    def open(self, url: str) -> None:
        self.send("POST", "url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script of the page returns."""
        return self.send("POST", "execute/sync", {"script": script, "args": arguments})

    def click(self, selector: str) -> None:
        self.send("POST", f"element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self.send("POST", f"element/{self._find(selector)}/value", {"text": text})

    def press(self, *names: str) -> None:
        """Presses keys one after another; the element with the focus receives them."""
        actions = [
            {"type": kind, "value": KEYS.get(name, name)}
            for name in names
            for kind in ("keyDown", "keyUp")
        ]
        self.send("POST", "actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def tab_to(self, selector: str) -> None:
        """Presses Tab until the element has the focus; after the last element comes the first."""
        for _ in range(100):
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
            self.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    def text(self, selector: str) -> str:
        """The text of an element as it is visible; empty if it is hidden."""
        shown: str = self.send("GET", f"element/{self._find(selector)}/text")
        return shown

    def waits(self, expected: Callable[[], object], seconds: float = 60) -> None:
        """Returns when the page is as expected; fails after `seconds`."""
        end = time.monotonic() + seconds
        while not expected():
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.05)

    def devtools(self, command: str, **parameters: object) -> Any:
        body = {"cmd": command, "params": parameters}
        return self.send("POST", "goog/cdp/execute", body)

    def errors(self) -> list[str]:
        """The lines of the console since the last call; violations of the CSP are among them."""
        lines = self.send("POST", "se/log", {"type": "browser"})
        return [line["message"] for line in lines]

    def _find(self, selector: str) -> str:
        found = self.send("POST", "element", {"using": "css selector", "value": selector})
        reference: str = found[ELEMENT]
        return reference


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in `folder`; skips the test where there is none.

    A first start reads hundreds of megabytes, so it has minutes; one that hangs is tried again.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    with ExitStack() as opened:
        try:
            browser = opened.enter_context(_opened(program, driver, folder / "first", seconds=120))
        except httpx.TimeoutException:
            browser = opened.enter_context(_opened(program, driver, folder / "second", seconds=240))
        yield browser


@contextmanager
def _opened(program: str, driver: str, profile: Path, *, seconds: float) -> Iterator[Browser]:
    """A browser that has `seconds` to start."""
    port = free_port()
    process = subprocess.Popen(
        [driver, f"--port={port}", "--allowed-ips=127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(),
    )
    options = {
        "binary": program,
        "args": [*FLAGS, f"--user-data-dir={profile}"],
    }
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    try:
        _await_port(port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            body = {"capabilities": {"alwaysMatch": wanted}}
            opened = client.post("/session", json=body, timeout=seconds).json()["value"]
            assert "sessionId" in opened, opened
            session = f"/session/{opened['sessionId']}"
            client.base_url = client.base_url.join(session)
            try:
                yield Browser(client)
            finally:
                httpx.delete(f"http://127.0.0.1:{port}{session}", timeout=60)
    finally:
        process.terminate()
        process.wait(60)


def _await_port(port: int) -> None:
    """Returns when a process listens on `port`."""
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return
