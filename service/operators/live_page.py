"""GET /admin/live: a page of charts that shows the metrics of the last five minutes."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

PAGE: Final = (Path(__file__).parent / "live_page.html").read_text(encoding="utf-8")


def _hash(element: str) -> str:
    """The source expression that allows the page's own `element` (CSP, section 2.3.1)."""
    content = re.search(rf"<{element}>(.*)</{element}>", PAGE, re.DOTALL)
    assert content is not None, element
    return f"'sha256-{b64encode(sha256(content[1].encode()).digest()).decode()}'"


HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def live(request: Request) -> Response:
    """Returns the page, which prompts for an administrator's token and keeps it in memory only."""
    return Response(PAGE, headers=HEADERS, media_type="text/html")
