"""The texts of the weekly report's page in each of its languages, from `report_words.json`.

A page is wholly in one language. The fields of `Words` have no defaults, so no language can lack a
text. Units (h, min) and times of day (6:00) are the same in all of them.
"""

from datetime import date
from pathlib import Path
from typing import Final

import msgspec

from service.http.negotiation import preferred_language


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts of one language; `{}` in a text is the place of a value."""

    language: str
    title: str
    period: str
    basis: str
    no_children: str
    more_children: str
    first_children: str
    counted: str
    of_limit: str
    of_limit_on_some_days: str
    a_day: str
    educational: str
    day_begins: str
    picture: str
    day_value: str
    legend_counted: str
    legend_educational: str
    legend_exempt: str
    legend_limit: str
    most_watched: str
    nothing: str
    as_table: str
    column_day: str
    column_counted: str
    column_educational: str
    column_limit: str
    no_limit: str
    link_used: str
    open_again: str
    weekdays: tuple[str, str, str, str, str, str, str]
    months: tuple[str, str, str, str, str, str, str, str, str, str, str, str]
    date_form: str
    decimal_point: str

    def of_date(self, day: date) -> str:
        """The day of the week, the day and the month."""
        weekday, month = self.weekdays[day.weekday()], self.months[day.month - 1]
        return self.date_form.format(weekday=weekday, month=month, day=day.day)

    def of_percent(self, percent: float) -> str:
        return f"{percent}".replace(".", self.decimal_point) + "\u00a0%"


# The first one is for readers of all other languages.
CATALOGUE: Final = msgspec.json.decode(
    (Path(__file__).parent / "report_words.json").read_bytes(), type=list[Words]
)
LANGUAGES: Final = {words.language: words for words in CATALOGUE}


def words_for(accept_language: str) -> Words:
    """The words of the reader's language, or English, by an `Accept-Language` header."""
    return LANGUAGES[preferred_language(accept_language, [*LANGUAGES])]
