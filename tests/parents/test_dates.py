"""Dates as the reader's language writes them."""

from datetime import date

import pytest

from service.parents.dates import DEFAULT, LANGUAGES, weekday, weekday_and_day

TUESDAY = date(2026, 11, 24)


@pytest.mark.parametrize(
    ("language", "written"),
    [
        ("en", "Tue, Nov 24"),
        ("en-gb", "Tue 24 Nov"),
        ("ar", "الثلاثاء، 24 نوفمبر"),
        ("de", "Di., 24. Nov."),
        ("es", "mar, 24 nov"),
        ("fr", "mar. 24 nov."),
        ("it", "mar 24 nov"),
        ("ja", "11月24日(火)"),
        ("nl", "di 24 nov"),
        ("pl", "wt., 24 lis"),
        ("pt", "ter., 24 de nov."),
        ("zh", "11月24日周二"),
    ],
)
def test_a_day_in_each_language(language: str, written: str) -> None:
    assert weekday_and_day(TUESDAY, language) == written
    assert weekday(TUESDAY, language) in written


def test_every_language_names_every_day_and_month() -> None:
    assert DEFAULT in LANGUAGES
    for name, language in LANGUAGES.items():
        assert name == name.lower()
        assert len(set(language.weekdays)) == 7
        assert len(set(language.months)) == (0 if "{number}" in language.form else 12)
