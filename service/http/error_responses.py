"""The error table: what each exception answers."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.database import refusals
from service.database.driver import cause
from service.deadlines import DeadlinePassed, within
from service.errors import (
    EMAIL_TAKEN,
    INTERNAL_ERROR,
    SERVICE_UNAVAILABLE,
    ClientError,
    FieldError,
    Overloaded,
    ReadOnly,
    Rejected,
    RuleError,
    Unavailable,
)
from service.http import auth
from service.http.body_and_reply import reply
from service.http.urls import ADMIN
from service.observing.trace import blame, refuse

CONSTRAINTS: Final = {
    "users_email_key": ClientError(EMAIL_TAKEN),
}


async def client_error(request: Request, error: ClientError) -> Response:
    """The client's fault, in the contract's words; log and metrics get its reason."""
    refuse(error.reason)
    if error.status == 401:
        context: Context = request.state.context
        context.metrics.unauthenticated[error.reason] += 1
    return reply({"detail": error.detail}, error.status, error.headers)


async def entitled_error(request: Request, error: FieldError | RuleError) -> Response:
    """A fault of fields or rules, told only to those who may see it."""
    context: Context = request.state.context
    try:
        await within(context.settings.request_timeout_seconds, auth.entitled(request, error))
    except ClientError as first:
        return await client_error(request, first)
    except (Unavailable, DeadlinePassed) as away:
        return await unavailable(request, away)
    return await client_error(request, error)


async def http_error(request: Request, error: HTTPException) -> Response:
    """No such path, no such method."""
    headers = _allowed(request) if error.status_code == 405 else error.headers
    return reply({"detail": error.detail}, error.status_code, headers)


def _allowed(request: Request) -> dict[str, str]:
    """Every method of the path: a route on its own knows only of the first."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"]):
            methods |= route.methods or set()
    return {"Allow": ", ".join(sorted(methods))}


async def overloaded(request: Request, error: Overloaded) -> Response:
    """Too much to do: to be tried again."""
    blame(error)
    refuse(error.reason)
    return _try_again(error.retry_after)


async def unavailable(request: Request, error: Exception) -> Response:
    """The database is away, or the time has passed: to be tried again."""
    context: Context = request.state.context
    if isinstance(error, ReadOnly):
        # The server has handed over to another: every connection of the pool looks for it.
        await context.pool.expire_connections()
    context.metrics.failures[cause(error)] += 1
    blame(error)
    return _try_again(1)


async def refused(request: Request, error: Rejected) -> Response:
    """A rule that only the database can judge: a client's, or one of the platform's own.

    Only the platform's calls write to its tables. Where another breaks a rule, that is a bug.
    """
    known = CONSTRAINTS.get(error.constraint)
    if known is None and not request.scope["path"].startswith(ADMIN):
        raise error
    sentence = refusals.sentence(error, is_deletion=request.method == "DELETE")
    return await client_error(request, known or ClientError(sentence))


async def own_error(request: Request, error: Exception) -> Response:
    """Our own fault; raised once more, and logged with its traceback."""
    context: Context = request.state.context
    context.metrics.failures["own"] += 1
    return reply({"detail": INTERNAL_ERROR.text}, 500)


def _try_again(seconds: int) -> Response:
    detail = {"detail": SERVICE_UNAVAILABLE.text}
    return reply(detail, 503, {"Retry-After": str(seconds)})


TABLE: Final[dict[Any, Callable[[Request, Any], Awaitable[Response]]]] = {
    ClientError: client_error,
    FieldError: entitled_error,
    RuleError: entitled_error,
    HTTPException: http_error,
    Overloaded: overloaded,
    Rejected: refused,
    Unavailable: unavailable,
    DeadlinePassed: unavailable,
    Exception: own_error,
}


async def answer(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """Answers a fault by the table; raises it once more where it is our own."""
    handler = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    response = await handler(Request(scope, receive), error)
    await response(scope, receive, send)
    if handler is own_error:
        raise error
