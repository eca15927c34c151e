"""The Structs of bodies and answers as JSON Schemas that say what is really read and sent."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, UNSET, UnsetType
from msgspec import inspect as types

from service.http import lenient_json
from service.openapi.fields import field
from service.openapi.operations import OPERATIONS, Struct

Json = dict[str, Any]

REF: Final = "#/components/schemas/{name}"
BOOLEAN: Final = {
    "title": "LenientBoolean",
    "description": "true or false. Also read: 1 and 0, and the strings `true`, `t`, `yes`, `y`,"
    " `on`, `1`, `false`, `f`, `no`, `n`, `off`, `0` in any case.",
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        {
            "type": "string",
            "pattern": "^([tT]([rR][uU][eE])?|[yY]([eE][sS])?|[oO][nN]|[fF]([aA][lL][sS][eE])?"
            "|[nN][oO]?|[oO][fF][fF]|[01])$",
        },
    ],
}
NUMERAL: Final = {
    "title": "Numeral",
    "description": "Also read: the number as a string.",
    "type": "string",
    "pattern": r"^\s*[+-]?[0-9]+(_[0-9]+)*(\.0+)?\s*$",
}
NO_NUL: Final = r"^[^\u0000]*$"


class Refusal(msgspec.Struct):
    """What every refusal says but that of a field."""

    detail: str


class FieldError(msgspec.Struct):
    type: str
    loc: list[str | int]
    msg: str
    input: Any
    ctx: dict[str, Any] | UnsetType = UNSET


class FieldErrors(msgspec.Struct):
    """A field that cannot be read."""

    detail: list[FieldError]


def reference(kind: Struct) -> Json:
    """The schema of a Struct by its name."""
    return {"$ref": REF.format(name=kind.__name__)}


def schemas() -> Json:
    """Every Struct that an operation names, and those within, as a body or as an answer."""
    asked = [kind for o in OPERATIONS.values() for kind in (o.body, *o.lines) if kind]
    given = [kind for o in OPERATIONS.values() for kind in (o.answer, *o.also.values()) if kind]
    given += [Refusal, FieldErrors]
    made: dict[str, Json] = {
        "LenientBoolean": BOOLEAN,
        "Numeral": NUMERAL,
        **{name: _body(form) for name, form in structs(asked).items()},
        **{name: _answer(form) for name, form in structs(given).items()},
    }
    kinds = sorted({"json_invalid", *lenient_json.MESSAGES})
    made["FieldError"]["properties"]["type"]["enum"] = kinds
    return made


def structs(kinds: Iterable[Struct]) -> dict[str, types.StructType]:
    """The Structs with all that they hold, by name."""
    found: dict[str, types.StructType] = {}

    def visit(form: types.Type) -> None:
        if isinstance(form, types.StructType):
            found[form.cls.__name__] = form
            for member in form.fields:
                visit(member.type)
        elif isinstance(form, types.UnionType):
            for one in form.types:
                visit(one)
        elif isinstance(form, types.ListType):
            visit(form.item_type)

    for kind in kinds:
        visit(types.type_info(kind))
    return found


def _plain(form: types.StructType) -> Json:
    """The schema of a Struct alone, with the meaning of each of its fields."""
    name = form.cls.__name__
    _, components = msgspec.json.schema_components([form.cls], ref_template=REF)
    schema: Json = msgspec.to_builtins(components)[name]
    for member in form.fields:
        meaning, _, rule = field(name, member.encode_name)
        shape = schema["properties"][member.encode_name]
        shape["description"] = meaning
        for one in shape.get("anyOf", [shape]):
            if one.get("type") != "null":
                one |= rule
        if _is_time(member.type):
            for one in shape.get("anyOf", [shape]):
                if one["type"] == "string":
                    one["format"] = "date-time"
    return schema


def _is_time(form: types.Type) -> bool:
    forms = form.types if isinstance(form, types.UnionType) else [form]
    return any(isinstance(one, types.DateTimeType) for one in forms)


def _answer(form: types.StructType) -> Json:
    """An answer has every field, also those that have a default."""
    schema = _plain(form)
    for shape in schema["properties"].values():
        shape.pop("default", None)
    schema["required"] = [m.encode_name for m in form.fields if _is_sure(m)]
    return schema


def _is_sure(member: types.Field) -> bool:
    """Is the field always there? It is not only where its default is to be absent."""
    return member.required or (member.default, member.default_factory) != (NODEFAULT, NODEFAULT)


def _body(form: types.StructType) -> Json:
    """A body may hold what `wire` reads leniently."""
    schema = _plain(form)
    for shape in schema["properties"].values():
        taken = _taken(shape)
        read = [kind for one in taken.get("anyOf", [taken]) for kind in _lenient(one)]
        shape |= read[0] if len(read) == 1 else {"anyOf": read}
    return schema


def _taken(shape: Json) -> Json:
    """What a schema says of values, taken out of it."""
    return {key: shape.pop(key) for key in [*shape] if key not in ("description", "default")}


def _lenient(schema: Json) -> list[Json]:
    """What is read for a value of this schema."""
    match schema.get("type"):
        case "boolean":
            return [{"$ref": REF.format(name="LenientBoolean")}]
        case "integer":
            truth = [{"type": "boolean"}] if schema.get("minimum", 0) <= 1 else []
            return [schema, {"$ref": REF.format(name="Numeral")}, *truth]
        case "string" if not schema.keys() & {"pattern", "format"}:
            return [{**schema, "pattern": NO_NUL}]
    return [schema]


def example(kind: Struct) -> Json:
    """A value of a Struct, made of the examples of its fields."""
    form = types.type_info(kind)
    assert isinstance(form, types.StructType)
    return _example(form)


def _example(form: types.StructType) -> Json:
    shown = {}
    for member in form.fields:
        value = field(form.cls.__name__, member.encode_name).example
        if value is ...:
            value = _within(member.type)
        if _is_sure(member) or form.cls.__name__.endswith("Body"):
            shown[member.encode_name] = value
    return shown


def _within(form: types.Type) -> Any:
    """The example of a field that holds others."""
    if isinstance(form, types.ListType):
        return [_within(form.item_type)]
    assert isinstance(form, types.StructType)
    return _example(form)
