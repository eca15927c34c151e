"""The OpenAPI document is valid and complete; `test_conformance` compares responses with it."""

import re
from base64 import b64encode
from hashlib import sha256
from typing import Annotated, Any, Literal

import httpx
import msgspec
import pytest
from msgspec import Meta, inspect
from openapi_spec_validator import validate
from starlette.routing import Route

from service.app import ROUTES
from service.http import fields
from service.openapi import page, schemas
from service.openapi.document import handler_name
from service.openapi.operation import Caller
from service.openapi.operations import OPERATIONS
from tests.family import Family
from tests.openapi.described import DOCUMENT, Json, described, schema_errors

DESCRIBED = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
SCHEMAS: dict[str, Json] = DOCUMENT["components"]["schemas"]
STRUCTS = schemas.structs(
    kind
    for operation in OPERATIONS.values()
    for kind in (operation.body, operation.answer, *operation.also.values(), *operation.lines)
    if kind
)


def contents() -> list[tuple[str, Json]]:
    """Every body of a request or a response, with its place."""
    found = []
    for place, operation in DESCRIBED.items():
        bodies = {"body": operation.get("requestBody", {}), **operation["responses"]}
        for name, body in bodies.items():
            found += [(f"{place} {name}", one) for one in body.get("content", {}).values()]
    return found


def test_document_is_valid_openapi() -> None:
    validate(msgspec.to_builtins(DOCUMENT))


def test_every_route_is_described_and_nothing_else() -> None:
    assert {*OPERATIONS} == {handler_name(route) for route in ROUTES if isinstance(route, Route)}


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for operation in DESCRIBED.values()]
    assert len({*names}) == len(names)


def test_every_field_of_every_struct_has_a_description() -> None:
    missing = []
    for name, form in STRUCTS.items():
        properties = {**SCHEMAS[name]["properties"]}
        if form.tag_field is not None:
            assert properties.pop(form.tag_field) == {"type": "string", "enum": [form.tag]}
        assert [*properties] == [member.encode_name for member in form.fields]
        missing += [f"{name}.{key}" for key, one in properties.items() if not is_described(one)]
    assert missing == []


def is_described(schema: Json) -> bool:
    """A field has a description, or its type has one."""
    target = SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else {}
    return bool(schema.get("description") or target.get("description"))


def test_times_have_the_format_date_time() -> None:
    for name, form in STRUCTS.items():
        for member in form.fields:
            kinds = getattr(member.type, "types", (member.type,))
            if any(isinstance(kind, inspect.DateTimeType) for kind in kinds):
                assert "date-time" in str(SCHEMAS[name]["properties"][member.encode_name])


@pytest.mark.parametrize(("place", "content"), contents(), ids=lambda value: str(value)[:60])
def test_examples_fit_their_schemas(place: str, content: Json) -> None:
    examples = [one["value"] for one in content.get("examples", {}).values()]
    if "example" in content:
        examples.append(content["example"])
    assert [error for one in examples for error in schema_errors(content["schema"], one)] == []


def test_examples_of_parameters_fit_their_schemas() -> None:
    for operation in DESCRIBED.values():
        for one in operation.get("parameters", ()):
            assert schema_errors(one["schema"], one["example"]) == []


def test_operations_that_need_a_token_declare_it_and_401() -> None:
    for route in ROUTES:
        assert isinstance(route, Route)
        operation = OPERATIONS[handler_name(route)]
        [method] = route.methods or [""]
        description = DESCRIBED[f"{method} {route.path}"]
        assert ("security" in description) == (operation.caller is not Caller.ANYONE)
        assert ("401" in description["responses"]) == ("security" in description)


@pytest.mark.parametrize(
    ("value", "is_accepted"),
    [(True, True), (0, True), ("Off", True), ("yEs", True), (2, False), ("", False), (None, False)],
)
def test_schema_of_a_boolean_accepts_the_lenient_values(value: object, is_accepted: bool) -> None:
    assert (schema_errors(SCHEMAS["LenientBoolean"], value) == []) == is_accepted


@pytest.mark.parametrize(
    ("body", "is_accepted"),
    [
        ({"weekday_limit_minutes": 30.0}, True),
        ({"weekday_limit_minutes": "30"}, True),
        ({"weekday_limit_minutes": None}, True),
        ({"weekday_limit_minutes": 31}, False),
        ({"weekday_limit_minutes": 495}, False),
        ({"reset_hour": True}, True),
        ({"reset_hour": None}, False),
        ({"timezone": "\0"}, False),
        ({}, True),
        ([], False),
    ],
)
def test_schema_of_a_body_accepts_the_lenient_values(body: Any, is_accepted: bool) -> None:
    assert (schema_errors(SCHEMAS["ConfigurationBody"], body) == []) == is_accepted


class SlotBody(msgspec.Struct):
    """One object of a list."""

    is_open: Annotated[bool, fields.doc("Open.", True)]


class NestedBody(msgspec.Struct):
    """Lenient values in lists, objects and dictionaries."""

    slots: Annotated[Annotated[list[SlotBody], Meta(max_length=2)], fields.doc("Slots.")]
    limits: Annotated[dict[Literal["mon"], int | None] | None, fields.doc("By day.", {"mon": 5})]


def test_schema_of_a_nested_body_accepts_the_lenient_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operation = OPERATIONS["grant"]._replace(body=NestedBody)
    monkeypatch.setitem(OPERATIONS, "grant", operation)
    shown = schemas.schemas()
    lenient = {"$ref": "#/components/schemas/LenientBoolean"}
    assert shown["SlotBody"]["properties"]["is_open"]["$ref"] == lenient["$ref"]
    slots, limits = shown["NestedBody"]["properties"].values()
    assert (slots["items"], slots["maxItems"]) == ({"$ref": "#/components/schemas/SlotBody"}, 2)
    numeral = {"$ref": "#/components/schemas/Numeral"}
    assert numeral in limits["anyOf"][0]["additionalProperties"]["anyOf"]
    example = {"slots": [{"is_open": True}], "limits": {"mon": 5}}
    assert schemas.example(NestedBody) == example
    text = page.page({**DOCUMENT, "components": {"schemas": shown}})
    assert 'array of <a href="#SlotBody">SlotBody</a>, at most <code>2</code> of them' in text
    assert "object, each value integer or" in text


def test_a_struct_of_bodies_and_responses_has_one_schema() -> None:
    bodies = [kind for o in OPERATIONS.values() for kind in (o.body, *o.lines) if kind]
    answers = [kind for o in OPERATIONS.values() for kind in (o.answer, *o.also.values()) if kind]
    shared = schemas.structs(bodies).keys() & schemas.structs(answers).keys()
    for name in shared:
        assert schemas.body(STRUCTS[name]) == schemas.answer(STRUCTS[name])


async def test_document_is_served_without_a_token(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json")
    await described(answer)
    assert answer.json() == msgspec.to_builtins(DOCUMENT)


async def test_page_shows_every_operation_and_schema(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    await described(answer)
    for operation in DESCRIBED.values():
        assert f'<section id="{operation["operationId"]}"' in answer.text
    for name in SCHEMAS:
        assert f'<section id="{name}"' in answer.text


async def test_page_loads_no_other_resource(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for element in ("style", "script"):
        [content] = re.findall(rf"<{element}>(.*?)</{element}>", answer.text, re.S)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert re.findall(r"<(?:script\s|link|img|iframe|base|form)\b|@import|url\(", answer.text) == []
    targets = re.findall(r'(?:href|src)="([^"]*)"', answer.text)
    anchors = {f"#{name}" for name in re.findall(r'id="([^"]*)"', answer.text)}
    assert {*targets} - anchors == {"/openapi.json"}


async def test_shell_lines_of_the_page_have_no_token_or_key_of_an_example(
    client: httpx.AsyncClient,
) -> None:
    lines = re.findall(r"<pre [^>]*>(curl .*?)</pre>", (await client.get("/docs")).text, re.S)
    assert len(lines) > len(ROUTES) / 2
    for line in lines:
        # A token that is not valid is rejected, and a key that was used is, for another request.
        assert fields.EXAMPLE_JWT not in line
        assert "Idempotency-Key" not in line
        assert "=True" not in line
    assert any("X-PIN-Token: $PIN_TOKEN" in line for line in lines)


def test_page_escapes_html() -> None:
    shown = page.page(
        {**DOCUMENT, "info": {**DOCUMENT["info"], "title": "<i>", "description": "`<b>`"}}
    )
    assert "<i>" not in shown
    assert "<code>&lt;b&gt;</code>" in shown


async def test_responses_for_administrators_are_described(
    client: httpx.AsyncClient, family: Family
) -> None:
    for path in ("/api/v1/admin/metrics", "/health", "/health/live"):
        await described(await client.get(path, headers=family.bearer))


async def test_405_allows_the_described_methods(client: httpx.AsyncClient) -> None:
    for path, methods in DOCUMENT["paths"].items():
        answer = await client.patch(path)
        allowed = ", ".join(sorted(method.upper() for method in methods))
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
