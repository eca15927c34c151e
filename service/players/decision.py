"""GET /decision: whether a profile may watch, until when, and why."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.http.decided import decided

MAX_MINUTES: Final = 1440


async def decision(request: Request) -> Response:
    """GET /decision/{profile_id}: returns whether a child may watch, until when, and why."""
    _, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    title_id = lenient_json.query_uuid(request.query_params, "title_id")
    minutes = lenient_json.query_integer(request.query_params, "minutes", 1, MAX_MINUTES)
    found = await decided(request, account_id, profile_id, title_id)
    return reply(found.reply(minutes))
