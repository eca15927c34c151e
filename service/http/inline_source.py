"""Allows a page of one document its own style and script, and nothing else that is inline."""

from base64 import b64encode
from hashlib import sha256


def inline_source(page: str, element: str) -> str:
    """The source expression of Content-Security-Policy for the content of the page's `element`.

    The rule is CSP Level 3, section 2.3.1: a hash of the content, byte for byte.
    """
    content = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    assert content, element
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
