"""Compares events that the receiver and the streams have received with those of the table."""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import asyncpg

from tests.faults.causes import Change
from tests.faults.parties import Follower

Event = dict[str, Any]

MAX_BATCH: Final = 100
EVENTS: Final = """
select id, position, type, occurred_at, account_id, profile_id, data
from viewing_events order by position
"""


def in_json(row: asyncpg.Record) -> Event:
    """An event of the table as clients receive it, with its position."""
    event = {name: str(v) if isinstance(v, UUID) else v for name, v in row.items()}
    return {**event, "data": json.loads(row["data"])}


def same(event: Event) -> Event:
    """An event that was received, in the types of the table."""
    return {**event, "occurred_at": datetime.fromisoformat(event["occurred_at"])}


def check_order(events: list[Event], all_changes: list[Change]) -> None:
    """Events about one row are numbered in the order in which it was changed."""
    assert all(one["position"] < next_one["position"] for one, next_one in pairwise(events))
    numbered, caused = defaultdict(list), defaultdict(list)
    for event in events:
        numbered[_subject(event)].append(event["id"])
    for change in all_changes:
        if change.relation == "viewing_events":
            caused[_subject(change.row)].append(change.row["id"])
    assert numbered == caused


def _subject(event: Event) -> tuple[str, str]:
    """The row of which an event tells a change, or the event itself."""
    kind, _, verb = event["type"].partition(".")
    if kind == "request" or event["type"] == "grant.undone":
        return kind, event["data"].get("request_id") or event["data"]["grant_id"]
    if kind == "grant" and verb == "created":
        return kind, event["data"]["grant_id"]
    return (kind, event["profile_id"]) if kind == "lock" else (kind, event["id"])


def check_receiver(receipts: list[dict[str, Any]], events: list[Event]) -> None:
    """Every event was received as it is in the table, in order for each profile, and no other."""
    assert {receipt["path"] for receipt in receipts} == {"/events"}, "a redirect was followed"
    assert "forged" not in {receipt["how"] for receipt in receipts}
    batches: dict[str, list[str]] = {}
    stored = {event["id"]: event for event in events}
    first: dict[str, None] = {}
    for receipt in receipts:
        for event in receipt["events"]:
            assert same(event) == without_position(stored[event["id"]])
            first.setdefault(event["id"])
        if receipt["events"]:
            ids = [event["id"] for event in receipt["events"]]
            assert batches.setdefault(receipt["delivery"], ids) == ids
            assert len(ids) <= MAX_BATCH
    assert first.keys() == stored.keys()
    assert _by_owner(stored[each] for each in first) == _by_owner(events)


def without_position(event: Event) -> Event:
    return {name: value for name, value in event.items() if name != "position"}


def _by_owner(events: Iterable[Event]) -> dict[str, list[str]]:
    ids = defaultdict(list)
    for event in events:
        ids[event["profile_id"] or event["account_id"]].append(event["id"])
    return ids


def check_streams(followers: list[Follower], events: list[Event]) -> None:
    """Every stream got the events of its account, each of them once, in their order."""
    by_account = defaultdict(list)
    for event in events:
        by_account[event["account_id"]].append(without_position(event))
    for follower in followers:
        assert [same(event) for event in follower.events] == by_account[str(follower.account)]
