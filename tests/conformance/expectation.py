"""The expected response of a step, and the first difference from it.

Numbers compare by value, everything else by type and value.
"""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

import httpx
import msgspec

from tests.conformance.matchers import Moment, equal, matcher

# A time in a header ends in `+00:00` where one in JSON ends in `Z`.
TIMES = ("<now>", "<in:", "<datetime>", "<next_reset:")


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reply; a header expected as null must be absent. `only`: just the members named count."""

    status: int
    headers: dict[str, str | None] = {}
    json: Any = msgspec.UNSET
    only: bool = False


def reply_difference(expect: Expect, reply: httpx.Response, moment: Moment) -> str | None:
    """The first difference of `reply` from what is expected, None if there is none."""
    if reply.status_code != expect.status:
        return f"status: expected {expect.status}, got {reply.status_code} {reply.text}"
    for name, expected in expect.headers.items():
        if found := header_difference(name, expected, reply.headers.get(name), moment):
            return found
    if expect.json is msgspec.UNSET:
        return None
    try:
        actual = json.loads(reply.text, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"body: no JSON ({error}): {reply.text!r}"
    if expect.status == 422 and _is_fault_list(expect.json):
        return faults_difference(expect.json["detail"], actual)
    return difference(expect.json, actual, moment, only=expect.only)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def header_difference(
    name: str, expected: str | None, actual: str | None, moment: Moment
) -> str | None:
    """The difference of a header's value; media types compare without parameters."""
    if expected is not None and actual is not None:
        if name.lower() == "content-type":
            same = expected == actual.partition(";")[0].strip().lower()
        elif judge := matcher(expected):
            is_spelled = actual.endswith("+00:00") or not expected.startswith(TIMES)
            same = is_spelled and judge(actual.replace("+00:00", "Z"), moment)
        else:
            same = expected == actual
        if same:
            return None
    elif expected is actual:
        return None
    return f"header {name}: expected {expected!r}, got {actual!r}"


def _is_fault_list(expected: object) -> bool:
    return isinstance(expected, dict) and isinstance(expected.get("detail"), list)


def faults_difference(recorded: list[dict[str, Any]], actual: object) -> str | None:
    """The difference of a list of validation faults.

    The first fault reported has the `loc` and `type` of a recorded one; each has its three members.
    """
    if not isinstance(actual, dict) or actual.keys() != {"detail"}:
        return f"body: expected `detail` alone, got {actual!r}"
    faults = actual["detail"]
    if not isinstance(faults, list) or not faults:
        return f"detail: expected a list of faults, got {faults!r}"
    for fault in faults:
        if not isinstance(fault, dict) or not {"type", "loc", "msg"} <= fault.keys():
            return f"detail: expected type, loc and msg, got {fault!r}"
    first = (faults[0]["loc"], faults[0]["type"])
    known = [(fault["loc"], fault["type"]) for fault in recorded]
    return None if first in known else f"detail: expected one of {known}, got {first}"


def difference(
    expected: Any, actual: Any, moment: Moment, *, only: bool = False, at: str = "body"
) -> str | None:
    """The first difference of a JSON value, named by its place; None if there is none."""
    if judge := matcher(expected):
        same = judge(actual, moment)
    elif isinstance(expected, dict) and isinstance(actual, dict):
        return _members_difference(expected, actual, moment, only, at)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{at}: expected {len(expected)} elements, got {len(actual)}"
        pairs = enumerate(zip(expected, actual, strict=True))
        return _first(
            difference(wanted, got, moment, only=only, at=f"{at}[{index}]")
            for index, (wanted, got) in pairs
        )
    else:
        same = equal(expected, actual)
    return None if same else f"{at}: expected {expected!r}, got {actual!r}"


def _members_difference(
    expected: dict[str, Any], actual: dict[str, Any], moment: Moment, only: bool, at: str
) -> str | None:
    if missing := expected.keys() - actual.keys():
        return f"{at}: missing {sorted(missing)}"
    if not only and (extra := actual.keys() - expected.keys()):
        return f"{at}: not expected {sorted(extra)}"
    return _first(
        difference(wanted, actual[name], moment, only=only, at=f"{at}.{name}")
        for name, wanted in expected.items()
    )


def _first(found: Iterable[str | None]) -> str | None:
    return next((text for text in found if text is not None), None)
