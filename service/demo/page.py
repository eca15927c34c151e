"""GET /demo: the page and its files; GET /demo/family.json: the token that it needs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.demo import PATH
from service.errors import DEMO_ELSEWHERE, ClientError
from service.http.body_and_reply import reply

FOLDER: Final = Path(__file__).parent
MEDIA_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LOCAL_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
FORWARDED: Final = ("x-forwarded-for", "forwarded")
LOOPBACK: Final = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


class Child(msgspec.Struct, frozen=True):
    profile_id: UUID
    name: str


class Title(msgspec.Struct, frozen=True):
    title_id: UUID
    name: str
    is_educational: bool


class Family(msgspec.Struct, frozen=True):
    """The demo family as the page uses it."""

    token: str
    pin: str
    password: str
    children: tuple[Child, ...]
    titles: tuple[Title, ...]
    credit: str  # `beats`, or `clock`: then faster heartbeats do not count more


def routes(family: Callable[[], Family]) -> list[Route]:
    """The routes of the page; `family` is called for each request, because tokens expire."""

    async def family_json(request: Request) -> Response:
        if not _is_from_this_computer(request):
            raise ClientError(DEMO_ELSEWHERE)
        return reply(family(), headers=HEADERS)

    files = [path for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES]
    return [_route(f"{PATH}/family.json", family_json), *map(_file_route, files)]


def _file_route(path: Path) -> Route:
    content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

    async def file(request: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return _route(PATH if path.name == "index.html" else f"{PATH}/{path.name}", file)


def _route(path: str, endpoint: Callable[..., object]) -> Route:
    route = Route(path, endpoint)
    route.methods = {"GET"}
    return route


def _is_from_this_computer(request: Request) -> bool:
    """Whether the page itself sends the request, from this computer.

    Another site can let its own name resolve to 127.0.0.1 (DNS rebinding), so that the browser
    takes the service for a part of that site. `Host` is the name of that site then. A request
    that a proxy has forwarded can come from any computer, whatever address its headers name.
    """
    host = request.headers.get("host", "")
    return (
        request.client is not None
        and request.client.host in LOOPBACK
        and LOCAL_HOST.fullmatch(host) is not None
        and not any(name in request.headers for name in FORWARDED)
        and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
    )
