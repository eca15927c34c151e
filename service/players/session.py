"""The end of a viewing session."""

from datetime import datetime
from functools import partial
from typing import Annotated, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.database.driver import Source
from service.database.statement import Statement
from service.errors import SESSION_DENIED, SESSION_NOT_FOUND, ClientError
from service.http import auth, lenient_json
from service.http.fields import EndedAt, SessionId, doc
from service.http.idempotency import begin_once, repeatable


class EndRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_found: bool
    is_owner: bool
    total_seconds: int | None
    ended_at: datetime | None


END: Final = Statement("session_end", EndRow)


class SessionEnd(msgspec.Struct, frozen=True):
    """The ended session."""

    session_id: SessionId
    total_seconds: Annotated[int | None, doc("Seconds counted in the session.", 1830)]
    ended_at: EndedAt


@repeatable
async def session_end(request: Request) -> Response:
    """POST /session/{session_id}/end: ends a session when playback stops."""
    context, account_id = await auth.caller(request)
    session_id = lenient_json.path_uuid(request.path_params["session_id"], "session_id")
    once = await begin_once(request, account_id, session_id)
    return await once.answer(partial(_end, account_id, session_id, context.now()))


async def _end(account_id: UUID, session_id: UUID, now: datetime, source: Source) -> SessionEnd:
    row = auth.active(await END.maybe(source, account_id, session_id, now))
    if not row.is_found:
        raise ClientError(SESSION_NOT_FOUND)
    if not row.is_owner:
        raise ClientError(SESSION_DENIED)
    return SessionEnd(session_id, row.total_seconds, row.ended_at)
