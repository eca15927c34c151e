"""The HTML weekly report: well-formed, without scripts, accessible, the figures of the JSON."""

import base64
import hashlib
import re
from datetime import date, timedelta
from html.parser import HTMLParser
from uuid import uuid4
from xml.etree import ElementTree

import pytest
from starlette.responses import Response

from service.parents.report_page import page
from service.parents.week import Day, Title, Week

DAYS = [date(2026, 11, 18) + timedelta(days=n) for n in range(7)]
HOSTILE = '"It\'s" <script>alert(1)</script> 🚀 </svg> مرحبا'
VOID = {"meta"}


def week(
    name: str = "Ada",
    seconds: tuple[int, ...] = (5700, 7200, 3600, 11_100, 1800, 0, 9000),
    educational: tuple[int, ...] = (1800, 0, 3600, 2700, 0, 0, 1200),
    limit: int | None = 120,
    title: str = "The Paper Boat",
) -> Week:
    days = zip(DAYS, seconds, educational, strict=True)
    titles = [Title(uuid4(), title, sum(seconds))] if any(seconds) else []
    return Week(uuid4(), name, [Day(*day, limit) for day in days], titles)


class Tree(HTMLParser):
    """Checks that every tag is closed, and collects tags and text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data
        if "tbody" in self.open:
            self.rows[-1].append(data.replace("\u00a0", " "))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shown(*weeks: Week) -> Tree:
    return Tree(text(page(weeks, DAYS)))


def text(response: Response) -> str:
    return bytes(response.body).decode()


def drawings(*weeks: Week) -> list[ElementTree.Element]:
    """The children's pictures as XML."""
    document = text(page(weeks, DAYS))
    found = re.findall(r'<svg viewBox="0 0 350 .*?</svg>', document, re.DOTALL)
    return [ElementTree.fromstring(drawing) for drawing in found]


def heights(drawing: ElementTree.Element, kind: str) -> list[float]:
    return [float(bar.attrib["height"]) for bar in drawing.iter("rect") if bar.get("class") == kind]


def test_bars_are_in_proportion_and_the_educational_part_lies_on_top() -> None:
    [drawing] = drawings(week())
    counted, educational = heights(drawing, "counted"), heights(drawing, "educational")
    unit = counted[1] / 7200
    assert unit > 0
    assert counted == pytest.approx(
        [s * unit for s in (3900, 7200, 0, 8400, 1800, 0, 7800)], abs=0.1
    )
    assert educational == pytest.approx([s * unit for s in (1800, 3600, 2700, 1200)], abs=0.1)
    bars = {bar.attrib["x"]: bar for bar in drawing.iter("rect") if bar.get("class") == "counted"}
    for bar in drawing.iter("rect"):
        if bar.get("class") == "educational":
            top = float(bars[bar.attrib["x"]].attrib["y"])
            assert float(bar.attrib["y"]) + float(bar.attrib["height"]) == pytest.approx(
                top, abs=0.2
            )


def test_the_limit_is_drawn_at_its_height_across_each_day_that_has_one() -> None:
    [drawing] = drawings(week(seconds=(7200,) * 7, educational=(0,) * 7))
    [path] = [shape for shape in drawing.iter("path") if shape.get("class") == "limit"]
    heights_of_limits = re.findall(r"M[\d.]+ ([\d.]+)h", path.attrib["d"])
    [top] = {bar.attrib["y"] for bar in drawing.iter("rect")}
    assert heights_of_limits == [top] * 7
    [unlimited] = drawings(week(limit=None))
    [path] = [shape for shape in unlimited.iter("path") if shape.get("class") == "limit"]
    assert path.attrib["d"] == ""


@pytest.mark.parametrize("seconds", [0, 1, 30, 3601, 24 * 3600, 10**12])
def test_every_amount_stays_inside_the_picture(seconds: int) -> None:
    [drawing] = drawings(week(seconds=(seconds,) * 7, educational=(seconds // 2,) * 7))
    for bar in drawing.iter("rect"):
        assert float(bar.attrib["y"]) >= 16 - 0.1
        assert float(bar.attrib["y"]) + float(bar.attrib["height"]) <= 140 + 0.1
    above = [mark.text for mark in drawing.iter("text") if mark.get("class") == "value"]
    assert len(above) == (7 if seconds else 0)
    assert "0:00" not in above


def test_names_are_escaped() -> None:
    document = shown(week(HOSTILE, title=HOSTILE))
    assert document.text.count(HOSTILE) == 3
    assert document.of("script") == []
    assert "<script" not in text(page([week(HOSTILE, title=HOSTILE)], DAYS))
    assert [heading["dir"] for heading in document.of("h2")] == ["auto"]
    assert len(document.of("bdi")) == 1


def test_the_page_runs_no_script_and_loads_nothing() -> None:
    answer = page([week()], DAYS)
    document = text(answer)
    style = document.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for _, attributes in Tree(document).tags:
        assert {"src", "href", "style", "srcset", "data"} & set(attributes) == set()
        assert not any(name.startswith("on") for name in attributes)
    assert set(re.findall(r"url\(([^)]*)\)", document)) == {"#hatch"}
    assert not re.search(r"https?:|//|@import", document)
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_a_table_repeats_the_bars_for_screen_readers() -> None:
    document = shown(week(), week("Ben", limit=None))
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = [svg for svg in document.of("svg") if svg.get("role") == "img"]
    assert len(pictures) == 2
    for picture in pictures:
        assert set((picture["aria-labelledby"] or "").split()) < set(ids)
    rows = [row for row in document.rows if row]
    assert len(rows) == 14
    assert rows[0] == ["Wed, Nov 18", "1 h 35 min", "30 min", "2 h"]
    assert rows[5] == ["Mon, Nov 23", "0 min", "0 min", "2 h"]
    assert rows[7] == ["Wed, Nov 18", "1 h 35 min", "30 min", "none"]


def test_dates_are_english_with_machine_readable_values() -> None:
    document = shown(week())
    assert "Wed, Nov 18 to Tue, Nov 24" in document.text
    assert document.of("time")[0] == {"datetime": "2026-11-18"}


def test_page_without_viewing_or_children_has_a_sentence() -> None:
    nothing = shown(week(seconds=(0,) * 7, educational=(0,) * 7))
    assert "Nothing was watched." in nothing.text
    assert "This account has no child profiles." in shown().text
