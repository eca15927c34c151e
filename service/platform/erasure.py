"""DELETE of a child's viewing data. An audit line without ids stays in the log."""

import hmac
import logging
from typing import Annotated, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.database.pool import connected
from service.database.statement import Statement
from service.errors import PROFILE_NOT_FOUND, ClientError
from service.http import auth
from service.http.body_and_reply import reply
from service.http.fields import ProfileId, doc
from service.observing.trace import omit_profile
from service.platform.records import caller_and_id, cell_of_profile
from service.settings import Settings

audit = logging.getLogger("viewing_time.audit")
audit.setLevel(logging.INFO)  # independent of LOG_LEVEL

ERASE_SECONDS: Final = 30.0
OPERATOR: Final = "operator"


class EraseRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_admin: bool
    account_id: UUID | None
    sessions: int
    balances: int
    grants: int
    configurations: int
    notified: str | None
    listeners: list[str]


ERASE: Final = Statement("viewing_data_erase", EraseRow)


class Erased(msgspec.Struct, frozen=True):
    """The number of deleted rows of each kind."""

    profile_id: ProfileId
    sessions: Annotated[int, doc("Sessions deleted.", 12)]
    balances: Annotated[int, doc("Balances deleted, one for each viewing day.", 5)]
    grants: Annotated[int, doc("Grants deleted.", 1)]
    configurations: Annotated[
        int,
        doc("Rules of the parent deleted: configuration, schedule, lock, each exception.", 1),
    ]


async def viewing_data_erase(request: Request) -> Response:
    """Deletes a profile's viewing data and rules, but not the profile."""
    omit_profile()
    caller, caller_id, profile_id = await caller_and_id(request, "profile")
    context = await cell_of_profile(request, caller, caller_id, profile_id)
    change = context.configurations.changes.begin()
    arguments = (caller_id, False, profile_id, change.origin)
    row = auth.administered(await ERASE.one(context.pool, *arguments, timeout=ERASE_SECONDS))
    if row.account_id is None:
        raise ClientError(PROFILE_NOT_FOUND)
    context.configurations.drop(row.account_id, profile_id)
    await change.wait_for(row.listeners)
    return reply(_erased(context.settings, profile_id, row, _mark(context.settings, caller_id)))


async def erase(settings: Settings, profile_id: UUID) -> Erased | None:
    """Deletes the viewing data for an operator; None if the profile does not exist."""
    async with connected(settings, ERASE_SECONDS) as connection:
        row = await ERASE.one(connection, None, True, profile_id, "", timeout=ERASE_SECONDS)
    return _erased(settings, profile_id, row, OPERATOR) if row.account_id else None


def _erased(settings: Settings, profile_id: UUID, row: EraseRow, by: str) -> Erased:
    """Writes the audit line and returns the counts."""
    erased = Erased(profile_id, row.sessions, row.balances, row.grants, row.configurations)
    fields = {**msgspec.structs.asdict(erased), "profile_id": _mark(settings, profile_id), "by": by}
    audit.info("viewing_data_erased", extra={"fields": fields})
    return erased


def _mark(settings: Settings, key: UUID) -> str:
    """An HMAC that replaces an id in the log: equal ids give equal marks.

    The id and the JWT_SECRET of that time prove that a line is about the id.
    """
    return hmac.digest(settings.jwt_secret.encode(), b"audit" + key.bytes, "sha256")[:16].hex()
