"""The live page runs only its own script and requests only its own service."""

import json
import re
import shutil
import socket
import subprocess
from base64 import b64encode
from hashlib import sha256
from typing import Any, get_type_hints

import pytest

from service.database.driver import Connection
from service.operators.admin_metrics import Counts
from service.operators.live_page import PAGE
from tests.conftest import Running, Starter
from tests.family import Family


async def test_content_security_policy_allows_only_the_pages_own_script(running: Running) -> None:
    answer = await running.client.get("/admin/live")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    [script] = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")


@pytest.mark.parametrize(
    "outside", ["src=", "href=", "//cdn", "localStorage", "cookie", "innerHTML"]
)
def test_page_loads_nothing_and_stores_nothing(outside: str) -> None:
    assert outside not in PAGE.replace("http://www.w3.org/2000/svg", "")


def test_page_uses_existing_members_of_the_metrics() -> None:
    """They are members of the response to `GET /api/v1/admin/metrics`."""
    counted = get_type_hints(Counts)
    used = set(re.findall(r"\b(?:a|b|body|before)\.(\w+)\.(\w+)", PAGE))
    assert len(used) > 8
    for group, member in used:
        assert member in counted[group].__struct_fields__, f"{group}.{member}"
    assert set(re.findall(r"\bbody\.(instance|uptime_seconds)", PAGE)) <= set(counted)


DOCUMENT = """
class Element {
  constructor() { this.children = []; this.listeners = {}; this.value = ""; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  setAttribute(name, value) { this[name] = value; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
}
const elements = {};
const document = {
  getElementById: (id) => elements[id] ??= new Element(),
  createElement: () => new Element(),
  createElementNS: () => new Element(),
};
let clock = 0;
const performance = {now: () => clock};
const setTimeout = (done, wait) => { clock += wait; process.nextTick(done); };
const readings = JSON.parse(require("fs").readFileSync(0, "utf8"));
const shots = [];
let token;
const fetch = async (_, {headers}) => {
  token = headers.Authorization;
  if (shots.length || clock) shots.push(shot());
  if (!readings.length) { console.log(JSON.stringify(shots)); await new Promise(() => {}); }
  const {choose, ...body} = readings.shift();
  if (choose) {
    elements.instance.value = choose;
    elements.instance.listeners.change();
  }
  return {ok: true, status: 200, json: async () => body};
};
const shot = () => ({
  status: elements.status.textContent,
  facts: elements.facts.textContent,
  token,
  instances: elements.instance.children.map((option) => option.value),
  shown: elements.instance.children.find((option) => option.selected)?.value,
  rate: elements.cards.children[0].children[2].children[0].children[1].textContent,
  points: elements.cards.children[0].children[3].children[0]?.points,
  since: elements.cards.children[0].children[4].children[0].textContent,
  legends: elements.cards.children.map((card) => card.children[2].children.length),
});
"""
SUBMIT = """
document.getElementById("token").value = "curl -H 'Authorization: Bearer eyJh.eyJz.c-2' http://127.0.0.1";
document.getElementById("entry").listeners.submit({preventDefault: () => {}});
"""


def shots(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content of the page after each reading, from a JavaScript engine."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    [script] = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    done = subprocess.run(
        [node, "-e", DOCUMENT + script + SUBMIT],
        input=json.dumps(readings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen: list[dict[str, Any]] = json.loads(done.stdout)
    return seen


@pytest.fixture
async def reading(running: Running, connection: Connection, family: Family) -> dict[str, Any]:
    """A response of GET /admin/metrics."""
    await connection.execute("update users set is_admin = true")
    answer = await running.client.get("/api/v1/admin/metrics", headers=family.bearer)
    shown: dict[str, Any] = answer.json()
    return shown


def later(reading: dict[str, Any], instance: str, uptime: float, beats: int) -> dict[str, Any]:
    heartbeat = {**reading["heartbeat"], "total_processed": beats}
    return {**reading, "instance": instance, "uptime_seconds": uptime, "heartbeat": heartbeat}


def test_rates_are_computed_per_process(reading: dict[str, Any]) -> None:
    """A load balancer alternates between a process at 10 per second and an older one at 100."""
    readings = []
    for step in range(6):
        readings.append(later(reading, "a:1/x", 100 + 4 * step, 1000 + 40 * step))
        readings.append(later(reading, "b:1/y", 9000 + 4 * step, 500_000 + 400 * step))
    readings.append({**later(reading, "a:1/x", 124, 1240), "choose": "b:1/y"})
    seen = shots(readings)
    assert {shot["rate"] for shot in seen[:-1]} == {"10"}
    assert seen[0]["instances"] == ["a:1/x"]
    assert seen[-1]["instances"] == ["a:1/x", "b:1/y"]
    assert "Instances seen: 2." in seen[-1]["facts"]
    assert (seen[-1]["shown"], seen[-1]["rate"]) == ("b:1/y", "100")
    assert len(seen[-1]["points"].split()) == 6


def test_page_switches_to_the_restarted_process(reading: dict[str, Any]) -> None:
    before = [later(reading, "a:1/x", 100 + 2 * step, 1000 + 20 * step) for step in range(3)]
    after = [later(reading, "a:1/z", 1 + 2 * step, 10 * step) for step in range(160)]
    seen = shots(before + after)
    assert seen[2]["rate"] == "10"
    assert [shot["shown"] for shot in seen[3:12]] == ["a:1/x"] * 5 + ["a:1/z"] * 4
    assert seen[11]["rate"] == "5"
    assert seen[-1]["instances"] == ["a:1/z"]


def test_first_reading_draws_lines_of_rates_since_the_start(reading: dict[str, Any]) -> None:
    [first] = shots([later(reading, "a:1/x", 9000, 45_000)])
    assert (first["rate"], first["since"]) == ("5", "first reading: rates since the start")
    assert first["points"] == "0,3 1,3"
    assert first["legends"] == [1, 2, 1, 1, 2, 1, 1, 2]


def test_uptime_is_in_minutes_and_hours(reading: dict[str, Any]) -> None:
    seen = shots([later(reading, "a:1/x", at, 1) for at in (59.9, 61, 9000, 266_400)])
    uptimes = [shot["facts"].partition(",")[0] for shot in seen]
    assert uptimes == ["Up for 59 s", "Up for 1 min", "Up for 2 h 30 min", "Up for 3 d 2 h"]


def test_token_of_a_pasted_curl_line_is_sent(reading: dict[str, Any]) -> None:
    [first] = shots([later(reading, "a:1/x", 1, 1)])
    assert (first["token"], first["status"]) == ("Bearer eyJh.eyJz.c-2", "Connected.")


async def test_each_start_has_its_own_instance_name(
    running: Running, start: Starter, reading: dict[str, Any], family: Family
) -> None:
    other = await start()
    names = []
    for one in (running, other, running):
        answer = await one.client.get("/api/v1/admin/metrics", headers=family.bearer)
        names.append(answer.json()["instance"])
    assert names[0] == names[2] == reading["instance"]
    assert names[0] != names[1]
    place = f"{socket.gethostname()}:{running.context.settings.port}"
    assert {name.rpartition("/")[0] for name in names} == {place}
