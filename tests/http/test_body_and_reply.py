"""Bodies: which methods have one, and which may be empty."""

from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import ClientError, FieldError
from service.http import lenient_json
from service.http.body_and_reply import MAX_BODY_BYTES, bounded, read, read_optional, reply
from service.http.error_responses import client_error


class TokenBody(msgspec.Struct):
    pin_token: str | None = None


BODY = lenient_json.Body(TokenBody)
TABLE: dict[Any, Any] = {ClientError: client_error, FieldError: client_error}
JSON = {"content-type": "application/json"}


async def optional(request: Request) -> Response:
    return reply(read_optional(request, BODY))


async def required(request: Request) -> Response:
    return reply(read(request, BODY))


@pytest.fixture
async def client() -> httpx.AsyncClient:
    """A client of two endpoints that return their body, with no service behind them."""
    routes = [
        Route("/", bounded(optional, 1), methods=["DELETE"]),
        Route("/", bounded(required, 1), methods=["PUT"]),
    ]
    app = Starlette(routes=routes, exception_handlers=TABLE)

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"context": SimpleNamespace()}}, receive, send)

    transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service.test")


async def test_a_delete_may_have_a_body(client: httpx.AsyncClient) -> None:
    for raw, token in ((b"", None), (b"{}", None), (b'{"pin_token":"t"}', "t")):
        answer = await client.request("DELETE", "/", content=raw, headers=JSON if raw else {})
        assert (answer.status_code, answer.json()) == (200, {"pin_token": token})


async def test_the_body_of_a_delete_is_bounded_and_must_be_json(client: httpx.AsyncClient) -> None:
    for raw, status in ((b"{", 422), (b"[]", 422), (b'{"pin_token":1}', 422)):
        answer = await client.request("DELETE", "/", content=raw, headers=JSON)
        assert answer.status_code == status
    answer = await client.request("DELETE", "/", content=b"{}")
    assert answer.status_code == 422
    large = b" " * (MAX_BODY_BYTES + 1)
    assert (await client.request("DELETE", "/", content=large)).status_code == 413


async def test_an_empty_body_is_missing_where_one_is_required(client: httpx.AsyncClient) -> None:
    answer = await client.put("/", content=b"", headers=JSON)
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "missing")
