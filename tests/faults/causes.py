"""The changes of every committed transaction, and the events that it must have written.

Triggers store each change of a row in the transaction of the change, also each new event. So a
cause and its event can be compared by their transaction, and neither is left of one that was rolled
back. Nothing here uses code of the service.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from service.database.driver import Connection

DOOMED_MINUTES: Final = 119
DOOMED_DEVICE: Final = "doomed"
AUDIT: Final = f"""
create table audit (
    id int8 not null generated always as identity primary key,
    xact int8 not null default pg_current_xact_id()::text::int8,
    relation text not null,
    before jsonb,
    after jsonb
);
-- The table is an argument, because balances have partitions.
create function audited() returns trigger language plpgsql as $$
begin
    insert into public.audit (relation, before, after) values (
        tg_argv[0],
        case when tg_op <> 'INSERT' then to_jsonb(old) end,
        case when tg_op <> 'DELETE' then to_jsonb(new) end
    );
    return null;
end $$;
do $$
declare
    relation text;
begin
    foreach relation in array array[
        'time_grants', 'viewing_requests', 'viewing_locks', 'viewing_schedules',
        'viewing_exceptions', 'viewing_time_configs', 'viewing_time_balances',
        'viewing_time_attempts'
    ] loop
        execute format('create trigger audited after insert or update or delete on %I '
            'for each row execute function audited(%L)', relation, relation);
    end loop;
end $$;
create trigger audited after insert on viewing_events
    for each row execute function audited('viewing_events');
create trigger audited after insert or update of ended_at on viewing_sessions
    for each row execute function audited('viewing_sessions');
create trigger audited after update of pin_lockout_until on users
    for each row execute function audited('users');
create function refused() returns trigger language plpgsql as $$
begin
    raise exception 'the commit fails' using errcode = '53100';
end $$;
create constraint trigger doomed after insert on time_grants deferrable initially deferred
    for each row when (new.granted_minutes = {DOOMED_MINUTES}) execute function refused();
create constraint trigger doomed after insert on viewing_sessions deferrable initially deferred
    for each row when (new.device_id = '{DOOMED_DEVICE}') execute function refused();
"""
Row = dict[str, Any]

CONFIGURATION: Final = (
    "weekday_limit_minutes",
    "weekend_limit_minutes",
    "reset_hour",
    "educational_exempt",
    "timezone",
)
SCHEDULE: Final[Row] = {
    "daily_limits": None,
    "downtime": [],
    "weekly_limit_minutes": None,
    "week_starts_on": "mon",
    "rollover_max_minutes": 0,
    "finish_minutes": 0,
}
EXCEPTION: Final = ("changes_limit", "limit_minutes", "lifts_downtime")
TIMES: Final = ("locked_until", "expires_at")
FROM_HEARTBEATS: Final = {"viewing.warning", "viewing.blocked"}


class Change(NamedTuple):
    """A row of a table, before and after a transaction changed it."""

    id: int
    xact: int
    relation: str
    before: Row | None
    after: Row | None

    @property
    def row(self) -> Row:
        row = self.after or self.before
        assert row is not None
        return row

    def has_other(self, *members: str) -> bool:
        """Whether one of the members is another one than before."""
        before, after = self.before or {}, self.after or {}
        return any(before.get(name) != after.get(name) for name in members)


class Cause(NamedTuple):
    """The content of an event that must be there; `data` is JSON."""

    xact: int
    type: str
    owner: str
    data: str


async def changes(connection: Connection) -> list[Change]:
    """Every change of a committed transaction, in the order in which rows were locked."""
    rows = await connection.fetch("select id, xact, relation, before, after from audit order by id")
    return [
        Change(r[0], r[1], r[2], r[3] and json.loads(r[3]), r[4] and json.loads(r[4])) for r in rows
    ]


def instant(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat()


def cause(xact: int, kind: str, owner: str, data: Row) -> Cause:
    """A cause whose times do not depend on how they are written."""
    same = {name: instant(v) if name in TIMES else v for name, v in data.items()}
    return Cause(xact, kind, owner, json.dumps(same, sort_keys=True))


def written(all_changes: list[Change]) -> Counter[Cause]:
    """The events that transactions have written, except those that depend on a balance."""
    return Counter(
        cause(c.xact, c.row["type"], c.row["profile_id"] or c.row["account_id"], c.row["data"])
        for c in all_changes
        if c.relation == "viewing_events" and c.row["type"] not in FROM_HEARTBEATS
    )


def required(all_changes: list[Change]) -> Counter[Cause]:
    """The events that transactions had to write, except those that depend on a balance."""
    together = defaultdict(list)
    for change in all_changes:
        together[change.xact].append(change)
    locks: dict[str, str | None] = {}
    found: Counter[Cause] = Counter()
    for change in all_changes:
        if change.relation == "users":
            locks[change.row["id"]] = change.row["pin_lockout_until"]
        for kind, owner, data in _events(change, together[change.xact], locks):
            found[cause(change.xact, kind, owner, data)] += 1
    return found


def _events(
    change: Change, together: list[Change], locks: dict[str, str | None]
) -> Iterator[tuple[str, str, Row]]:
    before, after, row = change.before, change.after, change.row
    child = row.get("profile_id", "")
    match change.relation:
        case "time_grants" if before is None:
            data = {name: row[name] for name in ("mode", "is_remote", "request_id")}
            data |= {"grant_id": row["id"], "minutes": row["granted_minutes"]}
            yield "grant.created", child, data
        case "time_grants" if before and not before["undone_at"] and row["undone_at"]:
            yield "grant.undone", child, {"grant_id": row["id"]}
        case "viewing_requests" if before is None:
            members = {name: row[name] for name in ("minutes", "expires_at")}
            yield "request.created", child, {"request_id": row["id"], **members}
        case "viewing_requests" if change.has_other("status"):
            yield f"request.{row['status']}", child, _decided(row, together)
        case "viewing_locks" if after is None:
            yield "lock.cleared", child, {}
        case "viewing_locks" if change.has_other("locked_until"):
            yield "lock.set", child, {"locked_until": row["locked_until"]}
        case "viewing_schedules" if _schedule(before) != _schedule(after):
            yield "schedule.changed", child, {}
        case "viewing_exceptions" if before is None or change.has_other(*EXCEPTION):
            yield "schedule.changed", child, {"day": row["day"]}
        case "viewing_time_configs" if before and change.has_other(*CONFIGURATION):
            yield "configuration.changed", child, {}
        case "viewing_sessions" if before and not before["ended_at"] and row["ended_at"]:
            news = [c.row for c in together if c.relation == "viewing_sessions" and not c.before]
            if any(n["profile_id"] == child and n["device_id"] != row["device_id"] for n in news):
                yield "session.displaced", child, {"session_id": row["id"]}
        case "viewing_time_attempts" if after is None and row["locked_until"]:
            is_judged = not any(c.relation == "users" for c in together)
            if is_judged and locks.get(row["account_id"]) == row["locked_until"]:
                yield "pin.locked", row["account_id"], {"locked_until": row["locked_until"]}


def _decided(request: Row, together: list[Change]) -> Row:
    """The data of the event of a request that is not pending any more."""
    data = {"request_id": request["id"]}
    if request["status"] != "approved":
        return data
    grants = [c.row for c in together if c.relation == "time_grants"]
    (grant,) = [g for g in grants if g["request_id"] == request["id"]]
    return {**data, "grant_id": grant["id"], "minutes": grant["granted_minutes"]}


def _schedule(row: Row | None) -> list[Any]:
    return [(row or SCHEDULE)[name] for name in SCHEDULE]


def check_balances(all_changes: list[Change], child: str, limit_seconds: int) -> int:
    """Asserts the warnings and blocks of a child whose only rule is a daily limit.

    Returns the number of its days and states. Each has one event, in the transaction of the first
    beat that was counted in it, or before: a beat that counts nothing announces too.
    """
    grants = {c.xact for c in all_changes if c.relation == "time_grants"}
    first: dict[tuple[str, str], Change] = {}
    possible = set()
    for change in all_changes:
        if change.relation == "viewing_time_balances" and change.row["profile_id"] == child:
            at = (change.row["reset_date"], _state(change.row, limit_seconds))
            possible.add(at)
            if change.xact not in grants and change.has_other("used_seconds") and at[1]:
                first.setdefault(at, change)
    events = [(_announced(c.row), c) for c in all_changes if _is_about(c, child)]
    counts = Counter(at for at, _ in events)
    assert {at for at, count in counts.items() if count != 1} == set()
    missing, unexplained = first.keys() - counts.keys(), counts.keys() - possible
    assert (missing, unexplained) == (set(), set()), child
    for at, event in events:
        assert at not in first or event.xact == first[at].xact or event.id < first[at].id, at
    return len(counts)


def _is_about(change: Change, child: str) -> bool:
    is_event = change.relation == "viewing_events" and change.row["type"] in FROM_HEARTBEATS
    return is_event and change.row["profile_id"] == child


def _state(balance: Row, limit_seconds: int) -> str:
    """The state that a beat with this balance announces; empty: none."""
    left = limit_seconds - balance["used_seconds"] + 60 * (balance["extended_minutes"] or 0)
    if balance["is_unlimited_override"] or left > 900:
        return ""
    return "daily_limit" if left <= 0 else "5" if left <= 300 else "15"


def _announced(event: Row) -> tuple[str, str]:
    """The viewing day of an event, and the minutes of the warning or the reason of the block."""
    data = event["data"]
    return data["viewing_date"], str(data.get("minutes") or data["reason"])


def announced(all_changes: list[Change], child: str) -> list[tuple[str, datetime]]:
    """The warnings and blocks of a child, and when they occurred."""
    return [
        (_announced(c.row)[1], datetime.fromisoformat(c.row["occurred_at"]))
        for c in all_changes
        if _is_about(c, child)
    ]
