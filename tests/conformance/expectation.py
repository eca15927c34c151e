"""The expected response of a step, and the first difference from it.

Numbers compare by value, everything else by type and value.
"""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

import httpx
import msgspec

from tests.conformance.matchers import Moment, equal, matcher

# A time ends in `+00:00` in a header and in `Z` in JSON.
TIMES = ("<now>", "<in:", "<datetime>", "<next_reset:")


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The expected reply; a header of null must be absent; `only` ignores other members."""

    status: int
    headers: dict[str, str | None] = {}
    json: Any = msgspec.UNSET
    only: bool = False


def reply_difference(expect: Expect, reply: httpx.Response, moment: Moment) -> str | None:
    """The first difference of `reply` from the expected one; None if they are equal."""
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
    if expect.status == 422 and _is_error_list(expect.json):
        return errors_difference(expect.json["detail"], actual)
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
        elif matches := matcher(expected):
            is_spelled = actual.endswith("+00:00") or not expected.startswith(TIMES)
            same = is_spelled and matches(actual.replace("+00:00", "Z"), moment)
        else:
            same = expected == actual
        if same:
            return None
    elif expected is actual:
        return None
    return f"header {name}: expected {expected!r}, got {actual!r}"


def _is_error_list(expected: object) -> bool:
    return isinstance(expected, dict) and isinstance(expected.get("detail"), list)


def errors_difference(recorded: list[dict[str, Any]], actual: object) -> str | None:
    """The difference of a list of validation errors.

    The first one must have the `loc` and `type` of a recorded one; each must have three members.
    """
    if not isinstance(actual, dict) or actual.keys() != {"detail"}:
        return f"body: expected `detail` alone, got {actual!r}"
    errors = actual["detail"]
    if not isinstance(errors, list) or not errors:
        return f"detail: expected a list of errors, got {errors!r}"
    for error in errors:
        if not isinstance(error, dict) or not {"type", "loc", "msg"} <= error.keys():
            return f"detail: expected type, loc and msg, got {error!r}"
    first = (errors[0]["loc"], errors[0]["type"])
    recorded_pairs = [(error["loc"], error["type"]) for error in recorded]
    return (
        None
        if first in recorded_pairs
        else f"detail: expected one of {recorded_pairs}, got {first}"
    )


def difference(
    expected: Any, actual: Any, moment: Moment, *, only: bool = False, at: str = "body"
) -> str | None:
    """The first difference of a JSON value, with its place; None if they are equal."""
    if matches := matcher(expected):
        same = matches(actual, moment)
    elif isinstance(expected, dict) and isinstance(actual, dict):
        return _members_difference(expected, actual, moment, only, at)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{at}: expected {len(expected)} elements, got {len(actual)}"
        pairs = enumerate(zip(expected, actual, strict=True))
        return _first(
            difference(expected_value, actual_value, moment, only=only, at=f"{at}[{index}]")
            for index, (expected_value, actual_value) in pairs
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
        difference(expected_value, actual[name], moment, only=only, at=f"{at}.{name}")
        for name, expected_value in expected.items()
    )


def _first(found: Iterable[str | None]) -> str | None:
    return next((text for text in found if text is not None), None)
