"""The preferred media type by the `Accept` header; malformed members are ignored."""

import pytest

from service.http.negotiation import prefers

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
