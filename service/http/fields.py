"""Fields that several bodies and responses share: type, description and example."""

from datetime import date, datetime
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

EXAMPLE_ACCOUNT: Final = "d0000000-0000-4000-8000-000000000001"
EXAMPLE_PROFILE: Final = "d0000000-0000-4000-8000-000000000011"
EXAMPLE_TITLE: Final = "d0000000-0000-4000-8000-000000000021"
EXAMPLE_SESSION: Final = "5f0c3a52-7d0e-4a7b-9c1f-2f6d1f3f7a10"
EXAMPLE_GRANT: Final = "019acb0e-5c80-7000-8000-000000000001"
EXAMPLE_TIME_REQUEST: Final = "019acb0e-5c80-7000-8000-000000000002"
EXAMPLE_JWT: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl"


def doc(description: str, *examples: object) -> Meta:
    """Describes a field in /openapi.json; examples of a whole body show its first example."""
    return Meta(description=description, examples=[*examples] or None)


Time = Annotated[datetime, Meta(tz=True)]

AccountId = Annotated[UUID, doc("The account's id.", EXAMPLE_ACCOUNT)]
ProfileId = Annotated[UUID, doc("The profile's id.", EXAMPLE_PROFILE)]
TitleId = Annotated[UUID, doc("The title's id.", EXAMPLE_TITLE)]
SessionId = Annotated[UUID, doc("The viewing session's id.", EXAMPLE_SESSION)]
GrantId = Annotated[UUID, doc("The grant's id.", EXAMPLE_GRANT)]
TimeRequestId = Annotated[UUID, doc("The id of the request for more time.", EXAMPLE_TIME_REQUEST)]

PinToken = Annotated[
    str | None,
    doc(
        "From `POST /pin/verify`. A strict account requires it, here or in `X-PIN-Token`.",
        EXAMPLE_JWT,
    ),
]

ViewingDay = Annotated[date, doc("A viewing day of the child.", "2026-12-24")]
ReportDay = Annotated[
    date, doc("A UTC day; with `zone=child`, a viewing day of the child.", "2026-03-01")
]
EndedAt = Annotated[
    Time | None,
    doc("When the session ended, in UTC; null while it is open.", "2026-03-01T18:00:00Z"),
]
UsedMinutes = Annotated[float, doc("Minutes counted against the limit of the viewing day.", 30.5)]
RemainingMinutes = Annotated[
    float | None,
    doc(
        "Minutes left by the rule that leaves least, downtime included; never below 0; null if no"
        " rule limits viewing.",
        89.5,
    ),
]
EffectMinutes = Annotated[
    float | None,
    doc(
        "Minutes that the grant has given: fewer than granted if fewer were used. Null if it lifted"
        " the limit.",
        15.0,
    ),
]
IsUnlimited = Annotated[bool, doc("A parent has lifted the limit of this viewing day.", False)]
IsEducational = Annotated[bool, doc("The title is educational.", False)]
EducationalMinutes = Annotated[float, doc("Minutes watched of educational titles.", 12.0)]
TotalMinutes = Annotated[float, doc("Minutes watched.", 45.5)]
