"""The responses of an operation: its success, and every error with its sentences."""

import re
from collections.abc import Sequence
from typing import Final

from service import errors
from service.errors import Sentence
from service.openapi.operation import Caller, Operation, Struct
from service.openapi.parameters import IDEMPOTENCY_KEY, PATH_NAME
from service.openapi.schemas import FieldErrors, Json, Refusal, example, reference

TOKEN_SENTENCES: Final = (
    errors.TOKEN_MISSING,
    errors.TOKEN_INVALID,
    errors.TOKEN_WITHOUT_ACCOUNT,
    errors.ACCOUNT_INACTIVE,
)
STATUSES: Final = {
    200: "Success.",
    201: "Created.",
    202: "Accepted: the deletion continues in the background.",
    204: "Done. The response has no body.",
    400: "The request cannot be carried out in the current state.",
    401: "The account is unknown or inactive, or the token is missing or invalid.",
    403: "The account may not do this.",
    404: "The path does not exist, or the id in it is unknown.",
    408: "The request body did not arrive in time.",
    409: "The change conflicts with stored data.",
    413: "The request body is too large.",
    422: "A field cannot be read, or a rule is violated.",
    429: "Too many requests. Retry after the seconds in `Retry-After`.",
    503: "The service is temporarily unavailable. Retry after the seconds in `Retry-After`.",
}


def content(kind: Struct) -> Json:
    """The JSON of a Struct, with an example."""
    return {"schema": reference(kind), "example": example(kind)}


def responses(path: str, operation: Operation) -> Json:
    """The responses of an operation, by status."""
    status = 204 if operation.answer is None and not operation.text else 200
    headers = {name: _header(*described) for name, described in operation.headers.items()}
    success: Json = {
        "description": STATUSES[status],
        "headers": {**_headers(status, []), **headers},
    }
    contents: Json = {}
    if operation.answer is not None:  # first: some client generators use the first one only
        success["description"] = (operation.answer.__doc__ or STATUSES[status]).partition("\n")[0]
        contents["application/json"] = content(operation.answer)
    for kind, text in operation.text.items():
        shape = "object" if "json" in kind else "string"
        contents[kind] = {"schema": {"type": shape, "description": text}}
    if contents:
        success["content"] = contents
    others = {
        str(status): _error(status, sentences, operation)
        for status, sentences in sorted(_sentences(path, operation).items())
    }
    if 201 in operation.also:  # as the success, of the same type
        others["201"] = {**success, "description": STATUSES[201]}
    return {str(status): success, **others}


def _sentences(path: str, operation: Operation) -> dict[int, list[str]]:
    """The sentences of an operation's errors by status; 422 may have none, for its field errors."""
    sentences: list[Sentence] = []
    has_path = bool(PATH_NAME.search(path))
    has_body = operation.body is not None or bool(operation.lines)
    has_query = any(parameter.place == "query" for parameter in operation.parameters)
    if operation.caller is not Caller.ANYONE:
        sentences += TOKEN_SENTENCES
    if operation.caller is not Caller.ANYONE or 503 in operation.also:
        sentences.append(errors.SERVICE_UNAVAILABLE)
    if operation.caller is Caller.OWNER:
        sentences.append(errors.PROFILE_DENIED)
    if operation.caller is Caller.ADMIN:
        sentences.append(errors.ADMIN_REQUIRED)
    if has_body:
        sentences += (errors.BODY_SLOW, errors.BODY_TOO_LARGE)
    if has_path:
        sentences.append(errors.PATH_NOT_FOUND)
    if any(parameter.name == IDEMPOTENCY_KEY for parameter in operation.parameters):
        sentences.append(errors.KEY_OF_ANOTHER_REQUEST)
    texts: dict[int, list[str]] = {status: [] for status in operation.also}
    if has_body or has_query or has_path:
        texts[422] = []
    for sentence in (*sentences, *operation.sentences):
        texts.setdefault(sentence.status, []).append(sentence.text)
    return texts


def _error(status: int, sentences: Sequence[str], operation: Operation) -> Json:
    examples: dict[str, Json] = {
        re.sub(r"\W+", "_", text).strip("_").lower(): {"value": {"detail": text}}
        for text in sentences
    }
    kinds: list[Struct] = [Refusal] if sentences else []
    if status == 422:
        kinds.append(FieldErrors)
        examples["a_field"] = {"value": example(FieldErrors)}
    if status in operation.also:
        kinds.append(operation.also[status])
        outcome = example(operation.also[status])
        if "detail" in outcome:
            examples["with_details"] = {"value": outcome}
    references = [reference(kind) for kind in kinds]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {
        "description": STATUSES[status],
        "headers": _headers(status, sentences),
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }


def _headers(status: int, sentences: Sequence[str]) -> Json:
    headers: Json = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
    if status == 401:
        headers["WWW-Authenticate"] = _header("Present if the request has no token.", "Bearer")
    if status in (429, 503):
        headers["Retry-After"] = _header("Seconds to wait.", 1, "integer")
    if errors.PIN_LOCKED.text in sentences:
        until = "2026-03-01T18:30:00+00:00"
        headers["X-Locked-Until"] = _header(
            "Present if the PIN is locked: until when, in UTC.", until
        )
    return headers


def _header(description: str, value: object, kind: str = "string") -> Json:
    return {"description": description, "schema": {"type": kind}, "example": value}
