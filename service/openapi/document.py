"""The API described by itself: OpenAPI 3.1, from the route table and the types that serve."""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service import errors
from service.errors import Sentence
from service.http import fields, lenient_json
from service.openapi import page
from service.openapi.operations import (
    OPERATIONS,
    TAGS,
    Caller,
    Operation,
    Parameter,
    Struct,
)
from service.openapi.schemas import FieldErrors, Json, Refusal, example, reference, schemas
from service.version import VERSION

METHOD_AND_PATHS: Final = re.compile(r"[A-Z]+ /\S*(?:, /\S*)*: ")
PATH_PARAMETERS: Final[dict[str, Any]] = {
    "account_id": fields.AccountId,
    "profile_id": fields.ProfileId,
    "session_id": fields.SessionId,
    "title_id": fields.TitleId,
}
IN_PATH: Final = re.compile(r"\{(\w+)\}")
ABOUT: Final = """\
Counts how long children watch, and enforces what their parents allow.

Times are UTC, in ISO 8601. Minutes are numbers with at most 2 decimals. Ids are UUIDs.

A body is `application/json`, at most 64 KiB; members that are not named here are ignored. An \
answer has every member that is named, null ones too. Checked in this order: JSON, token, fields, \
profile, the rest. A path that is not listed is answered 404, a method that is not 405 with \
`Allow`, a slash too many at the end of a path 307. 500 is a fault of the service's own.

A request may name itself with `X-Request-ID` (1 to 64 visible ASCII characters without quotes and \
backslashes) and its trace with `traceparent` (W3C Trace Context); both are in the log."""
REQUEST_ID: Final = {
    "description": "The id that came with the request, else one of ours; the answer to a heartbeat"
    " that came without has none.",
    "schema": {"type": "string", "maxLength": 64},
    "example": "4bf92f3577b34da6a3ce929d0e0e4736",
}
REQUEST_ID_HEADER: Final = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
TOKEN: Final = "JWT of the platform: `sub` is the account's id, `exp` epoch seconds; at most 8 KiB."  # noqa: S105
CACHED: Final = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}
TOKEN_SENTENCES: Final = (
    errors.TOKEN_MISSING,
    errors.TOKEN_INVALID,
    errors.TOKEN_WITHOUT_ACCOUNT,
    errors.ACCOUNT_INACTIVE,
)
STATUSES: Final = {
    200: "Done.",
    202: "Accepted; not done yet.",
    204: "Done; there is no body.",
    400: "Not possible as things stand.",
    401: "Nobody we know.",
    403: "Not allowed.",
    404: "Not there.",
    408: "The body stopped coming for 10 seconds.",
    409: "In conflict with what is stored.",
    413: "The body is too large.",
    422: "A field that cannot be read, or a rule that is broken.",
    429: "Too many requests; try again after the seconds of `Retry-After`.",
    503: "Not now; to be tried again.",
}


class Description:
    """The description as it is served, made once from the route table."""

    def __init__(self) -> None:
        self._json = self._page = b""

    def describe(self, routes: Iterable[BaseRoute]) -> None:
        """Makes the document and the page."""
        made = document(routes)
        self._json = lenient_json.encode(made)
        self._page = page.page(made).encode()

    async def openapi_json(self, request: Request) -> Response:
        """GET /openapi.json: this description for machines."""
        return Response(self._json, 200, CACHED, "application/json")

    async def docs(self, request: Request) -> Response:
        """GET /docs: this description for people, in one page that needs nothing from elsewhere."""
        return Response(self._page, 200, {**CACHED, **page.HEADERS}, "text/html")


def document(routes: Iterable[BaseRoute]) -> Json:
    """The OpenAPI document of `routes`, except those that are not in OPERATIONS."""
    paths: dict[str, Json] = {}
    for route in routes:
        if isinstance(route, Route):
            operation = OPERATIONS.get(handler_name(route))
            for method in route.methods or ():
                if operation:
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
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "headers": {"RequestId": REQUEST_ID},
            "securitySchemes": {
                "accessToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": TOKEN,
                }
            },
        },
    }


def handler_name(route: Route) -> str:
    """The name of a route's handler, which OPERATIONS are listed by."""
    name: str = getattr(route.endpoint, "__name__", type(route.endpoint).__name__)
    return name.lower()


def _operation(route: Route, operation: Operation) -> Json:
    told = inspect.getdoc(route.endpoint) or inspect.getdoc(type(route.endpoint)) or ""
    summary, _, rest = METHOD_AND_PATHS.sub("", told, count=1).partition("\n")
    described: Json = {
        "tags": [operation.tag],
        "operationId": "health" if route.path == "/health" else handler_name(route),
        "summary": summary[:1].upper() + summary[1:].removesuffix("."),
        "description": "\n\n".join(filter(None, (_prose(rest), operation.note))),
        "parameters": [
            _parameter(parameter)
            for parameter in (
                *(
                    Parameter(name, "path", PATH_PARAMETERS[name], True)
                    for name in IN_PATH.findall(route.path)
                ),
                *operation.parameters,
            )
        ],
        "responses": _responses(route.path, operation),
    }
    if operation.body is not None:
        content = {"application/json": _content(operation.body)}
        described["requestBody"] = {"required": True, "content": content}
    if operation.lines:
        described["requestBody"] = {"required": False, "content": _lines(operation.lines)}
    if operation.caller is not Caller.ANYONE:
        described["security"] = [{"accessToken": []}]
    return {name: value for name, value in described.items() if value}


def _prose(text: str) -> str:
    """A docstring's paragraphs without the breaks of its lines."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _parameter(parameter: Parameter) -> Json:
    schema = msgspec.json.schema(parameter.kind)
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": schema.pop("description"),
        "example": schema.pop("examples")[0],
        "schema": schema,
    }


def _content(kind: Struct) -> Json:
    return {"schema": reference(kind), "example": example(kind)}


def _lines(kinds: Sequence[Struct]) -> Json:
    """NDJSON, for which OpenAPI 3.1 has no schema but that of a string."""
    line = {"type": "title", "id": fields.EXAMPLE_TITLE, **example(kinds[-1])}
    text = msgspec.json.encode(line).decode() + "\n"
    references = [reference(kind) for kind in kinds]
    schema = {
        "type": "string",
        "contentMediaType": "application/x-ndjson",
        "contentSchema": {"anyOf": references},
    }
    return {
        "text/plain": {"schema": schema, "example": text},
        "application/x-ndjson": {"schema": schema},
    }


def _responses(path: str, operation: Operation) -> Json:
    status = 204 if operation.answer is None and not operation.text else 200
    done: Json = {"description": STATUSES[status], "headers": REQUEST_ID_HEADER}
    content = {kind: _text(kind, about) for kind, about in operation.text.items()}
    if operation.answer is not None:
        content = {"application/json": _content(operation.answer), **content}
    if content:
        done["content"] = content
    refused = {
        refusal: _refusal(refusal, sentences, operation)
        for refusal, sentences in sorted(_sentences(path, operation).items())
    }
    return {str(number): response for number, response in {status: done, **refused}.items()}


def _text(kind: str, about: str) -> Json:
    form = "object" if kind == "application/json" else "string"
    return {"schema": {"type": form, "description": about}}


def _sentences(path: str, operation: Operation) -> dict[int, list[str]]:
    """By status, the sentences of an operation's errors; 422 also if it only has fields."""
    sentences: list[Sentence] = []
    has_body = operation.body is not None or bool(operation.lines)
    has_query = any(parameter.place == "query" for parameter in operation.parameters)
    if operation.caller is not Caller.ANYONE:
        sentences += TOKEN_SENTENCES
    if operation.caller is not Caller.ANYONE or 503 in operation.also:
        sentences.append(errors.SERVICE_UNAVAILABLE)
    if operation.caller is Caller.OWNER:
        sentences.append(errors.PROFILE_DENIED)
    if operation.caller is Caller.ADMINISTRATOR:
        sentences.append(errors.ADMIN_REQUIRED)
    if has_body:
        sentences += (errors.BODY_SLOW, errors.BODY_TOO_LARGE)
    if IN_PATH.search(path):
        sentences.append(errors.PATH_NOT_FOUND)
    texts: dict[int, list[str]] = {status: [] for status in operation.also}
    if has_body or has_query or IN_PATH.search(path):
        texts[422] = []
    for sentence in (*sentences, *operation.sentences):
        texts.setdefault(sentence.status, []).append(sentence.text)
    return texts


def _refusal(status: int, sentences: Sequence[str], operation: Operation) -> Json:
    examples: dict[str, Json] = {
        re.sub(r"\W+", "_", said).strip("_").lower(): {"value": {"detail": said}}
        for said in sentences
    }
    kinds: list[Struct] = [Refusal] if sentences else []
    if status == 422:
        kinds.append(FieldErrors)
        examples["a_field"] = {"value": example(FieldErrors)}
    if status in operation.also:
        kinds.append(operation.also[status])
    references = [reference(kind) for kind in kinds]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {
        "description": STATUSES[status],
        "headers": _headers(status, sentences) | REQUEST_ID_HEADER,
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }


def _headers(status: int, sentences: Sequence[str]) -> Json:
    """The headers that come with a refusal."""
    if status == 401:
        return {"WWW-Authenticate": _header("Where no token came with the request.", "Bearer")}
    if status in (429, 503):
        return {"Retry-After": _header("Seconds to wait.", 1, "integer")}
    if errors.PIN_LOCKED.text in sentences:
        until = "2026-03-01T18:30:00+00:00"
        return {"X-Locked-Until": _header("Where the PIN is locked: until when, UTC.", until)}
    return {}


def _header(meaning: str, value: object, kind: str = "string") -> Json:
    return {"description": meaning, "schema": {"type": kind}, "example": value}
