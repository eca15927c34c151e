"""The weekly report as a page for people: one document, no script, nothing fetched from elsewhere.

Bars are inline SVG; every value also stands in a table, for those who cannot see the bars. What is
educational is hatched, so that it is told apart without colour. All text from the database passes
through `_text`, and the page's policy lets the browser run nothing in any case.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import date
from html import escape as _text
from typing import Final

from starlette.responses import Response

from service.parents.dates import weekday, weekday_and_day
from service.parents.week import Day, Title, Week

STYLE: Final = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #1c2024; --quiet: #5a626b;
  --line: #d5d9de; --bar: #3056d3; --limit: #c4261d; }
@media (prefers-color-scheme: dark) { :root { --page: #111417; --card: #1b1f24; --text: #e8eaed;
  --quiet: #a2abb5; --line: #3a4149; --bar: #8aa4ff; --limit: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.45 system-ui, sans-serif; }
main { max-width: 76rem; margin: auto; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 0.95rem; margin: 1rem 0 0.25rem; }
p { margin: 0.25rem 0 1rem; color: var(--quiet); }
.children { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.child { background: var(--card); border: 1px solid var(--line); border-radius: 0.75rem;
  padding: 1rem; min-width: 0; }
.child > p { margin-bottom: 0.5rem; }
svg { display: block; width: 100%; height: auto; }
svg.key { display: inline-block; width: 1.5rem; height: 0.75rem; margin-inline-end: 0.35rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); text-anchor: middle; }
svg text.scale { text-anchor: end; }
svg text.value { fill: var(--text); stroke: var(--card); stroke-width: 3; paint-order: stroke; }
.grid { stroke: var(--line); }
.counted { fill: var(--bar); }
.educational { fill: url(#hatch); stroke: var(--bar); }
.hatch { stroke: var(--bar); stroke-width: 2; }
.limit { stroke: var(--limit); stroke-width: 2; stroke-dasharray: 5 3; }
.edge { stroke: var(--card); stroke-width: 5; }
.keys { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; list-style: none; padding: 0;
  margin: 0.5rem 0; font-size: 0.85rem; }
ol { margin: 0; padding-inline-start: 1.4rem; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 1rem; }
table { width: 100%; border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.2rem; border-bottom: 1px solid var(--line); text-align: end; }
th:first-child { text-align: start; font-weight: normal; }
"""
POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
HEADERS: Final = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# The drawing, in its own units: as wide as a phone, so that its text is as large as the page's.
WIDTH: Final = 350
LEFT: Final = 44
TOP: Final = 16
FLOOR: Final = 140
HEIGHT: Final = 172
BAR: Final = 26
STEPS: Final = (900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600)
LINES: Final = 4
NO_BREAK: Final = "\u00a0"


def page(
    weeks: Sequence[Week], days: Sequence[date], language: str, following: str = ""
) -> Response:
    """The page for `weeks`, all of the same `days`, with dates in `language`.

    `following` is the address of the children after these, if there are more.
    """
    children = "".join(_child(week, number, language) for number, week in enumerate(weeks))
    shown = children or "<p>This account has no child profiles.</p>"
    link = f'<p><a href="{_text(following)}">More children</a></p>' if following else ""
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Viewing time, the last {len(days)} days</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Viewing time</h1>
<p>{_date(days[0], language)} to {_date(days[-1], language)}, in days of UTC</p>
<svg width="0" height="0" aria-hidden="true"><defs><pattern id="hatch" width="5" height="5"
 patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="hatch" d="M1 0V5"/>
</pattern></defs></svg>
<div class="children">{shown}</div>{link}
</main>
</body>
</html>
"""
    return Response(document, headers=HEADERS, media_type="text/html")


def _child(week: Week, number: int, language: str) -> str:
    usage = week.limit_usage_percent
    used = "" if usage is None else f", {usage} % of the limit"
    average = _duration(round(week.seconds / len(week.days)))
    return f"""
<section class="child" aria-labelledby="name-{number}">
<h2 id="name-{number}" dir="auto">{_text(week.name)}</h2>
<p>{_duration(week.seconds)} in all{used}; {average} a day;
{_duration(week.educational_seconds)} educational</p>
{_bars(week, number, language)}
<ul class="keys" aria-hidden="true">
<li>{_key('<rect class="educational" x="1" y="1" width="22" height="10"/>')}educational</li>
<li>{_key('<rect class="counted" width="24" height="12"/>')}other</li>
<li>{_key('<path class="limit" d="M0 6H24"/>')}limit of the day</li>
</ul>
{_titles(week.titles)}
<details><summary>As a table</summary>{_table(week.days, language)}</details>
</section>"""


def _key(shape: str) -> str:
    return f'<svg class="key" viewBox="0 0 24 12">{shape}</svg>'


def _bars(week: Week, number: int, language: str) -> str:
    """A bar a day, the educational part on top, with the day's limit as a line across its slot."""
    limits = [60 * (day.limit_minutes or 0) for day in week.days]
    step = _step(max(max(limits), max(day.seconds for day in week.days)))
    unit = (FLOOR - TOP) / (step * LINES)
    slot = (WIDTH - LEFT) / len(week.days)
    drawn = [_line(FLOOR - line * step * unit, line * step) for line in range(LINES + 1)]
    middles = [LEFT + (place + 0.5) * slot for place in range(len(week.days))]
    drawn += [_bar(day, middle, unit) for day, middle in zip(week.days, middles, strict=True)]
    across = "".join(
        f"M{middle - slot / 2 + 2:.1f} {FLOOR - limit * unit:.1f}h{slot - 4:.1f}"
        for limit, middle in zip(limits, middles, strict=True)
        if limit
    )
    drawn.append(f'<path class="edge" d="{across}"/><path class="limit" d="{across}"/>')
    for day, middle in zip(week.days, middles, strict=True):
        drawn.append(_labels(day, middle, unit, language))
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
 aria-labelledby="title-{number} about-{number}">
<title id="title-{number}">Bars of what {_text(week.name)} watched each day</title>
<desc id="about-{number}">{_spoken(week.days, language)}</desc>
{"".join(drawn)}</svg>"""


def _step(most: int) -> int:
    """Seconds between two lines: a round figure, so that LINES of them reach the longest bar."""
    fitting = (step for step in STEPS if step * LINES >= most)
    return next(fitting, -(-most // (LINES * 3600)) * 3600)


def _line(at: float, seconds: int) -> str:
    return (
        f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH}"/>'
        f'<text class="scale" x="{LEFT - 5}" y="{at + 4:.1f}">{_clock(seconds)}</text>'
    )


def _bar(day: Day, middle: float, unit: float) -> str:
    counted = (day.seconds - day.educational_seconds) * unit
    educational = day.educational_seconds * unit
    x = f'x="{middle - BAR / 2:.1f}" width="{BAR}"'
    bar = f'<rect class="counted" {x} y="{FLOOR - counted:.1f}" height="{counted:.1f}"/>'
    if educational:
        y = FLOOR - counted - educational
        bar += f'<rect class="educational" {x} y="{y:.1f}" height="{educational:.1f}"/>'
    return bar


def _labels(day: Day, middle: float, unit: float, language: str) -> str:
    """The time above a bar, weekday and day of the month below it."""
    x = f'x="{middle:.1f}"'
    above = FLOOR - day.seconds * unit - 4
    time = f'<text class="value" {x} y="{above:.1f}">{_clock(day.seconds)}</text>'
    return (
        f"{time if day.seconds else ''}"
        f'<text {x} y="{FLOOR + 15}" lang="{language}">{_text(weekday(day.date, language))}</text>'
        f'<text {x} y="{FLOOR + 29}">{day.date.day}</text>'
    )


def _spoken(days: Sequence[Day], language: str) -> str:
    return ". ".join(
        f"{_text(weekday_and_day(day.date, language))}: {_duration(day.seconds)}" for day in days
    )


def _titles(titles: Sequence[Title]) -> str:
    if not titles:
        return "<p>Nothing was watched.</p>"
    items = "".join(
        f"<li><bdi>{_text(title.name)}</bdi>, {_duration(title.seconds)}</li>" for title in titles
    )
    return f"<h3>Most watched</h3><ol>{items}</ol>"


def _table(days: Sequence[Day], language: str) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_date(day.date, language)}</th><td>{_duration(day.seconds)}</td>'
        f"<td>{_duration(day.educational_seconds)}</td><td>{_limit(day.limit_minutes)}</td></tr>"
        for day in days
    )
    return (
        '<table><thead><tr><th scope="col">Day</th><th scope="col">Watched</th>'
        '<th scope="col">Educational</th><th scope="col">Limit</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _limit(minutes: int | None) -> str:
    return "none" if minutes is None else _duration(60 * minutes)


def _date(day: date, language: str) -> str:
    shown = _text(weekday_and_day(day, language))
    return f'<time datetime="{day}" lang="{language}" dir="auto">{shown}</time>'


def _duration(seconds: int) -> str:
    """Hours and minutes, kept on one line."""
    hours, minutes = divmod(_minutes(seconds), 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes or not hours)
    return " ".join(parts).replace(" ", NO_BREAK)


def _clock(seconds: int) -> str:
    """Hours and minutes, short enough to stand above a bar."""
    hours, minutes = divmod(_minutes(seconds), 60)
    return f"{hours}:{minutes:02}"


def _minutes(seconds: int) -> int:
    """To the nearest minute, but what was watched never shows as nothing."""
    return max(round(seconds / 60), 1) if seconds else 0
