"""Links to the weekly report that a parent's app opens in a browser, which has no access token.

The URL contains a random secret with a signature; the database has only a hash of the secret. A
token that the service has not signed costs no statement. Opening the link deletes the row in the
statement that reads it, so the link works once on all instances. Every GET uses it up, also that of
a program that previews links; HEAD is answered 405 and does not.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from functools import partial
from hashlib import sha256
from secrets import token_bytes
from time import monotonic
from typing import Annotated, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import REPORT_LINK_UNUSABLE, ClientError
from service.http import auth, negotiation
from service.http.body_and_reply import reply
from service.http.cells import first_found
from service.http.fields import Time, doc
from service.http.idempotency import begin_once, repeatable
from service.http.urls import PARENTAL
from service.parents import report_page
from service.parents.report_view import PAGE_VIEW
from service.parents.report_weeks import MAX_CHILDREN, Wanted, find_weeks
from service.parents.report_words import Words, words_for
from service.settings import Settings

LINK_SECONDS: Final = 300
MAX_LINKS: Final = 20  # of an account
RANDOM_BYTES: Final = 24
PURPOSE: Final = b"report link"
PAGE: Final = f"{PARENTAL}/weekly-report/page"
WITHOUT_URL: Final = b"{}"  # stored instead of the response, which contains a token


class KeptRow(msgspec.Struct, frozen=True):
    is_active: bool
    expires_at: datetime | None


class UsedRow(msgspec.Struct, frozen=True):
    account_id: UUID


KEEP: Final = Statement("report_link_keep", KeptRow)
USE: Final = Statement("report_link_use", UsedRow)


class ReportLink(msgspec.Struct, frozen=True):
    """A link that shows the report once, without an access token."""

    url: Annotated[
        str,
        doc(
            "The path of the page; resolve it against the base URL of the API.",
            f"{PAGE}/Zq3xV0bq3mYg0pX1n2s6d5t7c8e9r4u1",
        ),
    ]
    expires_at: Annotated[
        Time, doc("From this time on the link does not work, in UTC.", "2026-03-01T18:05:00Z")
    ]


@repeatable
async def report_link(request: Request) -> Response:
    """POST /weekly-report/link: returns a URL that shows the weekly report in a browser."""
    context, account_id = await auth.caller(request)
    once = await begin_once(request, account_id, None)
    once.require_same()
    secret = token_bytes(RANDOM_BYTES)
    arguments = (account_id, _hash(secret), LINK_SECONDS, MAX_LINKS)
    row = auth.active(await KEEP.maybe(context.pool, *arguments))
    assert row.expires_at is not None  # null only for an inactive account
    await once.keep(context.pool, 200, WITHOUT_URL)
    url = f"{PAGE}/{_token(context.settings.jwt_secret, secret)}"
    return reply(ReportLink(url, row.expires_at))


async def linked_report(request: Request) -> Response:
    """GET /weekly-report/page/{token}: shows the weekly report of a link, once."""
    context: Context = request.state.context
    started_at = monotonic()
    words = words_for(", ".join(request.headers.getlist("accept-language")))
    secret = _secret(context.settings, request.path_params["token"])
    used = secret and await first_found(context, partial(_use, secret))
    if not used:
        return _unusable(request, words)
    found = await find_weeks(used[0], used[1].account_id, Wanted(PAGE_VIEW, MAX_CHILDREN, None))
    more = report_page.first_children(words) if found.has_more else ""
    response = report_page.page(found, words, more)
    response.headers["Vary"] = "Accept-Language"
    ended_at = monotonic()
    context.metrics.reports.add(ended_at, ended_at - started_at)
    return response


async def _use(secret: bytes, cell: Context) -> UsedRow | None:
    """Uses a link up, if it is one of this cell: its token does not contain the account."""
    return await USE.maybe(cell.pool, _hash(secret))


def _unusable(request: Request, words: Words) -> Response:
    """The page of an unusable link if the client is a browser; else raises ClientError 404."""
    accept = ", ".join(request.headers.getlist("accept"))
    if not negotiation.prefers(accept, "text/html", "application/json"):
        raise ClientError(REPORT_LINK_UNUSABLE)
    response = report_page.used_link(words)
    response.headers["Vary"] = "Accept, Accept-Language"
    return response


def _token(key: str, secret: bytes) -> str:
    """The signed secret, as text for a URL."""
    return urlsafe_b64encode(secret + _signature(key, secret)).decode()


def _secret(settings: Settings, token: str) -> bytes | None:
    """The secret in a token of this service; None if it has another signature, or none."""
    try:
        signed = urlsafe_b64decode(token)
    except ValueError:
        return None
    secret, signature = signed[:RANDOM_BYTES], signed[RANDOM_BYTES:]
    keys = filter(None, (settings.jwt_secret, settings.jwt_secret_previous))
    is_ours = any(hmac.compare_digest(signature, _signature(key, secret)) for key in keys)
    return secret if is_ours else None


def _signature(key: str, secret: bytes) -> bytes:
    return hmac.digest(key.encode(), PURPOSE + secret, "sha256")[:RANDOM_BYTES]


def _hash(secret: bytes) -> bytes:
    return sha256(secret).digest()
