"""Bodies, paths and queries: the lenient forms that clients rely on, and the errors."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from service.errors import ClientError, FieldError, MalformedJson
from service.http import lenient_json
from service.http.query_dates import query_date

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
HEX = ID.replace("-", "")
NINES = "9" * 5000
Pin = Annotated[str, Meta(min_length=4, max_length=4, pattern="^[0-9]{4}$")]


class Every(msgspec.Struct):
    """One field of each kind; only the first two are required."""

    id: UUID
    name: Annotated[str, Meta(max_length=10)]
    session: UUID | None = None
    device: Literal["tv", "mobile", "web"] = "web"
    paused: bool = False
    minutes: Annotated[int, Meta(ge=15, le=480)] | None | UnsetType = UNSET
    hour: Annotated[int, Meta(ge=0, le=23)] | UnsetType = UNSET
    password: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    new_pin: Pin | None = None
    pin_token: str | None = None


BODY = lenient_json.Body(Every)
PLAIN = {"id": f'"{ID}"', "name": '"x"'}


def written(members: Mapping[str, str]) -> bytes:
    return ("{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}").encode()


def read(**members: str) -> Every:
    """Reads the required members, overridden by `members`, which are JSON texts."""
    return BODY.read(written(PLAIN | members), "application/json")


def entry(error: ClientError) -> dict[str, Any]:
    """The only entry of an error, as it is sent."""
    assert error.status == 422
    (only,) = json.loads(lenient_json.encode(error.detail))
    assert only.keys() >= {"type", "loc", "msg", "input"}
    assert isinstance(only, dict)
    return only


def refused(raw: bytes, content_type: str | None = "application/json") -> dict[str, Any]:
    with pytest.raises((FieldError, MalformedJson)) as caught:
        BODY.read(raw, content_type)
    return entry(caught.value)


def test_plain_body_is_read_by_the_compiled_decoder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", None)
    assert read() == Every(UUID(ID), "x")
    assert read(name='"é\\u00e9"', paused="true", minutes="null", hour="7") == Every(
        UUID(ID), "éé", paused=True, minutes=None, hour=7
    )


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"session": "null", "device": '"tv"', "paused": "true"},
        {"minutes": "null", "hour": "0", "password": '"é"', "new_pin": '"0000"'},
        {"id": f'"{ID.upper()}"', "session": f'"{HEX}"', "name": '"\\ud83d\\ude00"'},
    ],
)
def test_compiled_and_lenient_decoder_agree(members: dict[str, str]) -> None:
    assert read(**members) == read(**members, unknown='"\\u0000"')


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("paused", text, True) for text in ("true", "1", "1.0", "1e0", '"1"', '"true"')],
        *[("paused", f'"{word}"', True) for word in ("TRUE", "t", "Yes", "y", "oN")],
        *[("paused", text, False) for text in ("false", "0", "-0.0", '"0"', '"False"')],
        *[("paused", f'"{word}"', False) for word in ("F", "no", "N", "OFF")],
        *[("minutes", text, 30) for text in ("30", "30.0", "3e1", '"30"', '"+30"', '"030"')],
        *[("minutes", f'"{text}"', 30) for text in (" 30\\n", "\\u00a030", "3_0", "30.00")],
        ("minutes", '"' + "0" * 5000 + '30"', 30),
        *[("hour", text, 1) for text in ("true", "1.0", '"1"')],
        *[("hour", text, 0) for text in ("false", "-0.0", '"-0"')],
        *[
            (name, f'"{text}"', UUID(ID))
            for name in ("id", "session")
            for text in (ID.upper(), HEX, f"{{{ID}}}", f"urn:uuid:{ID}")
        ],
        ("name", '"\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9éé😀😀😀"', "ééééééé😀😀😀"),
        ("name", '"\\\\u0000"', "\\u0000"),
        ("minutes", "null", None),
        ("new_pin", "null", None),
    ],
)
def test_scalars_are_read_leniently(name: str, text: str, value: object) -> None:
    value_read = getattr(read(**{name: text}), name)
    assert value_read == value
    assert type(value_read) is type(value)


@pytest.mark.parametrize(
    ("name", "kind", "texts"),
    [
        ("id", "uuid_type", ["null", "7", "1e999", NINES, "true", "[]", "{}"]),
        ("id", "uuid_parsing", ['""', '"nope"', f'"{ID[:-1]}"', f'"{ID}0"', f'" {ID}"']),
        ("id", "uuid_parsing", [f'"URN:UUID:{ID}"', f'"{{{HEX}}}"', f'"urn:uuid:{HEX}"']),
        ("id", "uuid_parsing", [f'"{{{ID}"', f'"{ID}\\n"', f'"{ID[:-1]}\\u0661"', '"\\ud800"']),
        ("session", "uuid_parsing", ['"zzz"', f'"{ID[:8]}{ID[9:]}-"']),
        ("name", "string_type", ["null", "5", "true", "1e999", NINES, "[]", "{}"]),
        ("name", "string_too_long", ['"' + "é" * 11 + '"', '"' + "x" * 60_000 + '"']),
        ("name", "value_error", ['"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"']),
        ("device", "enum", ["null", '"fridge"', '"TV"', '"tv\\u0000"', "1", "[]", "{}"]),
        ("paused", "bool_type", ["null", "0.5", "1e999", NINES, "9" * 30, "[]", "{}"]),
        ("paused", "bool_parsing", ["2", "-1", "2.0", '"maybe"', '""', '" true"', '"01"']),
        ("minutes", "int_type", ["[]", "{}"]),
        ("minutes", "int_parsing", ['"x"', '""', '"-"', '"1e1"', '"0x1e"', '"30."', '"30.5"']),
        ("minutes", "int_parsing", ['"3__0"', '"_30"', '"30_"', '"- 30"', '"\\u001c30"', '"٣٠"']),
        ("minutes", "int_parsing", ['"30\\u0000"', '"\\ud800"', '"true"']),
        ("minutes", "int_from_float", ["15.5", "-0.5"]),
        ("minutes", "int_parsing_size", ["1e30", "-1e999", NINES, f'"{NINES}"']),
        ("minutes", "greater_than_equal", ["14", '"14"', "-15", "true", "-" + "9" * 30]),
        ("minutes", "less_than_equal", ["481", "481.0", '"481"', "9" * 4300, f'"{"9" * 4300}"']),
        ("hour", "int_type", ["null"]),
        ("hour", "less_than_equal", ["24"]),
        ("password", "string_too_short", ['""']),
        ("new_pin", "string_too_short", ['""', '"123"', '"\\u0000"']),
        ("new_pin", "string_too_long", ['"12345"', '"1234\\n"']),
        ("new_pin", "string_pattern_mismatch", ['"12a4"', '"12 4"', '"١٢٣٤"', '"１２３４"']),
        ("new_pin", "string_type", ["1234", "true"]),
        ("pin_token", "string_type", ["1", "[]"]),
    ],
)
def test_invalid_value_is_reported_with_type_and_field(
    name: str, kind: str, texts: list[str]
) -> None:
    for text in texts:
        error = refused(written(PLAIN | {name: text}))
        assert (error["type"], error["loc"]) == (kind, ["body", name]), text[:100]


@pytest.mark.parametrize(
    ("name", "text", "msg", "ctx"),
    [
        ("minutes", "14", "Input should be greater than or equal to 15", {"ge": 15}),
        ("minutes", "481", "Input should be less than or equal to 480", {"le": 480}),
        (
            "device",
            '"fridge"',
            "Input should be 'mobile', 'tv' or 'web'",
            {"expected": "'mobile', 'tv' or 'web'"},
        ),
        (
            "new_pin",
            '"12a4"',
            "String should match pattern '^[0-9]{4}$'",
            {"pattern": "^[0-9]{4}$"},
        ),
    ],
)
def test_an_error_names_the_allowed_values(
    name: str, text: str, msg: str, ctx: dict[str, object]
) -> None:
    error = refused(written(PLAIN | {name: text}))
    assert (error["msg"], error["ctx"]) == (msg, ctx)


def test_error_echoes_scalars_up_to_256_characters() -> None:
    sent: dict[str, list[tuple[str, object]]] = {
        "name": [("5", 5), ("true", True), ("null", None), ('["x"]', None), ("9" * 30, None)],
        "id": [('"nope"', "nope"), ('"' + "x" * 60_000 + '"', "x" * 256), ('"\\ud800"', "?")],
        "minutes": [("15.5", 15.5), ("1e999", None)],
    }
    for name, cases in sent.items():
        for text, echo in cases:
            assert refused(written(PLAIN | {name: text}))["input"] == echo


@pytest.mark.parametrize("name", ["pin", "new_pin", "current_pin", "password", "pin_token"])
def test_error_never_echoes_a_secret(name: str) -> None:
    body = lenient_json.Body(msgspec.defstruct("Secret", [(name, Pin)]))
    for text in ('"12345"', "12345", '"12a45"', '"123"', '"1\\u0000"', '["12345"]'):
        with pytest.raises(FieldError) as caught:
            body.read(written({name: text}), "application/json")
        error = entry(caught.value)
        assert error["input"] is None
        assert "123" not in json.dumps(error)
    with pytest.raises(FieldError) as caught:
        body.read(written({"other": '"12345"'}), "application/json")
    assert "12345" not in json.dumps(entry(caught.value))
    with pytest.raises(FieldError) as caught:
        body.read(b"pin=12345", "application/x-www-form-urlencoded")
    assert "12345" not in json.dumps(entry(caught.value))


def test_first_error_in_the_order_of_the_fields_is_reported() -> None:
    raw = written({"paused": '"?"', "minutes": "1", "name": "5"})
    assert refused(raw)["loc"] == ["body", "id"]
    assert refused(written({"minutes": "1", "paused": '"?"'} | PLAIN))["loc"] == ["body", "paused"]
    error = refused(written({"id": f'"{ID}"', "paused": '"?"'}))
    assert (error["type"], error["loc"]) == ("missing", ["body", "name"])


def test_last_of_duplicate_members_counts_and_unknown_ones_are_ignored() -> None:
    first = written({"hour": '"?"', "paused": "true"} | PLAIN)[:-1]
    body = BODY.read(first + b',"hour":5,"paused":"no","x":{"id":1e999}}', "application/json")
    assert body == Every(UUID(ID), "x", hour=5, paused=False)
    for unknown in (f'"{NINES}"', NINES, '"\\u0000"', '"\\ud800"', "[" * 100 + "]" * 100):
        assert read(unknown=unknown) == Every(UUID(ID), "x")


def test_absent_is_not_null() -> None:
    assert read().minutes is UNSET
    assert read(paused='"no"').minutes is UNSET
    assert read(minutes="null").minutes is None
    assert read(minutes="null", paused='"no"').minutes is None


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json ;a=b",
        "application/vnd.player+json",
        "application/+JSON;v=1",
    ],
)
def test_json_content_type_is_accepted(content_type: str) -> None:
    assert BODY.read(written(PLAIN), content_type) == Every(UUID(ID), "x")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/json/x",
        "application/a/b+json",
        "application/x+jsonx",
        "application/json, text/plain",
        "application/x-www-form-urlencoded",
    ],
)
def test_other_content_type_is_422(content_type: str | None) -> None:
    for raw in (written(PLAIN), b"null", b"{"):
        error = refused(raw, content_type)
        assert (error["type"], error["loc"]) == ("model_attributes_type", ["body"])
    assert refused(b"", content_type)["type"] == "missing"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "missing"),
        (b"null", "missing"),
        (b" null\n", "missing"),
        (b"[]", "model_attributes_type"),
        (b'"x"', "model_attributes_type"),
        (b"5", "model_attributes_type"),
        (b"1e999", "model_attributes_type"),
        (NINES.encode(), "model_attributes_type"),
        (b"true", "model_attributes_type"),
    ],
)
def test_body_that_is_not_an_object_is_422(raw: bytes, kind: str) -> None:
    error = refused(raw)
    assert (error["type"], error["loc"], error["input"]) == (kind, ["body"], None)


DEEP = 100_000


@pytest.mark.parametrize(
    ("raw", "position", "error"),
    [
        (b"{", 1, "Expecting property name enclosed in double quotes"),
        (b"nonsense", 0, "Expecting value"),
        (b" ", 1, "Expecting value"),
        (b'{"a":1}x', 7, "Extra data"),
        (b'{"a" 1}', 5, "Expecting ':' delimiter"),
        (b'{"a":"b', 5, "Unterminated string starting at"),
        (b'{"a":"\\q"}', 6, "Invalid \\escape"),
        (b'{"a":"\x00"}', 6, "Invalid control character at"),
        (b'{"name":"\n"}', 9, "Invalid control character at"),
        (b'{"a":01}', 6, "Expecting ',' delimiter"),
        (b"NaN", 0, "Expecting value"),
        (b'{"a":NaN}', 5, "Expecting value"),
        (b'{"minutes":-Infinity}', 11, "Expecting value"),
        (b'{"name":"\xff"}', 9, "invalid start byte"),
        (b'{"a":"\xff"}', 6, "invalid start byte"),
        (b'{"\xff":1}', 2, "invalid start byte"),
        (b"[" * DEEP, 0, "Nested too deeply"),
        (b'{"a":' * DEEP, 0, "Nested too deeply"),
        (b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", 0, "Nested too deeply"),
    ],
)
def test_body_that_is_not_json_is_422_with_the_position(
    raw: bytes, position: int, error: str
) -> None:
    with pytest.raises(MalformedJson) as caught:
        BODY.read(raw, "application/json")
    found = entry(caught.value)
    assert (found["type"], found["loc"]) == ("json_invalid", ["body", position])
    assert found["ctx"] == {"error": error}


def test_truncated_or_garbled_body_raises_only_client_errors() -> None:
    raw = written(PLAIN | {"name": '"\\u00e9\\ud83d\\ude00"', "hour": '"5"', "minutes": "3e1"})
    for position in range(len(raw)):
        with pytest.raises(MalformedJson):
            BODY.read(raw[:position] or b" ", "application/json")
        for byte in b'\x00\x1f "\\{}[],:-0eN\x80\xc3\xff':
            garbled = raw[:position] + bytes([byte]) + raw[position + 1 :]
            try:
                BODY.read(garbled, "application/json")
            except (FieldError, MalformedJson) as error:
                entry(error)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encoding_is_detected_from_the_bytes(encoding: str) -> None:
    assert BODY.read(written(PLAIN).decode().encode(encoding), "application/json").name == "x"


class Slot(msgspec.Struct):
    """One object of a list."""

    days: Annotated[list[Literal["mon", "tue", "wed"]], Meta(min_length=1, max_length=2)]
    start: Annotated[str, Meta(max_length=5, pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    minutes: Annotated[int, Meta(ge=15)] = 15


class Nested(msgspec.Struct):
    """Values in lists, objects and dictionaries; timestamps."""

    slots: Annotated[list[Slot], Meta(max_length=2)] | UnsetType = UNSET
    limits: dict[Literal["mon", "tue"], Annotated[int, Meta(ge=15)] | None] | None | UnsetType = (
        UNSET
    )
    until: Annotated[datetime, Meta(tz=True)] | None | UnsetType = UNSET


NESTED = lenient_json.Body(Nested)
SLOT = '{"days":["mon"],"start":"07:05"}'
# Text that only the lenient reader accepts, so that the same values pass through both.
SLOW = {"other": '"\\u0000"'}


def nested_error(**members: str) -> dict[str, Any]:
    """The error of a body, which is the same if the compiled decoder is not used."""
    errors = []
    for more in ({}, SLOW):
        with pytest.raises(FieldError) as caught:
            NESTED.read(written(members | more), "application/json")
        errors.append(entry(caught.value))
    assert errors[0] == errors[1]
    return errors[0]


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"slots": "[]", "limits": "{}", "until": "null"},
        {"slots": f"[{SLOT},{SLOT}]", "limits": '{"tue":15,"mon":null}'},
        {"slots": '[{"days":["wed","wed"],"start":"23:59","minutes":30,"x":1}]', "limits": "null"},
        *[
            {"until": f'"2026-01-01{clock}{zone}"'}
            for clock in ("T20:00:00", "t20:00:00", " 20:00:00", "T20:00:00.1234567", "T00:00:00.5")
            for zone in ("Z", "z", "+02:00", "-0530", "-00:00", "+23:59")
        ],
        {"until": '"2026-01-01T23:59:59.9999999Z"'},
        {"until": '"0001-01-01T00:00:00+05:00"'},
        {"until": '"9999-12-31T23:59:59-05:00"'},
    ],
)
def test_compiled_and_lenient_decoder_agree_on_nested_values(
    members: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = NESTED.read(written(members | SLOW), "application/json")
    monkeypatch.setattr(json, "loads", None)
    assert NESTED.read(written(members), "application/json") == slow


def test_nested_scalars_are_read_leniently() -> None:
    text = written(
        {
            "slots": '[{"days":["mon"],"start":"07:05","minutes":"30"}]',
            "limits": '{"mon":"15","tue":30.0}',
            "until": '"2026-01-01T20:00+02:00"',
        }
    )
    assert NESTED.read(text, "application/json") == Nested(
        [Slot(["mon"], "07:05", 30)],
        {"mon": 15, "tue": 30},
        datetime(2026, 1, 1, 18, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("name", "text", "kind", "loc"),
    [
        *[("slots", text, "list_type", []) for text in ("null", "1", '"x"', "{}", "true")],
        ("slots", f"[{SLOT},{SLOT},{SLOT}]", "too_long", []),
        ("slots", "[1,2,3]", "too_long", []),
        *[("slots", f"[{text}]", "model_attributes_type", [0]) for text in ("1", "null", "[]")],
        ("slots", f'[{SLOT},{{"days":["mon"]}}]', "missing", [1, "start"]),
        ("slots", '[{"days":[],"start":"?"}]', "too_short", [0, "days"]),
        ("slots", '[{"days":["mon","tue","mon"]}]', "too_long", [0, "days"]),
        ("slots", '[{"days":["mon","sat"]}]', "enum", [0, "days", 1]),
        ("slots", '[{"days":["mon",0]}]', "enum", [0, "days", 1]),
        ("slots", '[{"days":"mon"}]', "list_type", [0, "days"]),
        *[
            (
                "slots",
                f'[{SLOT},{{"days":["mon"],"start":"{start}"}}]',
                "string_pattern_mismatch",
                [1, "start"],
            )
            for start in ("24:00", "7:5", "07:60", "0705", "07:5", "٠٧:٠٥", "")
        ],
        ("slots", '[{"days":["mon"],"start":"07:05\\n"}]', "string_too_long", [0, "start"]),
        (
            "slots",
            '[{"days":["mon"],"start":"07:05","minutes":14}]',
            "greater_than_equal",
            [0, "minutes"],
        ),
        *[("limits", text, "dict_type", []) for text in ("1", '"x"', "[]", "false")],
        ("limits", '{"mon":15,"sat":15}', "enum", ["sat", "[key]"]),
        ("limits", '{"\\ud800":15}', "enum", ["?", "[key]"]),
        ("limits", '{"' + "x" * 60_000 + '":15}', "enum", ["x" * 256, "[key]"]),
        ("limits", '{"mon":"x"}', "int_parsing", ["mon"]),
        ("limits", '{"tue":{}}', "int_type", ["tue"]),
        ("limits", '{"mon":14}', "greater_than_equal", ["mon"]),
        *[("until", text, "datetime_type", []) for text in ("5", "5.5", "true", "[]", "{}")],
        *[
            ("until", f'"{text}"', "datetime_from_date_parsing", [])
            for text in (
                *("", "x", "now", "2026-01-01", "20:00Z", "1767225600", "\\ud800", "\\u0000"),
                *("2026-01-01T24:00:00Z", "2026-01-01T23:59:60Z", "2026-02-30T00:00:00Z"),
                *("2026-01-01T20:00:00+02", "2026-01-01T20:00:00+24:00", "2026-01-01T20:00:00 Z"),
                *("0000-01-01T00:00:00Z", "2026-01-01_20:00:00Z", "2026-01-01T20:00:00Z\\n"),
                *("2026-01-01T20:00:00,5Z", "2026-W01-1T20:00:00Z", "٢٠٢٦-01-01T20:00:00Z"),
            )
        ],
        ("until", '"2026-01-01T20:00:00"', "timezone_aware", []),
        ("until", '"2026-01-01 20:00"', "timezone_aware", []),
    ],
)
def test_invalid_nested_value_is_reported_with_type_and_place(
    name: str, text: str, kind: str, loc: list[object]
) -> None:
    error = nested_error(**{name: text})
    assert (error["type"], error["loc"]) == (kind, ["body", name, *loc])


def test_error_of_a_list_names_the_allowed_and_the_actual_length() -> None:
    error = nested_error(slots="[1,2,3]")
    assert error["msg"] == "List should have at most 2 items, not 3"
    assert error["ctx"] == {"field_type": "List", "max_length": 2, "actual_length": 3}
    error = nested_error(slots='[{"days":[]}]')
    assert error["ctx"] == {"field_type": "List", "min_length": 1, "actual_length": 0}


def test_error_in_a_list_of_secrets_echoes_none_of_them() -> None:
    body = lenient_json.Body(msgspec.defstruct("Secrets", [("pin", list[Pin])]))
    with pytest.raises(FieldError) as caught:
        body.read(b'{"pin":["12345"]}', "application/json")
    assert entry(caught.value)["input"] is None


@pytest.mark.parametrize(
    "kind",
    [
        datetime,
        Annotated[int, Meta(multiple_of=15)],
        Annotated[int, Meta(gt=0)],
        list[float],
        Annotated[dict[str, int], Meta(max_length=2)],
        msgspec.defstruct("Closed", [("a", int)], forbid_unknown_fields=True),
    ],
)
def test_field_of_an_unsupported_type_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(TypeError, match="no lenient reader"):
        lenient_json.Body(msgspec.defstruct("Odd", [("member", kind)]))


@pytest.mark.parametrize("text", [ID, ID.upper(), HEX, f"{{{ID}}}", f"urn:uuid:{ID}"])
def test_path_accepts_every_form_of_a_uuid(text: str) -> None:
    assert lenient_json.path_uuid(text, "profile_id") == UUID(ID)


@pytest.mark.parametrize("text", ["nope", "", ID[1:], f"{ID} ", HEX[:-1] + "\u0661", "\x00"])
def test_path_that_is_not_a_uuid_is_422(text: str) -> None:
    with pytest.raises(FieldError) as caught:
        lenient_json.path_uuid(text, "profile_id")
    error = entry(caught.value)
    assert (error["type"], error["loc"]) == ("uuid_parsing", ["path", "profile_id"])
    assert error["input"] == text


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-01-01", date(2026, 1, 1)),
        ("2024-02-29", date(2024, 2, 29)),
        ("0001-01-01", date.min),
        ("9999-12-31", date.max),
        *[
            (f"2026-01-01{clock}", date(2026, 1, 1))
            for clock in ("T00:00:00", " 00:00:00", "t00:00", "_00:00:00.0", "T00:00:00,000000")
        ],
        *[
            (f"2026-01-01T00:00{zone}", date(2026, 1, 1))
            for zone in ("Z", "z", "+02:00", "-0500", "\u221223:59")
        ],
        ("2026-01-01T00:00:00.0000009", date(2026, 1, 1)),
        ("0001-01-01T00:00+05:00", date.min),
        ("9999-12-31T00:00-05:00", date.max),
        *[(text, date(1970, 1, 1)) for text in ("0", "-0", "0.0", ".0", "0" * 5000)],
        *[(text, date(1970, 1, 2)) for text in ("86400", "+86400", "86400.", "86400.0000004")],
        ("-86400", date(1969, 12, 31)),
        ("1767225600", date(2026, 1, 1)),
        ("1767225600000", date(2026, 1, 1)),
        ("253402214400000", date.max),
        ("-62135596800000", date.min),
    ],
)
def test_query_accepts_every_form_of_a_date(text: str, day: date) -> None:
    value_read = query_date({"from_date": text}, "from_date")
    assert value_read == day
    assert type(value_read) is date


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("date_from_datetime_parsing", ["", "x", "y" * 60_000, "\x00", "2026-1-1", "2026-02-30"]),
        ("date_from_datetime_parsing", ["2026-13-01", "2026-01-00", "2100-02-29", "20260-1-01"]),
        (
            "date_from_datetime_parsing",
            [" 2026-01-01", "2026-01-01 ", "2026-01-01\n", "2026/01/01"],
        ),
        ("date_from_datetime_parsing", ["2026-W01-1", "2026-001", "2026-01-0\uff11", "today"]),
        ("date_from_datetime_parsing", [f"2026-01-01T{c}" for c in ("", "00", "24:00", "00:60")]),
        ("date_from_datetime_parsing", [f"2026-01-01T00:00:{s}" for s in ("60", "00.", "0")]),
        ("date_from_datetime_parsing", [f"2026-01-01T00:00{z}" for z in ("+02", " Z", "+24:00")]),
        ("date_from_datetime_parsing", ["-", ".", "1e5", "nan", "inf", "86_400", " 0", "\uff11"]),
        ("date_from_datetime_parsing", ["253402300800000", "-99999999999999", NINES, "-" + NINES]),
        ("date_from_datetime_inexact", ["2026-01-01T12:00", "2026-01-01T00:00:01Z"]),
        ("date_from_datetime_inexact", ["2026-01-01T00:00:00.000001", "2026-01-01 23:59-23:59"]),
        ("date_from_datetime_inexact", ["1", "-1", "0.5", "20260101", "1767225601"]),
        ("date_from_datetime_inexact", ["20000000000", "1767225600001", "86400.000001"]),
        ("date_parsing", ["0000-01-01"]),
    ],
)
def test_query_that_is_not_a_date_is_422(kind: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(FieldError) as caught:
            query_date({"to_date": text}, "to_date")
        error = entry(caught.value)
        assert (error["type"], error["loc"]) == (kind, ["query", "to_date"]), text[:100]
        assert error["input"] == text[:256]


def test_missing_date_is_422() -> None:
    with pytest.raises(FieldError) as caught:
        query_date({"from_date": "2026-01-01"}, "to_date")
    error = entry(caught.value)
    assert (error["type"], error["loc"], error["input"]) == ("missing", ["query", "to_date"], None)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, b"0.0"), (30, b"0.5"), (60, b"1.0"), (100, b"1.67"), (7170, b"119.5")],
)
def test_minutes_have_two_decimals_at_most(seconds: int, shown: bytes) -> None:
    assert lenient_json.encode(lenient_json.minutes(seconds)) == shown


class Answer(msgspec.Struct, frozen=True):
    id: UUID
    at: datetime
    day: date
    minutes: float
    limit: int | None = None


@pytest.mark.parametrize(
    ("microsecond", "fraction"), [(0, ""), (1, ".000001"), (120_000, ".120000")]
)
def test_response_has_the_format_of_the_contract(microsecond: int, fraction: str) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, microsecond, UTC)
    answer = Answer(UUID(ID.upper()), at, date.min, 2.0)
    assert lenient_json.encode(answer).decode() == (
        f'{{"id":"{ID}","at":"2026-01-02T03:04:05{fraction}Z","day":"0001-01-01",'
        '"minutes":2.0,"limit":null}'
    )
