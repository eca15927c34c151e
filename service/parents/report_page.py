"""The weekly report as an HTML page: one document, no script, nothing loaded from elsewhere.

It counts as the limit does: viewing days of the child, without exempt educational time. Bars are
inline SVG, and a table repeats every value for readers who cannot see the bars. The educational
part is hatched, so that it differs without colour. Names pass through `escape`, and the content
security policy allows no script in any case.
"""

from datetime import date
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from starlette.responses import Response

from service.errors import REPORT_LINK_UNUSABLE
from service.http.inline_source import inline_source
from service.parents.report_weeks import Found
from service.parents.report_words import Words
from service.parents.week import Day, Week

PAGE: Final = (Path(__file__).parent / "report_page.html").read_text(encoding="utf-8")
HEADERS: Final = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src {inline_source(PAGE, 'style')}"
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


def page(found: Found, words: Words, more: str = "") -> Response:
    """The page for the weeks of children; `more` is a paragraph about further children."""
    first, last = _time(found.first, words), _time(found.last, words)
    children = "".join(_child(week, number, words) for number, week in enumerate(found.weeks))
    introduction = f"<p>{words.period.format(first=first, last=last)}</p><p>{words.basis}</p>"
    return _document(words, introduction, (children or f"<p>{words.no_children}</p>") + more)


def next_page(url: str, words: Words) -> str:
    """The paragraph with the link to the next page of children."""
    return f'<p><a href="{escape(url)}">{words.more_children}</a></p>'


def first_children(words: Words) -> str:
    """The paragraph about further children on a page that cannot link to them."""
    return f"<p>{words.first_children}</p>"


def used_link(words: Words) -> Response:
    """The page of a link that does not work, or no longer."""
    introduction = f"<p>{words.link_used}</p><p>{words.open_again}</p>"
    return _document(words, introduction, "", REPORT_LINK_UNUSABLE.status)


def _document(words: Words, introduction: str, children: str, status: int = 200) -> Response:
    document = Template(PAGE).substitute(
        language=words.language, title=words.title, introduction=introduction, children=children
    )
    headers = {**HEADERS, "Content-Language": words.language}
    return Response(document, status, headers, "text/html")


def _child(week: Week, number: int, words: Words) -> str:
    titles = "".join(
        f"<li><bdi>{escape(title.name)}</bdi>, {_duration(title.seconds)}</li>"
        for title in week.titles
    )
    most = (
        f"<h3>{words.most_watched}</h3><ol>{titles}</ol>" if titles else f"<p>{words.nothing}</p>"
    )
    rows = "".join(
        f'<tr><th scope="row">{_time(day.date, words)}</th>'
        f"<td>{_duration(day.counted_seconds)}</td><td>{_duration(day.educational_seconds)}</td>"
        f"<td>{_limit(day, words)}</td></tr>"
        for day in week.days
    )
    heads = (words.column_day, words.column_counted, words.column_educational, words.column_limit)
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    educational = words.legend_exempt if week.is_exempt else words.legend_educational
    begins = words.day_begins.format(time=f"{week.reset_hour}:00", zone=escape(week.timezone))
    return f"""
<section class="child" aria-labelledby="name-{number}">
<h2 id="name-{number}" dir="auto">{escape(week.name)}</h2>
<p>{_sums(week, words)}</p>
{_chart(week, number, words)}
<ul class="keys" aria-hidden="true">
<li>{_key('<rect class="counted" width="24" height="12"/>')}{words.legend_counted}</li>
<li>{_key('<rect class="educational" x="1" y="1" width="22" height="10"/>')}{educational}</li>
<li>{_key('<path class="limit" d="M0 6H24"/>')}{words.legend_limit}</li>
</ul>
{most}
<details><summary>{words.as_table}</summary><table><thead><tr>{columns}</tr></thead>
<tbody>{rows}</tbody></table></details>
<p class="days">{begins}</p>
</section>"""


def _sums(week: Week, words: Words) -> str:
    """The sums of the week, and the usage of those days that have a limit."""
    sums = words.counted.format(_duration(week.counted_seconds))
    if (usage := week.usage_of_limited_days_percent) is not None:
        has_every_limit = all(day.limit_seconds is not None for day in week.days)
        of_limit = words.of_limit if has_every_limit else words.of_limit_on_some_days
        sums += ", " + of_limit.format(words.of_percent(usage))
    a_day = words.a_day.format(_duration(round(week.counted_seconds / len(week.days))))
    educational = words.educational.format(_duration(week.educational_seconds))
    return f"{sums} · {a_day} · {educational}"


def _key(shape: str) -> str:
    return f'<svg class="key" viewBox="0 0 24 12">{shape}</svg>'


def _chart(week: Week, number: int, words: Words) -> str:
    """A bar for each day, the educational part on top, and the day's limit as a line across it."""
    limits = [day.limit_seconds or 0 for day in week.days]
    step = _grid_step(max(*limits, *(day.seconds for day in week.days)))
    unit = (FLOOR - TOP) / (step * GRID_LINES)
    slot = (WIDTH - LEFT) / len(week.days)
    middles = [LEFT + (place + 0.5) * slot for place in range(len(week.days))]
    grid = "".join(_grid_line(line * step, unit) for line in range(GRID_LINES + 1))
    bars = "".join(_bar(day, x, unit) for day, x in zip(week.days, middles, strict=True))
    labels = "".join(
        _labels(day, x, unit, words) for day, x in zip(week.days, middles, strict=True)
    )
    across = "".join(
        f"M{x - slot / 2 + 2:.1f} {FLOOR - limit * unit:.1f}h{slot - 4:.1f}"
        for limit, x in zip(limits, middles, strict=True)
        if limit
    )
    spoken = ". ".join(
        words.day_value.format(day=words.of_date(day.date), duration=_duration(day.counted_seconds))
        for day in week.days
    )
    title = words.picture.format(escape(week.name))
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
 aria-labelledby="title-{number} about-{number}">
<title id="title-{number}">{title}</title>
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


def _labels(day: Day, middle: float, unit: float, words: Words) -> str:
    """The counted duration above a bar, weekday and day of the month below it."""
    x = f'x="{middle:.1f}"'
    y = FLOOR - day.seconds * unit - 4
    value = f'<text class="value" {x} y="{y:.1f}">{_clock(day.counted_seconds)}</text>'
    return (
        f"{value if day.counted_seconds else ''}"
        f'<text {x} y="{FLOOR + 15}">{words.weekdays[day.date.weekday()]}</text>'
        f'<text {x} y="{FLOOR + 29}">{day.date.day}</text>'
    )


def _limit(day: Day, words: Words) -> str:
    return words.no_limit if day.limit_seconds is None else _duration(day.limit_seconds)


def _time(day: date, words: Words) -> str:
    return f'<time datetime="{day}">{words.of_date(day)}</time>'


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
