"""The body of a heartbeat, and the answer."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.http.decision_reply import DecisionReply
from service.http.fields import (
    IsEducational,
    ProfileId,
    RemainingMinutes,
    SessionId,
    TitleId,
    UsedMinutes,
    doc,
)
from service.viewing import rules


class HeartbeatBody(msgspec.Struct):
    """Sent by a player every 30 seconds; without a session id it starts a session."""

    profile_id: ProfileId
    title_id: TitleId
    device_id: Annotated[str, Meta(max_length=100), doc("The player's id.", "tv-1")]
    session_id: Annotated[
        UUID | None,
        doc("The session to continue. Null or absent: start one and end the open one.", None),
    ] = None
    device_type: Annotated[
        Literal["tv", "mobile", "tablet", "web"], doc("The kind of player.", "tv")
    ] = "web"
    is_paused: Annotated[
        bool, doc("Playback is paused; after 300 seconds heartbeats stop counting.", False)
    ] = False
    exclusive: Annotated[
        bool, doc("Reject this heartbeat with 409 if another device has ended its session.", False)
    ] = False


class Verdict(msgspec.Struct, frozen=True):
    """The answer to a heartbeat; null remaining minutes are unlimited."""

    session_id: SessionId
    enforcement: Annotated[
        rules.Enforcement,
        doc(
            "Whether to continue (`allowed`), to continue and warn that at most 15 or 5 minutes"
            " are left, or to stop.",
            "allowed",
        ),
    ]
    remaining_minutes: RemainingMinutes
    used_minutes: UsedMinutes
    is_educational: IsEducational
    decision: Annotated[
        DecisionReply | UnsetType,
        doc("The decision about each rule; only with the header `Prefer: decision`."),
    ] = UNSET
