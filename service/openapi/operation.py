"""The type of a described operation, and what operations of several callers share."""

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Final, NamedTuple

import msgspec

from service import errors
from service.events.stream import COMMENT_SECONDS, MAX_STREAMS_PER_ACCOUNT
from service.openapi.parameters import Parameter
from service.viewing.config_changes import MAX_WAIT_SECONDS

Struct = type[msgspec.Struct]


class Caller(Enum):
    """The permitted callers; an owner is the account that owns the profile."""

    ANYONE = "anyone"
    ACCOUNT = "account"
    OWNER = "owner"
    ADMIN = "admin"


class Operation(NamedTuple):
    """One method of one path.

    `answer` is the Struct of a 200, or None for a 204. `text` describes a 200 by media type if it
    is not JSON, `headers` names its headers, each with an example. `also` has the Structs of
    other statuses, `lines` those of an NDJSON body. The body of a DELETE can always be left out.
    """

    tag: str
    caller: Caller
    answer: Struct | None = None
    body: Struct | None = None
    sentences: Sequence[errors.Sentence] = ()
    parameters: Sequence[Parameter] = ()
    note: str = ""
    text: Mapping[str, str] = {}
    also: Mapping[int, Struct] = {}
    lines: Sequence[Struct] = ()
    headers: Mapping[str, tuple[str, str]] = {}
    needs_body: bool = True


PLAYERS: Final = "Players"
PARENTS: Final = "Parents"
PLATFORM: Final = "Platform"
OPERATORS: Final = "Operators"
TAGS: Final = {
    PLAYERS: "Called by the player on a device, while a child watches.",
    PARENTS: "Called by parents' apps: limits, more time, the PIN, reports.",
    PLATFORM: "Called by the systems that own accounts, profiles and titles, with the token of an"
    " administrator.",
    OPERATORS: "Called by load balancers, monitoring and people who run the service.",
}

EXPLAINED: Final = {
    "Preference-Applied": ("Present if the response has the decision about each rule.", "decision")
}
STREAM: Final = (
    "The stream goes on until the client closes it. Each event has an `id`, its type as `event`,"
    " and as `data` the JSON that webhooks have too; docs/events.md lists the types. A stream"
    " without `Last-Event-ID` begins now; its first `id` has no data. After an interruption send"
    " the latest `id`: the events after it follow, each once, for as long as events are kept. An id"
    " that is not an event of the account, for example because it was deleted, stands for its time."
    f" A comment arrives every {COMMENT_SECONDS:.0f} seconds. The service ends a stream when it"
    " stops, when the access token expires, when the account becomes inactive and when the client"
    f" reads too slowly. An account can have {MAX_STREAMS_PER_ACCOUNT} of them on one instance."
)
EVERYWHERE: Final = (
    "The response is sent when every instance has applied the change: heartbeats sent after it"
    f" follow the change. It waits at most {MAX_WAIT_SECONDS * 1000:.0f} milliseconds for an"
    " instance that does not respond."
)

admin = partial(Operation, PLATFORM, Caller.ADMIN)
account = partial(Operation, PARENTS, Caller.ACCOUNT)
owner = partial(Operation, PARENTS, Caller.OWNER)
anyone = partial(Operation, OPERATORS, Caller.ANYONE)
