"""The statement that records heartbeats: what goes in, what comes back, what it refuses."""

from datetime import date
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.database import Statement
from service.rules import Configuration


class Beat(NamedTuple):
    """One heartbeat as the statement takes it; the fields are the statement's arrays in order."""

    profile_id: UUID
    account_id: UUID
    title_id: UUID
    session_id: UUID
    starts: bool
    device_id: str
    device_type: str
    paused: bool
    day: date
    exempt: bool
    mark: UUID | None
    renews: bool


class Recorded(NamedTuple):
    """What the committed rows say: None for the balance of an adult profile, else seconds.

    `renewed` is the configuration of a beat that asked for it and has one.
    """

    is_educational: bool
    used_seconds: int | None
    override: bool
    renewed: Configuration | None


class RecordedRow(msgspec.Struct, frozen=True):
    beats: list[int]
    refusals: list[int]
    educational: list[bool | None]
    children: list[UUID] | None
    used_seconds: list[int] | None
    overrides: list[bool] | None
    renewed: list[int] | None
    weekday_limits: list[int | None] | None
    weekend_limits: list[int | None] | None
    reset_hours: list[int] | None
    exemptions: list[bool] | None
    timezones: list[str] | None

    def balances(self) -> dict[UUID, tuple[int, bool]]:
        """Used seconds and override by child profile."""
        used = zip(self.used_seconds or (), self.overrides or (), strict=True)
        return dict(zip(self.children or (), used, strict=True))

    def configurations(self) -> dict[int, Configuration]:
        """Configurations by the position of the beat that asked for them."""
        columns = (
            self.weekday_limits or (),
            self.weekend_limits or (),
            self.reset_hours or (),
            self.exemptions or (),
            self.timezones or (),
        )
        found = map(Configuration, *columns)
        return dict(zip(self.renewed or (), found, strict=True))


RECORD: Final = Statement("heartbeat_record", RecordedRow)

REFUSALS: Final = {
    1: (401, "User not found or inactive"),
    2: (403, "Profile not found or access denied"),
    3: (404, "Title not found"),
    4: (404, "Session not found"),
    5: (403, "Session does not belong to this profile"),
    6: (422, "Idempotency-Key has been used before"),
}

# A beat of nobody, which is refused: it takes a new connection the whole way once.
NOBODY: Final = UUID(int=0)
NOBODYS: Final = tuple(
    [member]
    for member in Beat(
        profile_id=NOBODY,
        account_id=NOBODY,
        title_id=NOBODY,
        session_id=NOBODY,
        starts=False,
        device_id="",
        device_type="",
        paused=False,
        day=date(2000, 1, 1),
        exempt=False,
        mark=None,
        renews=False,
    )
)
