"""The proof of a parent: a PIN token in the body or in the header X-PIN-Token."""

from datetime import timedelta
from uuid import uuid4

import pytest
from starlette.requests import Request

from service.errors import RuleError
from service.http import auth
from service.parents.pin_proof import NO_PROOF, PinProof, pin_proof
from tests.conftest import Running
from tests.family import PIN_HASH, Family, bearer

REFUSAL = "Valid PIN token required"


def request(token: str | None = None) -> Request:
    """A request with a PIN token in its header."""
    headers = [] if token is None else [(b"x-pin-token", token.encode())]
    return Request({"type": "http", "headers": headers})


async def test_a_request_without_a_token_has_no_proof(running: Running, family: Family) -> None:
    assert pin_proof(request(), running.context, family.account, None) == NO_PROOF
    assert PinProof(False, None) == NO_PROOF


async def test_body_and_header_prove_the_pin(running: Running, family: Family) -> None:
    token = auth.pin_token(running.context, family.account, PIN_HASH)
    proof = PinProof(True, auth.pin_mark(PIN_HASH))
    assert pin_proof(request(), running.context, family.account, token) == proof
    assert pin_proof(request(token), running.context, family.account, None) == proof
    assert pin_proof(request("invalid"), running.context, family.account, token) == proof


async def test_a_token_without_a_fingerprint_proves_any_pin(
    running: Running, family: Family
) -> None:
    claims = {"purpose": "pin_verified", "exp": int(running.clock().timestamp()) + 300}
    token = bearer(family.account, **claims)["Authorization"].removeprefix("Bearer ")
    proof = pin_proof(request(token), running.context, family.account, None)
    assert proof == PinProof(True, None)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é" * 9, "a" * 9000])
async def test_an_invalid_token_is_rejected(running: Running, family: Family, token: str) -> None:
    for body_token, header in ((token, None), (None, token)):
        with pytest.raises(RuleError, match=f"^{REFUSAL}$"):
            pin_proof(request(header), running.context, family.account, body_token)


async def test_an_expired_token_and_that_of_another_account_are_rejected(
    running: Running, family: Family
) -> None:
    token = auth.pin_token(running.context, family.account, PIN_HASH)
    with pytest.raises(RuleError, match=f"^{REFUSAL}$"):
        pin_proof(request(token), running.context, uuid4(), None)
    running.clock.fixed += timedelta(minutes=6)
    with pytest.raises(RuleError, match=f"^{REFUSAL}$"):
        pin_proof(request(token), running.context, family.account, None)
    access = family.bearer["Authorization"].removeprefix("Bearer ")
    with pytest.raises(RuleError, match=f"^{REFUSAL}$"):
        pin_proof(request(access), running.context, family.account, None)
