"""The OpenAPI 3.1 description, built from the route table and the types that handlers use."""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.http import fields, lenient_json
from service.openapi import page
from service.openapi.operation import TAGS, Caller, Operation, Struct
from service.openapi.operations import OPERATIONS
from service.openapi.parameters import IN_PATH, PATH_NAME, Parameter
from service.openapi.responses import content, responses
from service.openapi.schemas import Json, example, reference, schemas, with_enum_types
from service.version import VERSION

METHOD_AND_PATHS: Final = re.compile(r"[A-Z]+ /\S*(?:, /\S*)*: ")
ABOUT: Final = """\
Counts how long children watch, and enforces the limits that their parents set.

An account is a family's. It has profiles, of children and of adults; only children have limits. A \
title is a film or an episode. A session is one title on one device, from its first heartbeat on. \
A viewing day begins at the reset hour in the child's time zone. A grant is extra time that a \
parent gives.

Times are in UTC, as ISO 8601. Minutes are numbers with at most 2 decimals. Ids are UUIDs.

A request body is `application/json` of at most 64 KiB; unknown members are ignored. A response \
contains every member, null or not, except those whose description says when they are present. \
Checks run in this order: JSON, token, fields, profile, everything else. An unknown path returns \
404, a method that the path does not have returns 405 with `Allow`, and an extra slash at the end \
of a path returns 307. 500 is a bug in the service.

A client can name a request with `X-Request-ID` (1 to 64 visible ASCII characters without quotes \
and backslashes) and its trace with `traceparent` (W3C Trace Context); the log contains both."""
# The name of a handler that changes something ends with a verb, except for these.
VERB_LAST: Final = re.compile(
    r"(\w+)_(approve|clear|create|delete|deny|end|erase|put|reset|set|undo|update|verify)"
)
FUNCTIONS: Final = {
    "grant": "grant_time",
    "heartbeat": "send_heartbeat",
    "import_records": "import_records",
    "report_link": "create_report_link",
}
REQUEST_ID: Final = {
    "description": "The request's own id, or a new one. The response to a heartbeat without an id"
    " has none.",
    "schema": {"type": "string", "maxLength": 64},
    "example": "4bf92f3577b34da6a3ce929d0e0e4736",
}
ACCESS_TOKEN: Final = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A JWT of at most 8 KiB, issued by the platform. `sub` is the account's id,"
    " `exp` its expiry in epoch seconds.",
}
CACHED: Final = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}


class Description:
    """Serves the description, which is built once from the route table."""

    def __init__(self) -> None:
        self._json = self._page = b""

    def describe(self, routes: Iterable[BaseRoute]) -> None:
        """Builds the document and the page."""
        described = document(routes)
        self._json = lenient_json.encode(described)
        self._page = page.page(described).encode()

    async def openapi_json(self, request: Request) -> Response:
        """GET /openapi.json: returns the API's description for programs (OpenAPI 3.1)."""
        return Response(self._json, 200, CACHED, "application/json")

    async def docs(self, request: Request) -> Response:
        """GET /docs: returns the API's description as a page for people."""
        return Response(self._page, 200, {**CACHED, **page.HEADERS}, "text/html")


def document(routes: Iterable[BaseRoute]) -> Json:
    """The OpenAPI document of `routes`, except those that are not in OPERATIONS."""
    paths: dict[str, Json] = {}
    for route in routes:
        if isinstance(route, Route) and (operation := OPERATIONS.get(handler_name(route))):
            for method in route.methods or ():
                described = _operation(route, operation)
                paths.setdefault(route.path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Viewing time",
            "version": VERSION,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "headers": {"RequestId": REQUEST_ID},
            "securitySchemes": {"accessToken": ACCESS_TOKEN},
        },
    }


def handler_name(route: Route) -> str:
    """The name of a route's handler, the key in OPERATIONS."""
    name: str = getattr(route.endpoint, "__name__", type(route.endpoint).__name__)
    return name.lower()


def _operation_id(route: Route) -> str:
    """A verb and a noun, which client generators make the name of a function."""
    if route.path == "/health":  # the handler is that of /health/ready
        return "get_health"
    handler = handler_name(route)
    if match := VERB_LAST.fullmatch(handler):
        return f"{match[2]}_{match[1]}"
    return FUNCTIONS.get(handler, f"get_{handler}")


def _operation(route: Route, operation: Operation) -> Json:
    text = inspect.getdoc(route.endpoint) or inspect.getdoc(type(route.endpoint)) or ""
    summary, _, rest = METHOD_AND_PATHS.sub("", text, count=1).partition("\n")
    paragraphs = [" ".join(part.split()) for part in rest.split("\n\n")]
    parameters = [IN_PATH[name] for name in PATH_NAME.findall(route.path)]
    described: Json = {
        "tags": [operation.tag],
        "operationId": _operation_id(route),
        "summary": summary[:1].upper() + summary[1:].removesuffix("."),
        "description": "\n\n".join(filter(None, (*paragraphs, operation.note))),
        "parameters": [*map(_parameter, (*parameters, *operation.parameters))],
        "responses": responses(route.path, operation),
    }
    if operation.body is not None:
        body = {"application/json": content(operation.body)}
        is_required = operation.needs_body and "DELETE" not in (route.methods or ())
        described["requestBody"] = {"required": is_required, "content": body}
    if operation.lines:
        described["requestBody"] = {"required": False, "content": _lines(operation.lines)}
    if operation.caller is not Caller.ANYONE:
        described["security"] = [{"accessToken": []}]
    return {name: value for name, value in described.items() if value}


def _parameter(parameter: Parameter) -> Json:
    schema = with_enum_types(msgspec.json.schema(parameter.kind))
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": schema.pop("description"),
        "example": schema.pop("examples")[0],
        "schema": schema,
    }


def _lines(kinds: Sequence[Struct]) -> Json:
    """NDJSON, as a file: client generators can send one, but do not know NDJSON."""
    line = {"type": "title", "id": fields.EXAMPLE_TITLE, **example(kinds[-1])}
    schema = {
        "type": "string",
        "format": "binary",
        "contentMediaType": "application/x-ndjson",
        "contentSchema": {"anyOf": [reference(kind) for kind in kinds]},
    }
    text = msgspec.json.encode(line).decode() + "\n"
    return {"application/octet-stream": {"schema": schema, "example": text}}
