"""Links, files, settings and tests that the documentation names exist."""

import re
import tomllib
from pathlib import Path
from typing import Final

import msgspec
import pytest
from starlette.routing import Route

from service.app import LIVE, ROUTES, SCRAPE
from service.events.event import Event
from service.settings import FIELDS, MASKED
from service.viewing.decision import RULES
from service.viewing.rules import WARNING_MINUTES

ROOT: Final = Path(__file__).parent.parent
LINK: Final = re.compile(r"\]\((?!\w+:)([^)\s#]*)(#[^)\s]*)?\)")
CODE: Final = re.compile(r"`((?:service|sql|migrations|tests|bench|ops|docs|examples)/[\w./-]*)`")


def documents() -> list[Path]:
    folders = (ROOT, ROOT / "docs", ROOT / "ops")
    return sorted(path for folder in folders for path in folder.glob("*.md"))


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, in the form of GitHub."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_relative_links_have_existing_targets(document: Path) -> None:
    for path, fragment in LINK.findall(document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {path}"
        if fragment:
            assert fragment[1:] in anchors(target), f"{document.name} links to {path}{fragment}"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_named_files_and_folders_exist(document: Path) -> None:
    names = set(CODE.findall(document.read_text()))
    assert sorted(name for name in names if not (ROOT / name).exists()) == []


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_table_of_endpoints_has_every_route() -> None:
    rows = re.findall(r"^\| (`[A-Z]+`?.*?) \|", (ROOT / "docs" / "endpoints.md").read_text(), re.M)
    listed, methods = set(), []
    for method, path in re.findall(r"`([A-Z]+)(?: (/[^`]*))?`", "".join(rows)):
        methods.append(method)
        if path:
            listed |= {(each, path) for each in methods}
            methods = []
    served = [route for route in (*ROUTES, SCRAPE, LIVE) if isinstance(route, Route)]
    assert {
        (each, route.path) for route in served for each in route.methods or ()
    } - listed == set()


def test_the_table_of_dependencies_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    names = {re.split(r"[^\w.-]", each)[0] for required in lists for each in required}
    table = (ROOT / "docs" / "dependencies.md").read_text().partition("|---|")[2]
    listed = {
        name for row in re.findall(r"^\| ([^|]+) \|", table, re.M) for name in row.split(", ")
    }
    opentelemetry = {name for name in names if name.startswith("opentelemetry-")}
    known = {name.split(" ")[0] for name in listed}
    assert names - opentelemetry - {"viewing-time"} - known == set()


SETTING: Final = re.compile(r"^\| `(\w+)` (†)? ?\| ([^|]*)\|", re.M)


def test_every_setting_is_described_with_its_default() -> None:
    rows = SETTING.findall((ROOT / "docs" / "settings.md").read_text())
    listed = {name.lower(): (text.strip(" `"), bool(file)) for name, file, text in rows}
    assert listed == {
        field.name: (shown(field.default), field.name in MASKED) for field in FIELDS.values()
    }


def shown(default: object) -> str:
    """A default as the table shows it."""
    if default is msgspec.NODEFAULT:
        return "required"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_named_tests_exist() -> None:
    named = {name for path in documents() for name in re.findall(r"`(test_\w+)`", path.read_text())}
    texts = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    examples = {"test_wrong_pin_locks_after_five_attempts"}
    assert named - examples - set(re.findall(r"def (test_\w+)", texts)) == set()


def test_the_table_of_rules_has_the_order_of_the_code() -> None:
    policy = (ROOT / "docs" / "policy.md").read_text()
    table = policy.partition("| rule |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.M)) == RULES


def test_the_table_of_verdicts_has_the_thresholds_of_the_code() -> None:
    policy = (ROOT / "docs" / "policy.md").read_text()
    table = policy.partition("| seconds left by the smallest rule |")[2].partition("\n\n")[0]
    more, some, few = (60 * minutes for minutes in (*WARNING_MINUTES, 0))
    assert re.findall(r"^\| (.*) \| `(\w+)` \|$", table, re.M) == [
        (f"more than {more}, or no limit", "allowed"),
        (f"{some + 1} to {more}", "warning_15"),
        (f"{few + 1} to {some}", "warning_5"),
        ("0", "blocked"),
    ]


EVENT: Final = re.compile(r"^\| `(\w+\.\w+)` \|[^|]*\| `(\{.*\})` \|$", re.M)
EVENTS: Final = (ROOT / "docs" / "events.md").read_text()
EXAMPLES: Final = {name: msgspec.json.decode(data) for name, data in EVENT.findall(EVENTS)}


def test_the_table_of_events_has_every_type_that_is_written() -> None:
    paths = [*(ROOT / "sql").glob("*.sql"), *(ROOT / "migrations").glob("*.sql")]
    texts = [re.sub(r"--[^\n]*", "", path.read_text()) for path in paths]
    writing = "".join(text for text in texts if "insert into viewing_events" in text)
    written = set(re.findall(r"'([a-z_]+\.[a-z_]+)'", writing))
    assert sorted(EXAMPLES) == sorted(written)
    assert len(EXAMPLES) == len(EVENT.findall(EVENTS))


def test_the_example_of_an_event_has_every_member() -> None:
    [example] = re.findall(r"```json\n(.*?)```", EVENTS, re.S)
    assert msgspec.json.decode(example).keys() == {*Event.__struct_fields__}
    shown = msgspec.json.decode(example, type=Event)
    assert msgspec.json.decode(shown.data) == EXAMPLES[shown.type]
