"""The HTML weekly report: well-formed, without scripts, accessible, in one language."""

import base64
import hashlib
import re
import string
from collections.abc import Sequence
from datetime import date, timedelta
from html.parser import HTMLParser
from uuid import uuid4
from xml.etree import ElementTree

import pytest
from starlette.responses import Response

from service.parents import report_page
from service.parents.report_weeks import Found
from service.parents.report_words import CATALOGUE, LANGUAGES, Words, words_for
from service.parents.week import Day, Title, Week

DAYS = [date(2026, 11, 18) + timedelta(days=n) for n in range(7)]
HOSTILE = '"It\'s" <script>alert(1)</script> 🚀 </svg> مرحبا'
VOID = {"meta"}
ENGLISH = words_for("")


def week(
    name: str = "Ada",
    seconds: tuple[int, ...] = (5700, 7200, 3600, 11_100, 1800, 0, 9000),
    educational: tuple[int, ...] = (1800, 0, 3600, 2700, 0, 0, 1200),
    limit: int | None = 120,
    title: str = "The Paper Boat",
    *,
    is_exempt: bool = False,
    limits: tuple[int | None, ...] = (),
) -> Week:
    days = [
        Day(day, whole, part, None if each is None else 60 * each, part if is_exempt else 0)
        for day, whole, part, each in zip(
            DAYS, seconds, educational, limits or (limit,) * 7, strict=True
        )
    ]
    titles = [Title(uuid4(), title, sum(seconds))] if any(seconds) else []
    return Week(uuid4(), name, days, titles, "Europe/Berlin", 6, is_exempt)


def page(weeks: Sequence[Week], words: Words = ENGLISH) -> Response:
    return report_page.page(Found([*weeks], DAYS[0], DAYS[-1], False), words)


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


def shown(*weeks: Week, words: Words = ENGLISH) -> Tree:
    return Tree(text(page(weeks, words)))


def text(response: Response) -> str:
    return bytes(response.body).decode()


def drawings(*weeks: Week) -> list[ElementTree.Element]:
    """The children's pictures as XML."""
    document = text(page(weeks))
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
    assert "<script" not in text(page([week(HOSTILE, title=HOSTILE)]))
    assert [heading["dir"] for heading in document.of("h2")] == ["auto"]
    assert len(document.of("bdi")) == 1


def test_the_page_runs_no_script_and_loads_nothing() -> None:
    answer = page([week()])
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


def test_exempt_educational_time_is_drawn_above_the_time_that_counts() -> None:
    [counted], [exempt] = drawings(week()), drawings(week(is_exempt=True))
    for kind in ("counted", "educational"):
        assert heights(counted, kind) == heights(exempt, kind)
    above = [mark.text for mark in counted.iter("text") if mark.get("class") == "value"]
    assert above == ["1:35", "2:00", "1:00", "3:05", "0:30", "2:30"]
    above = [mark.text for mark in exempt.iter("text") if mark.get("class") == "value"]
    assert above == ["1:05", "2:00", "2:20", "0:30", "2:10"]
    document = shown(week(is_exempt=True))
    assert document.rows[1] == ["Wed, Nov 18", "1 h 5 min", "30 min", "2 h"]
    assert "educational, not counted" in document.text
    assert "educational, not counted" not in shown(week()).text


def test_usage_compares_each_day_with_its_own_limit() -> None:
    sums = "10 h 40 min counted, {} of the limit · 1 h 31 min a day · 2 h 35 min educational"
    assert sums.format("76.2 %") in plain(shown(week()))
    changed = (480, 480, 480, 480, 60, 60, 60)
    assert sums.format("30.5 %") in plain(shown(week(limits=changed)))
    assert "8 h 5 min counted, 57.7 % of the limit ·" in plain(shown(week(is_exempt=True)))
    some = (120, None, 120, None, None, None, 120)
    assert "84.7 % of the limit on days with one ·" in plain(shown(week(limits=some)))
    assert "%" not in plain(shown(week(limit=None)))


def plain(document: Tree) -> str:
    """The text with ordinary spaces."""
    return document.text.replace("\u00a0", " ")


def test_page_says_which_days_and_which_time_it_counts() -> None:
    document = plain(shown(week()))
    assert "Days are the viewing days of each child, in its time zone." in document
    assert "educational time is left out if it is exempt from the limit" in document
    assert "The limit of a day is the one that was in force on it." in document
    assert "Days begin at 6:00 (Europe/Berlin)." in document


def test_page_without_viewing_or_children_has_a_sentence() -> None:
    nothing = shown(week(seconds=(0,) * 7, educational=(0,) * 7))
    assert "Nothing was watched." in nothing.text
    assert "This account has no child profiles." in shown().text


PLACES = {
    "period": ["first", "last"],
    "day_begins": ["time", "zone"],
    "day_value": ["day", "duration"],
    "date_form": ["weekday", "month", "day"],
}
WITH_ONE_PLACE = {
    *("counted", "of_limit", "of_limit_on_some_days", "a_day", "educational", "picture"),
}


@pytest.mark.parametrize("words", CATALOGUE, ids=lambda words: words.language)
def test_every_language_has_every_text_with_its_places(words: Words) -> None:
    for name in Words.__struct_fields__:
        value = getattr(words, name)
        for form in [value] if isinstance(value, str) else value:
            assert form == form.strip()
            assert form
            found = [
                place for _, place, _, _ in string.Formatter().parse(form) if place is not None
            ]
            expected = PLACES.get(name, [""] if name in WITH_ONE_PLACE else [])
            assert sorted(found) == sorted(expected), (name, form)


@pytest.mark.parametrize("words", CATALOGUE, ids=lambda words: words.language)
def test_page_is_wholly_in_one_language(words: Words) -> None:
    weeks = (week(limits=(None, *(60,) * 6)), week("Ben", is_exempt=True), week("Cy", limit=None))
    empty = week("Di", seconds=(0,) * 7, educational=(0,) * 7)
    answer = page([*weeks, empty], words)
    document = Tree(text(answer))
    assert document.of("html") == [{"lang": words.language}]
    assert answer.headers["content-language"] == words.language
    # Without its own texts, names and units, nothing with letters is left of the page.
    rest = document.text
    own = [value for each in Words.__struct_fields__ for value in texts(words, each)]
    names = ["Europe/Berlin", "The Paper Boat", "Ada", "Ben", "Cy", "Di"]
    for piece in sorted([*own, *names], key=len, reverse=True):
        rest = rest.replace(piece, " ")
    assert set(re.findall(r"[^\W\d_]+", rest)) <= {"h", "min"}
    others = {each.title for each in CATALOGUE} - {words.title}
    assert not any(other in document.text for other in others)


def texts(words: Words, name: str) -> list[str]:
    """The constant parts of a text."""
    value = getattr(words, name)
    forms = [value] if isinstance(value, str) else value
    return [
        literal.strip()
        for form in forms
        for literal, _, _, _ in string.Formatter().parse(form)
        if literal.strip()
    ]


@pytest.mark.parametrize(
    ("language", "day", "percent"),
    [
        ("en", "Wed, Nov 18", "40.5\u00a0%"),
        ("de", "Mi., 18. Nov.", "40,5\u00a0%"),
        ("fr", "mer. 18 nov.", "40,5\u00a0%"),
        ("es", "mié, 18 nov", "40,5\u00a0%"),
    ],
)
def test_dates_and_numbers_follow_the_language(language: str, day: str, percent: str) -> None:
    words = LANGUAGES[language]
    assert words.of_date(DAYS[0]) == day
    assert words.of_percent(40.5) == percent
    assert day in shown(week(), words=words).text
