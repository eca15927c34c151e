"""A path with a slash too many at its end is redirected to the one without.

The target has no host: the one in a request's `Host` header is the client's own choice, and behind
a proxy it is not the public one.
"""

from collections.abc import Sequence
from typing import Final, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

Application = TypeVar("Application", bound=Starlette)
UNQUOTED: Final = "/:@!$&'()*+,;="


class SlashRedirect:
    """Redirects where a route matches the path without its last slashes."""

    def __init__(self, routes: Sequence[BaseRoute], otherwise: ASGIApp) -> None:
        self._routes = routes
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        bare = {**scope, "path": path}
        is_known = any(route.matches(bare)[0] is not Match.NONE for route in self._routes)
        if path == scope["path"] or not is_known:
            await self._otherwise(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        location = quote(path, UNQUOTED) + (f"?{query}" if query else "")
        await Response(status_code=307, headers={"location": location})(scope, receive, send)


def redirect_slashes(app: Application) -> Application:
    """The application, whose router redirects this way."""
    app.router.redirect_slashes = False
    app.router.default = SlashRedirect(app.router.routes, app.router.default)
    return app
