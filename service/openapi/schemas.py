"""JSON Schemas of request bodies, as leniently as they are read, and of responses."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import NODEFAULT, UNSET, UnsetType
from msgspec import inspect as types

from service.http.field_errors import MESSAGES
from service.http.fields import doc
from service.openapi.operation import Struct
from service.openapi.operations import OPERATIONS

Json = dict[str, Any]

REF: Final = "#/components/schemas/{name}"
BOOLEAN: Final = {
    "title": "LenientBoolean",
    "description": "true or false. Also accepted: 1 and 0, and the strings `true`, `t`, `yes`, `y`,"
    " `on`, `1`, `false`, `f`, `no`, `n`, `off`, `0` in any case.",
    "anyOf": [
        {"type": "boolean"},
        {"type": "integer", "minimum": 0, "maximum": 1},
        {
            "type": "string",
            "pattern": "^([tT]([rR][uU][eE])?|[yY]([eE][sS])?|[oO][nN]|[fF]([aA][lL][sS][eE])?"
            "|[nN][oO]?|[oO][fF][fF]|[01])$",
        },
    ],
}
NUMERAL: Final = {
    "title": "Numeral",
    "description": "The number as a string is accepted too.",
    "type": "string",
    "pattern": r"^\s*[+-]?[0-9]+(_[0-9]+)*(\.0+)?\s*$",
}
ANNOTATIONS: Final = ("description", "examples")  # do not restrict values
NO_NUL: Final = r"^[^\u0000]*$"


class Refusal(msgspec.Struct):
    """The response to every rejected request, except for an error in a field."""

    detail: Annotated[
        str, doc("The reason, in one sentence.", "Profile not found or access denied")
    ]


class FieldError(msgspec.Struct):
    """An error in one field of a body, or in one value of the query, path or headers."""

    type: Annotated[str, doc("The type of error.", "uuid_parsing")]
    loc: Annotated[
        list[str | int],
        doc("`body`, `query`, `path` or `header`, then the field.", ["body", "profile_id"]),
    ]
    msg: Annotated[
        str, doc("The error for people; the text can change.", "Input should be a valid UUID")
    ]
    input: Annotated[Any, doc("The rejected value; null if it is secret or not a scalar.", "42")]
    ctx: Annotated[
        dict[str, Any] | UnsetType, doc("The bounds that the value exceeds, if any.", {"le": 120})
    ] = UNSET


class FieldErrors(msgspec.Struct):
    """The response to a field that cannot be read."""

    detail: Annotated[list[FieldError], doc("One error: the first that was found.")]


def reference(kind: Struct) -> Json:
    """A reference to the schema of a Struct."""
    return {"$ref": REF.format(name=kind.__name__)}


def schemas() -> Json:
    """The schemas of all bodies and responses, and of the Structs in them, by name."""
    bodies = [kind for o in OPERATIONS.values() for kind in (o.body, *o.lines) if kind]
    answers = [kind for o in OPERATIONS.values() for kind in (o.answer, *o.also.values()) if kind]
    named: dict[str, Json] = {
        "LenientBoolean": BOOLEAN,
        "Numeral": NUMERAL,
        **{name: body(form) for name, form in structs(bodies).items()},
        **{name: answer(form) for name, form in structs([*answers, Refusal, FieldErrors]).items()},
    }
    errors = sorted({"json_invalid", *MESSAGES})
    named["FieldError"]["properties"]["type"]["enum"] = errors
    return named


def structs(kinds: Iterable[Struct]) -> dict[str, types.StructType]:
    """The Structs and those that their fields contain, by name."""
    found: dict[str, types.StructType] = {}

    def visit(form: types.Type) -> None:
        if isinstance(form, types.Metadata):
            visit(form.type)
        elif isinstance(form, types.StructType):
            found[form.cls.__name__] = form
            for member in form.fields:
                visit(member.type)
        elif isinstance(form, types.UnionType):
            for one in form.types:
                visit(one)
        elif isinstance(form, types.ListType):
            visit(form.item_type)
        elif isinstance(form, types.DictType):
            visit(form.value_type)

    for kind in kinds:
        visit(types.type_info(kind))
    return found


def _plain(form: types.StructType) -> Json:
    """The schema of a Struct alone."""
    _, components = msgspec.json.schema_components([form.cls], ref_template=REF)
    schema: Json = with_enum_types(msgspec.to_builtins(components)[form.cls.__name__])
    return schema


def with_enum_types(schema: Any) -> Any:
    """A schema whose enumerations of strings have a type, which some client generators need."""
    if isinstance(schema, list):
        return [*map(with_enum_types, schema)]
    if not isinstance(schema, dict):
        return schema
    is_text = all(isinstance(value, str) for value in schema.get("enum", [None]))
    typed = {"type": "string"} if is_text else {}
    return typed | {key: with_enum_types(value) for key, value in schema.items()}


def answer(form: types.StructType) -> Json:
    """The schema of a response, which has every field, also those with a default."""
    schema = _plain(form)
    for shape in schema["properties"].values():
        shape.pop("default", None)
    present = [m.encode_name for m in form.fields if _is_always_present(m)]
    schema["required"] = [*_tag(form), *present]
    return schema


def _tag(form: types.StructType) -> Json:
    """The member that identifies a Struct in a union; empty outside of one."""
    return {} if form.tag_field is None else {form.tag_field: form.tag}


def _is_always_present(member: types.Field) -> bool:
    """Whether a response always has the field: all do, except those that default to UNSET."""
    return member.required or (member.default, member.default_factory) != (NODEFAULT, NODEFAULT)


def body(form: types.StructType) -> Json:
    """The schema of a body, which accepts everything that `lenient_json` reads."""
    schema = _plain(form)
    members = {name: _without_default(one) for name, one in schema["properties"].items()}
    return {**schema, "properties": {name: _accepted(one) for name, one in members.items()}}


def _without_default(schema: Json) -> Json:
    """A member's schema that has its default in the description only.

    openapi-typescript makes members with a `default` mandatory, in requests too.
    """
    schema = {**schema}
    if (default := schema.pop("default", None)) is not None:
        shown = default if isinstance(default, str) else json.dumps(default)
        schema["description"] += f" Absent: `{shown}`."
    return schema


def _accepted(schema: Json) -> Json:
    """The schema of everything that is read for a value, with the annotations of the value."""
    annotations = {key: schema[key] for key in ANNOTATIONS if key in schema}
    restricted = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
    read = [kind for one in restricted.get("anyOf", [restricted]) for kind in _lenient(one)]
    return annotations | (read[0] if len(read) == 1 else {"anyOf": read})


def _lenient(schema: Json) -> list[Json]:
    """The schemas of everything that is read for a value of this schema."""
    match schema.get("type"):
        case "boolean":
            return [{"$ref": REF.format(name="LenientBoolean")}]
        case "integer":
            truth = [{"type": "boolean"}] if schema.get("minimum", 0) <= 1 else []
            return [schema, {"$ref": REF.format(name="Numeral")}, *truth]
        case "string" if not schema.keys() & {"enum", "pattern", "format"}:
            return [{**schema, "pattern": NO_NUL}]
        case "array":
            return [{**schema, "items": _accepted(schema["items"])}]
        case "object":
            values = _accepted(schema["additionalProperties"])
            return [{**schema, "additionalProperties": values}]
    return [schema]


def example(kind: Struct) -> Json:
    """A value of a Struct, from the examples of its fields."""
    shown: Json = _example(types.type_info(kind))
    return shown


def _example(form: types.Type) -> Any:
    if isinstance(form, types.Metadata):
        examples = (form.extra_json_schema or {}).get("examples")
        return examples[0] if examples else _example(form.type)
    if isinstance(form, types.ListType):
        item = form.item_type
        kinds = item.types if isinstance(item, types.UnionType) else [item]
        return [_example(kind) for kind in kinds]
    assert isinstance(form, types.StructType)
    is_body = form.cls.__name__.endswith("Body")
    return _tag(form) | {
        member.encode_name: _example(member.type)
        for member in form.fields
        if is_body or _is_always_present(member)
    }
