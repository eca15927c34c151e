"""The weekly report as an HTML page: one document, no script, nothing loaded from elsewhere.

Bars are inline SVG, and a table repeats every value for readers who cannot see the bars. The
educational part is hatched, so that it differs without colour. Names pass through `escape`, and the
content security policy allows no script in any case.
"""

from base64 import b64encode
from collections.abc import Sequence
from datetime import date
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from starlette.responses import Response

from service.parents.week import Day, Week

PAGE: Final = (Path(__file__).parent / "report_page.html").read_text(encoding="utf-8")
STYLE: Final = PAGE.partition("<style>")[2].partition("</style>")[0]
HEADERS: Final = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# The chart, in its own units: as wide as a phone, so that its text is as large as the page's.
WIDTH: Final = 350
LEFT: Final = 44
TOP: Final = 16
FLOOR: Final = 140
HEIGHT: Final = 172
BAR: Final = 26
GRID_SECONDS: Final = (900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600)
GRID_LINES: Final = 4


def page(weeks: Sequence[Week], days: Sequence[date], next_page: str = "") -> Response:
    """The page for `weeks`, all of the same `days`; `next_page` is the URL of further children."""
    children = "".join(_child(week, number) for number, week in enumerate(weeks))
    link = f'<p><a href="{escape(next_page)}">More children</a></p>' if next_page else ""
    document = Template(PAGE).substitute(
        count=len(days),
        first=_time(days[0]),
        last=_time(days[-1]),
        children=(children or "<p>This account has no child profiles.</p>") + link,
    )
    return Response(document, headers=HEADERS, media_type="text/html")


def _child(week: Week, number: int) -> str:
    usage = week.limit_usage_percent
    of_limit = "" if usage is None else f", {usage} % of the limit"
    titles = "".join(
        f"<li><bdi>{escape(title.name)}</bdi>, {_duration(title.seconds)}</li>"
        for title in week.titles
    )
    most = f"<h3>Most watched</h3><ol>{titles}</ol>" if titles else "<p>Nothing was watched.</p>"
    rows = "".join(
        f'<tr><th scope="row">{_time(day.date)}</th><td>{_duration(day.seconds)}</td>'
        f"<td>{_duration(day.educational_seconds)}</td><td>{_limit(day)}</td></tr>"
        for day in week.days
    )
    return f"""
<section class="child" aria-labelledby="name-{number}">
<h2 id="name-{number}" dir="auto">{escape(week.name)}</h2>
<p>{_duration(week.counted_seconds)} in all{of_limit};
{_duration(round(week.counted_seconds / len(week.days)))} a day;
{_duration(week.educational_seconds)} educational</p>
{_chart(week, number)}
<ul class="keys" aria-hidden="true">
<li>{_key('<rect class="educational" x="1" y="1" width="22" height="10"/>')}educational</li>
<li>{_key('<rect class="counted" width="24" height="12"/>')}other</li>
<li>{_key('<path class="limit" d="M0 6H24"/>')}limit of the day</li>
</ul>
{most}
<details><summary>As a table</summary><table><thead><tr><th scope="col">Day</th>
<th scope="col">Watched</th><th scope="col">Educational</th><th scope="col">Limit</th></tr></thead>
<tbody>{rows}</tbody></table></details>
</section>"""


def _key(shape: str) -> str:
    return f'<svg class="key" viewBox="0 0 24 12">{shape}</svg>'


def _chart(week: Week, number: int) -> str:
    """A bar for each day, the educational part on top, and the day's limit as a line across it."""
    limits = [60 * (day.limit_minutes or 0) for day in week.days]
    step = _grid_step(max(*limits, *(day.seconds for day in week.days)))
    unit = (FLOOR - TOP) / (step * GRID_LINES)
    slot = (WIDTH - LEFT) / len(week.days)
    middles = [LEFT + (place + 0.5) * slot for place in range(len(week.days))]
    grid = "".join(_grid_line(line * step, unit) for line in range(GRID_LINES + 1))
    bars = "".join(_bar(day, x, unit) for day, x in zip(week.days, middles, strict=True))
    labels = "".join(_labels(day, x, unit) for day, x in zip(week.days, middles, strict=True))
    across = "".join(
        f"M{x - slot / 2 + 2:.1f} {FLOOR - limit * unit:.1f}h{slot - 4:.1f}"
        for limit, x in zip(limits, middles, strict=True)
        if limit
    )
    spoken = ". ".join(f"{_date(day.date)}: {_duration(day.seconds)}" for day in week.days)
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
 aria-labelledby="title-{number} about-{number}">
<title id="title-{number}">Viewing time of {escape(week.name)} by day</title>
<desc id="about-{number}">{spoken}</desc>
{grid}{bars}<path class="edge" d="{across}"/><path class="limit" d="{across}"/>{labels}</svg>"""


def _grid_step(longest: int) -> int:
    """Seconds between two grid lines: a round value that makes the grid reach the longest bar."""
    steps = (step for step in GRID_SECONDS if step * GRID_LINES >= longest)
    return next(steps, -(-longest // (GRID_LINES * 3600)) * 3600)


def _grid_line(seconds: int, unit: float) -> str:
    y = FLOOR - seconds * unit
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH}"/>'
        f'<text class="scale" x="{LEFT - 5}" y="{y + 4:.1f}">{_clock(seconds)}</text>'
    )


def _bar(day: Day, middle: float, unit: float) -> str:
    x = f'x="{middle - BAR / 2:.1f}" width="{BAR}"'
    educational = day.educational_seconds * unit
    counted = day.seconds * unit - educational
    y = FLOOR - counted
    bar = f'<rect class="counted" {x} y="{y:.1f}" height="{counted:.1f}"/>'
    if educational:
        y -= educational
        bar += f'<rect class="educational" {x} y="{y:.1f}" height="{educational:.1f}"/>'
    return bar


def _labels(day: Day, middle: float, unit: float) -> str:
    """The duration above a bar, weekday and day of the month below it."""
    x = f'x="{middle:.1f}"'
    y = FLOOR - day.seconds * unit - 4
    value = f'<text class="value" {x} y="{y:.1f}">{_clock(day.seconds)}</text>'
    return (
        f"{value if day.seconds else ''}"
        f'<text {x} y="{FLOOR + 15}">{day.date:%a}</text>'
        f'<text {x} y="{FLOOR + 29}">{day.date.day}</text>'
    )


def _limit(day: Day) -> str:
    return "none" if day.limit_minutes is None else _duration(60 * day.limit_minutes)


def _date(day: date) -> str:
    return f"{day:%a, %b} {day.day}"


def _time(day: date) -> str:
    return f'<time datetime="{day}">{_date(day)}</time>'


def _duration(seconds: int) -> str:
    """Hours and minutes, with no-break spaces."""
    hours, minutes = divmod(_minutes(seconds), 60)
    shown = [f"{hours}\u00a0h"] * bool(hours) + [f"{minutes}\u00a0min"] * bool(minutes or not hours)
    return "\u00a0".join(shown)


def _clock(seconds: int) -> str:
    """Hours and minutes, short enough for the space above a bar."""
    hours, minutes = divmod(_minutes(seconds), 60)
    return f"{hours}:{minutes:02}"


def _minutes(seconds: int) -> int:
    """Rounded to minutes, but never to 0 if anything was watched."""
    return max(round(seconds / 60), 1) if seconds else 0
