"""Authenticates callers: access tokens, PIN tokens, and the rights of an account.

A verified access token is cached until it expires or its key is withdrawn. The cache only proves
who signed the token; every statement that acts for an account checks that it is active.
"""

import contextlib
import hashlib
import hmac
import math
from datetime import timedelta
from typing import Final, Protocol, TypeVar
from uuid import UUID, uuid4

import jwt
import msgspec
from starlette.requests import Request

from service.context import Context
from service.credentials.keys import NoKey, Signed, TooLong, UnknownKey
from service.credentials.tokens import Verified
from service.database.statement import Statement
from service.errors import (
    ACCOUNT_INACTIVE,
    ADMIN_REQUIRED,
    PROFILE_DENIED,
    TOKEN_INVALID,
    TOKEN_MISSING,
    TOKEN_WITHOUT_ACCOUNT,
    ClientError,
    FieldError,
    RuleError,
)
from service.settings import Settings

PIN_TOKEN_LIFETIME: Final = timedelta(minutes=5)
PIN_TOKEN_LEEWAY: Final = timedelta(seconds=5)
PIN_PURPOSE: Final = "pin_verified"


class AccountRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_admin: bool


CHECK: Final = Statement("account_check", AccountRow)


class ActiveRow(Protocol):
    @property
    def is_active(self) -> bool: ...


class OwnedRow(ActiveRow, Protocol):
    @property
    def is_owner(self) -> bool: ...


class AdminRow(ActiveRow, Protocol):
    @property
    def is_admin(self) -> bool: ...


Active = TypeVar("Active", bound=ActiveRow)
Owned = TypeVar("Owned", bound=OwnedRow)
Administered = TypeVar("Administered", bound=AdminRow)


async def _account(request: Request) -> UUID:
    """The account whose access token came with the request; raises ClientError 401."""
    context: Context = request.state.context
    header = request.headers.get("authorization")
    return bearer(context, header) or await verified(context, header)


async def caller(request: Request) -> tuple[Context, UUID]:
    """The parts of the caller's cell, and the caller's account.

    From here on they are the request's context. Raises ClientError 401, Unavailable.
    """
    account_id = await _account(request)
    context: Context = request.state.context
    if context.cells is not None:
        context = request.state.context = context.of(account_id)
        request.state.asked = [(account_id, context)]
    return context, account_id


def bearer(context: Context, header: str | None) -> UUID | None:
    """The account of an `Authorization` header whose token is cached; raises ClientError 401.

    The scheme is read in any case (RFC 9110, section 11.1).
    """
    if header is None or len(header) == 7 or header[:7].lower() != "bearer ":
        raise ClientError(TOKEN_MISSING, {"WWW-Authenticate": "Bearer"})
    cached = context.tokens.get(header[7:])
    if cached is not None and cached.expires > context.now().timestamp():
        return cached.account_id
    return None


async def verified(context: Context, header: str | None) -> UUID:
    """The account of a header whose token is not cached; raises ClientError 401."""
    token = (header or "")[7:]
    try:
        signed = await context.keys.signed(token)
    except jwt.InvalidTokenError as error:
        raise ClientError(TOKEN_INVALID, reason=_signature_error(error)) from error
    now = context.now().timestamp()
    accepted = _accepted(context.settings, signed, now)
    context.tokens.add(token, accepted, now)
    return accepted.account_id


def seconds_left(request: Request) -> float:
    """For how long the access token is valid that `caller` has just verified."""
    context: Context = request.state.context
    token = context.tokens.get(request.headers["authorization"][7:])
    return 0.0 if token is None else token.expires - context.now().timestamp()


def _signature_error(error: jwt.InvalidTokenError) -> str:
    if isinstance(error, TooLong):
        return "token_too_long"
    if isinstance(error, UnknownKey | NoKey):
        return "token_key_unknown"
    is_signature = isinstance(error, jwt.InvalidSignatureError)
    return "token_signature_wrong" if is_signature else "token_malformed"


def _accepted(settings: Settings, signed: Signed, now: float) -> Verified:
    """The account and expiry of a signed access token that is valid now; raises ClientError 401."""
    claims = signed.claims
    leeway = settings.jwt_leeway_seconds
    not_before = _numeric_date(claims.get("nbf"), 0) - leeway
    expires = _numeric_date(claims.get("exp"), 0 if settings.jwt_require_exp else math.inf) + leeway
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    refusals = {
        "token_time_malformed": math.isnan(not_before) or math.isnan(expires),
        "token_not_yet_valid": now < not_before,
        "token_without_expiry": now >= expires and claims.get("exp") is None,
        "token_expired": now >= expires,
        "token_of_a_pin": "purpose" in claims,
        "token_issuer_wrong": settings.jwt_issuer and claims.get("iss") != settings.jwt_issuer,
        "token_audience_wrong": settings.jwt_audience and settings.jwt_audience not in audiences,
    }
    if reason := next((reason for reason, is_so in refusals.items() if is_so), ""):
        raise ClientError(TOKEN_INVALID, reason=reason)
    try:
        return Verified(UUID(claims.get("sub")), expires, signed.signer)
    except (ValueError, TypeError, AttributeError) as error:
        raise ClientError(TOKEN_WITHOUT_ACCOUNT) from error


def _numeric_date(claim: object, absent: float) -> float:
    """Epoch seconds of a claim; NaN if it is not a number, so every comparison fails."""
    if claim is None:
        return absent
    if isinstance(claim, int | float) and not isinstance(claim, bool):
        with contextlib.suppress(OverflowError):
            return float(claim)
    return math.nan


def pin_mark(pin_hash: str) -> str:
    """Fingerprint of the stored PIN hash; changing the PIN invalidates earlier tokens.

    The hash is salted, so the fingerprint reveals nothing about the PIN.
    """
    return hashlib.sha256(pin_hash.encode()).hexdigest()[:32]


def pin_token(context: Context, account_id: UUID, pin_hash: str) -> str:
    """A token which proves for five minutes that the account's PIN was entered."""
    claims = {
        "sub": str(account_id),
        "purpose": PIN_PURPOSE,
        "jti": uuid4().hex,
        "exp": int((context.now() + PIN_TOKEN_LIFETIME).timestamp()),
        "pin": pin_mark(pin_hash),
    }
    return jwt.encode(claims, context.settings.jwt_secret, algorithm="HS256")


def confirmed_pin(context: Context, account_id: UUID, token: str, refusal: RuleError) -> str | None:
    """The fingerprint in a PIN token of this account; raises `refusal` if the token is not one.

    A token with only the contract's claims has no fingerprint, and is valid for any PIN. A few
    seconds of clock skew between instances are allowed.
    """
    try:
        claims = context.keys.own(token)
    except jwt.InvalidTokenError as error:
        raise refusal from error
    expires, mark, subject = claims.get("exp"), claims.get("pin"), claims.get("sub")
    if (
        claims.get("purpose") != PIN_PURPOSE
        or not isinstance(mark, str | None)
        or not isinstance(expires, int)
        or (context.now() - PIN_TOKEN_LEEWAY).timestamp() >= expires
        or not hmac.compare_digest(str(subject), str(account_id))
    ):
        raise refusal
    return mark


def active(row: Active | None) -> Active:
    """The row of a statement that acted for an account; raises ClientError 401."""
    if row is None or not row.is_active:
        raise ClientError(ACCOUNT_INACTIVE)
    return row


def owned(row: Owned | None) -> Owned:
    """The row of a statement that acted on a profile; raises ClientError 401 or 403."""
    row = active(row)
    if not row.is_owner:
        raise ClientError(PROFILE_DENIED)
    return row


def administered(row: Administered | None) -> Administered:
    """The row of a statement that acted for an administrator; raises ClientError 401 or 403."""
    row = active(row)
    if not row.is_admin:
        raise ClientError(ADMIN_REQUIRED)
    return row


async def admin(request: Request) -> tuple[Context, UUID]:
    """The `caller`, who is an administrator in the database; raises ClientError 401 or 403 else."""
    context, account_id = await caller(request)
    administered(await CHECK.maybe(context.pool, account_id, None))
    return context, account_id


async def entitled(request: Request, error: FieldError | RuleError) -> None:
    """Raises 401 or 403 if the caller may not see this error.

    A RuleError is for the owner of the profile only: fields are checked before the profile, rules
    after it.
    """
    context, account_id = await caller(request)
    profile_id = None
    if isinstance(error, RuleError) and "profile_id" in request.path_params:
        profile_id = UUID(request.path_params["profile_id"])
    owned(await CHECK.maybe(context.pool, account_id, profile_id))
