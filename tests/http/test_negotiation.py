"""The preferred media type and language; malformed members of the headers are ignored."""

import pytest

from service.http.negotiation import preferred_language, prefers

FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("text/html", True),
        (FIREFOX, True),
        ("text/*", True),
        ("TEXT/HTML", True),
        ("text/html;charset=utf-8", True),
        ("text/html, application/json", False),
        ("text/html;q=0.9, application/json", False),
        ("text/html, application/json;q=0.9", True),
        ("text/html;level=1;q=0.2, */*;q=0.1", True),
        ("text/html ; q=0.5 , application/json ; q=0.4", True),
        ("text/html;q=0", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=1e9", False),
        ("text/html;q=nan, */*;q=0.1", False),
        ("text/html;q=", False),
        (",;,;q=1,", False),
        ("text/html" * 5000, False),
    ],
)
def test_html_only_if_preferred(accept: str, is_html: bool) -> None:
    assert prefers(accept, "text/html", "application/json") is is_html


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT", "de"),
        ("DE-de-1996", "de"),
        ("den", "en"),
        ("pt-BR, pt;q=0.9", "en"),
        ("pt-BR, fr;q=0.4, de;q=0.7", "de"),
        ("fr, de", "fr"),
        ("en;q=0.1, de;q=0.2", "de"),
        ("de;q=0", "en"),
        ("de;q=0, *", "en"),
        ("*", "en"),
        ("*, de;q=0.5", "en"),
        ("fr;q=2, de;q=0.5", "de"),
        ("de;q=", "en"),
        (",;,;q=1,-", "en"),
        ("pt-PT", "en"),
        ("zh-Hant-TW, es-419;q=0.8, en;q=0.7", "es"),
        ("de-" * 20_000, "de"),
    ],
)
def test_language_by_quality_or_the_first_one(accepted: str, language: str) -> None:
    assert preferred_language(accepted, ["en", "de", "fr", "es"]) == language


def test_the_longest_fitting_language_is_preferred() -> None:
    assert preferred_language("pt-BR", ["en", "pt", "pt-br"]) == "pt-br"
