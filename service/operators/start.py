"""GET /: links to the pages for people."""

from html import escape
from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.errors import PATH_NOT_FOUND, ClientError
from service.http import negotiation
from service.http.body_and_reply import JSON, PRIVATE, reply
from service.http.fields import doc

PAGES: Final = {
    "/demo": "A television and a parent's phone, to try",
    "/docs": "The API: every request, with examples",
    "/openapi.json": "The same for programs",
    "/admin/live": "What the service does now; asks for the access token of an administrator",
    "/health": "Whether the service can work",
}
HTML: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Viewing time</title>
<h1>Viewing time</h1>
<ul>
{}
</ul>
</html>
"""
HEADERS: Final = {
    **PRIVATE,
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Vary": "Accept, Authorization",
}


class Link(msgspec.Struct, frozen=True):
    path: Annotated[str, doc("Relative to the service.", "/docs")]
    about: Annotated[str, doc("What is there.", PAGES["/docs"])]


class Start(msgspec.Struct, frozen=True):
    """The pages for people."""

    links: Annotated[list[Link], doc("In the order in which a newcomer needs them.")]


async def start(request: Request) -> Response:
    """Returns the links, as JSON or as a page; 404 with an access token, as clients expect."""
    if "authorization" in request.headers:
        raise ClientError(PATH_NOT_FOUND)
    served = {getattr(route, "path", "") for route in request.app.routes}
    links = [Link(path, about) for path, about in PAGES.items() if path in served]
    if not negotiation.prefers(request.headers.get("accept", ""), "text/html", JSON):
        return reply(Start(links), headers=HEADERS)
    items = (f'<li><a href="{each.path}">{each.path}</a> {escape(each.about)}' for each in links)
    return Response(HTML.format("\n".join(items)), 200, HEADERS, "text/html")
