"""Compares responses with the OpenAPI document."""

from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.routing import Route

from service.app import ROUTES
from service.openapi.document import document

Json = dict[str, Any]

DOCUMENT: Json = document(ROUTES)
# Headers that are not part of the API.
PLAIN = {
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "referrer-policy",
    "vary",
    "x-content-type-options",
}
REGISTRY = Registry().with_resource(
    "openapi", Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
)


@cache
def _route(method: str, path: str) -> Route | None:
    for route in ROUTES:
        if not isinstance(route, Route) or method not in (route.methods or ()):
            continue
        if route.path_regex.match(path):
            return route
    return None


def schema_errors(schema: Json, value: object) -> list[str]:
    """The errors of a value against a schema of the document."""
    validator = Draft202012Validator(
        _absolute(schema), registry=REGISTRY, format_checker=FormatChecker()
    )
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def _absolute(schema: Any) -> Any:
    """A schema whose references are absolute, for the registry."""
    if isinstance(schema, dict):
        return {
            key: f"openapi{value}" if key == "$ref" else _absolute(value)
            for key, value in schema.items()
        }
    return [*map(_absolute, schema)] if isinstance(schema, list) else schema


async def described(response: httpx.Response) -> None:
    """Fails if a status, header, media type or body of the response is not described."""
    request = response.request
    if (route := _route(request.method, request.url.path)) is None:
        return
    await response.aread()
    responses = DOCUMENT["paths"][route.path][request.method.lower()]["responses"]
    place = f"{request.method} {route.path} {response.status_code}"
    assert str(response.status_code) in responses, place
    description = responses[str(response.status_code)]
    cors = {name for name in response.headers if name.startswith("access-control-")}
    headers = {name.lower() for name in description.get("headers", ())}
    assert {*response.headers} - PLAIN - cors - headers == set(), place
    if response.content:
        media_type = response.headers["content-type"].partition(";")[0]
        assert media_type in description["content"], place
        if media_type == "application/json":
            content = description["content"][media_type]
            assert schema_errors(content["schema"], response.json()) == [], place
            _check_sentence(content, response.json(), place)


def _check_sentence(content: Json, body: Json, place: str) -> None:
    """Fails if the sentence of an error is not one of the examples."""
    if isinstance(sentence := body.get("detail"), str) and "examples" in content:
        sentences = [example["value"].get("detail") for example in content["examples"].values()]
        assert sentence in sentences, f"{place}: {sentence}"
