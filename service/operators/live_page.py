"""GET /admin/live: the last minutes as moving lines, for people who operate the service."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

PAGE: Final = (Path(__file__).parent / "live_page.html").read_text(encoding="utf-8")


def _hash(element: str) -> str:
    """What lets the page's own element through, and no other (CSP, section 2.3.1)."""
    inside = re.search(rf"<{element}>(.*)</{element}>", PAGE, re.DOTALL)
    assert inside is not None, element
    return f"'sha256-{b64encode(sha256(inside[1].encode()).digest()).decode()}'"


HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash('script')}",
            f"style-src {_hash('style')}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def live(request: Request) -> Response:
    """GET /admin/live: a page that asks for the administrator's token and keeps it in memory."""
    return Response(PAGE, headers=HEADERS, media_type="text/html")
