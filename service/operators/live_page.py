"""GET /admin/live: a page of charts that shows the metrics of the last five minutes."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from service.http.inline_source import inline_source

PAGE: Final = (Path(__file__).parent / "live_page.html").read_text(encoding="utf-8")
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; "
        f"script-src {inline_source(PAGE, 'script')}; style-src {inline_source(PAGE, 'style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def live(request: Request) -> Response:
    """Returns the page, which prompts for an administrator's token and keeps it in memory only."""
    return Response(PAGE, headers=HEADERS, media_type="text/html")
