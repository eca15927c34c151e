"""The error table: the response to each exception."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.database import refusals
from service.database.driver import cause
from service.database_errors import ReadOnly, Rejected, Unavailable
from service.deadlines import DeadlinePassed, within
from service.errors import (
    ACCOUNT_INACTIVE,
    EMAIL_TAKEN,
    INTERNAL_ERROR,
    PROFILE_DENIED,
    SERVICE_UNAVAILABLE,
    ClientError,
    FieldError,
    Overloaded,
    RuleError,
)
from service.http import auth
from service.http.body_and_reply import reply
from service.http.cells import following
from service.http.urls import ADMIN
from service.observing.trace import record_error, record_refusal

UNQUOTED: Final = "/:@!$&'()*+,;="
CONSTRAINTS: Final = {
    "users_email_key": ClientError(EMAIL_TAKEN),
    # The profile was deleted while the statement ran.
    "viewing_schedules_profile_id_fkey": ClientError(PROFILE_DENIED),
    "viewing_exceptions_profile_id_fkey": ClientError(PROFILE_DENIED),
    "viewing_locks_profile_id_fkey": ClientError(PROFILE_DENIED),
    "viewing_requests_profile_id_fkey": ClientError(PROFILE_DENIED),
    "viewing_events_account_id_fkey": ClientError(ACCOUNT_INACTIVE),
    "viewing_events_profile_id_fkey": ClientError(PROFILE_DENIED),
}


async def client_error(request: Request, error: ClientError) -> Response:
    """The contract's sentence for a client's error; log and metrics record its reason."""
    record_refusal(error.reason)
    if error.status == 401:
        context: Context = request.state.context
        context.metrics.unauthenticated[error.reason] += 1
    return reply({"detail": error.detail, **error.members}, error.status, error.headers)


async def entitled_error(request: Request, error: FieldError | RuleError) -> Response:
    """An error of fields or rules; 401 or 403 to callers who may not see it."""
    context: Context = request.state.context
    try:
        entitled = following(request, partial(auth.entitled, request, error))
        await within(context.settings.request_timeout_seconds, entitled)
    except ClientError as denial:
        return await client_error(request, denial)
    except (Unavailable, DeadlinePassed) as outage:
        return await unavailable(request, outage)
    return await client_error(request, error)


async def http_error(request: Request, error: HTTPException) -> Response:
    """404 or 405; 307 if the path exists without the slashes at its end.

    The target has no host: the client chooses the `Host` header, and behind a proxy it is not the
    public one.
    """
    path = request.scope["path"]
    bare = path.rstrip("/")
    if error.status_code == 404 and bare != path and _methods(request, bare):
        query = request.scope["query_string"].decode("latin-1")
        location = quote(bare, UNQUOTED) + (f"?{query}" if query else "")
        return Response(status_code=307, headers={"location": location})
    allowed = {"Allow": ", ".join(sorted(_methods(request, path)))}
    headers = allowed if error.status_code == 405 else error.headers
    return reply({"detail": error.detail}, error.status_code, headers)


def _methods(request: Request, path: str) -> set[str]:
    """Every method of a path; each of our routes has only one."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            methods |= route.methods or set()
    return methods


async def overloaded(request: Request, error: Overloaded) -> Response:
    """503 for load shedding."""
    record_error(error)
    record_refusal(error.reason)
    return _retry_later(error.retry_after)


async def unavailable(request: Request, error: Exception) -> Response:
    """503 because the database is unreachable, or the deadline has passed."""
    context: Context = request.state.context
    if isinstance(error, ReadOnly):
        # After a failover every connection of the pool has to find the new primary.
        await context.pool.expire_connections()
    context.metrics.failures[cause(error)] += 1
    record_error(error)
    return _retry_later(1)


async def refused(request: Request, error: Rejected) -> Response:
    """409 for a rule of the platform's own database.

    Only the platform's calls write to its tables. Any other call that breaks a rule is a bug.
    """
    conflict = CONSTRAINTS.get(error.constraint)
    if conflict is None and not request.scope["path"].startswith(ADMIN):
        raise error
    sentence = refusals.sentence(error, is_deletion=request.method == "DELETE")
    return await client_error(request, conflict or ClientError(sentence))


async def own_error(request: Request, error: Exception) -> Response:
    """500 for a bug of the service; the error is raised again and logged with its traceback."""
    context: Context = request.state.context
    context.metrics.failures["own"] += 1
    return reply({"detail": INTERNAL_ERROR.text}, INTERNAL_ERROR.status)


def _retry_later(seconds: int) -> Response:
    detail = {"detail": SERVICE_UNAVAILABLE.text}
    return reply(detail, SERVICE_UNAVAILABLE.status, {"Retry-After": str(seconds)})


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
    """Responds to an error by the table; raises it again if it is a bug of the service."""
    handler = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    response = await handler(Request(scope, receive), error)
    await response(scope, receive, send)
    if handler is own_error:
        raise error
