"""Proof that a parent made a request: a PIN token in its body or in the header X-PIN-Token.

A strict account allows changes only with a proof. The statement that changes something checks it:
`has_proof` is true if a valid token came, `pin_mark` is the fingerprint of the PIN in it.
"""

from contextlib import suppress
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from starlette.requests import Request

from service.context import Context
from service.errors import PIN_TOKEN_REQUIRED, RuleError
from service.http import auth, lenient_json
from service.http.fields import PinToken

HEADER: Final = "x-pin-token"


class ProofBody(msgspec.Struct):
    """The body of a request that has no other members; it can be left out."""

    pin_token: PinToken = None


PROOF: Final = lenient_json.Body(ProofBody)


class PinProof(NamedTuple):
    """Whether a valid PIN token came, and its fingerprint; a token without one fits any PIN."""

    is_given: bool
    mark: str | None


NO_PROOF: Final = PinProof(False, None)


def pin_proof(
    request: Request, context: Context, account_id: UUID, body_token: str | None
) -> PinProof:
    """The proof in `body_token`, or else in the header; raises RuleError for an invalid token."""
    token = request.headers.get(HEADER) if body_token is None else body_token
    if token is None:
        return NO_PROOF
    return PinProof(
        True, auth.confirmed_pin(context, account_id, token, RuleError(PIN_TOKEN_REQUIRED))
    )


def valid_proof(
    request: Request, context: Context, account_id: UUID, body_token: str | None
) -> PinProof:
    """As `pin_proof`, except that an invalid token is no proof."""
    with suppress(RuleError):
        return pin_proof(request, context, account_id, body_token)
    return NO_PROOF
