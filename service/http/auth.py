"""Who is calling: access tokens, PIN tokens, and what an account may see.

A verified access token is remembered until it expires or its key is withdrawn. That says only who
signed it: whether the account still exists and is active is asked by every statement that acts for
it.
"""

import contextlib
import hashlib
import hmac
import math
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4

import jwt
import msgspec
from starlette.requests import Request

from service.context import Context
from service.credentials.keys import NoKey, Signed, TooLong, UnknownKey, Verified
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

FOREVER: Final = math.inf
MAX_TOKENS: Final = 50_000
PIN_TOKEN_LIFE: Final = timedelta(minutes=5)
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


async def account(request: Request) -> UUID:
    """The account whose access token came with the request; raises ClientError 401."""
    context: Context = request.state.context
    header = request.headers.get("authorization")
    return bearer(context, header) or await verified(context, header)


def bearer(context: Context, header: str | None) -> UUID | None:
    """The account in an `Authorization` header, if its token is remembered; raises ClientError 401.

    The scheme is read in any case (RFC 9110, section 11.1).
    """
    if header is None or len(header) == 7 or header[:7].lower() != "bearer ":
        raise ClientError(TOKEN_MISSING, {"WWW-Authenticate": "Bearer"})
    known = context.tokens.get(header[7:])
    if known is not None and known.expires > context.now().timestamp():
        return known.account_id
    return None


async def verified(context: Context, header: str | None) -> UUID:
    """The account in a header whose token `bearer` does not remember; raises ClientError 401."""
    token = (header or "")[7:]
    try:
        signed = await context.keys.signed(token)
    except jwt.InvalidTokenError as error:
        raise ClientError(TOKEN_INVALID, reason=_unverified(error)) from error
    accepted = _accepted(context.settings, signed, context.now().timestamp())
    if len(context.tokens) >= MAX_TOKENS:
        del context.tokens[next(iter(context.tokens))]
    context.tokens[token] = accepted
    return accepted.account_id


def _unverified(error: jwt.InvalidTokenError) -> str:
    """Why a token cannot be verified, for log and metrics."""
    if isinstance(error, TooLong):
        return "token_too_long"
    if isinstance(error, UnknownKey | NoKey):
        return "token_key_unknown"
    is_signature = isinstance(error, jwt.InvalidSignatureError)
    return "token_signature_wrong" if is_signature else "token_malformed"


def _accepted(settings: Settings, signed: Signed, now: float) -> Verified:
    """What a token with a right signature says, if it is an access token, for us, and of now."""
    claims = signed.claims
    leeway = settings.jwt_leeway_seconds
    not_before = _time(claims.get("nbf"), 0) - leeway
    expires = _time(claims.get("exp"), 0 if settings.jwt_require_exp else FOREVER) + leeway
    if reason := _refusal(settings, claims, now, not_before, expires):
        raise ClientError(TOKEN_INVALID, reason=reason)
    try:
        return Verified(UUID(claims.get("sub")), expires, signed.signer)
    except (ValueError, TypeError, AttributeError) as error:
        raise ClientError(TOKEN_WITHOUT_ACCOUNT) from error


def _refusal(
    settings: Settings, claims: dict[str, Any], now: float, not_before: float, expires: float
) -> str:
    """Why a token with a right signature is refused, for log and metrics; empty where it is not."""
    if math.isnan(not_before) or math.isnan(expires):
        return "token_time_malformed"
    if now < not_before:
        return "token_not_yet_valid"
    if now >= expires:
        return "token_without_expiry" if claims.get("exp") is None else "token_expired"
    if "purpose" in claims:
        return "token_of_a_pin"
    if settings.jwt_issuer and claims.get("iss") != settings.jwt_issuer:
        return "token_issuer_wrong"
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if settings.jwt_audience and settings.jwt_audience not in audiences:
        return "token_audience_wrong"
    return ""


def _time(claim: object, absent: float) -> float:
    """A claim of epoch seconds; one that is no number compares false with every instant."""
    if claim is None:
        return absent
    if isinstance(claim, int | float) and not isinstance(claim, bool):
        with contextlib.suppress(OverflowError):
            return float(claim)
    return math.nan


def pin_mark(pin_hash: str) -> str:
    """What a PIN token carries of the PIN it vouches for; the statement that acts compares it.

    Of a salted hash, so it tells nothing about the PIN; another PIN has another mark, which makes
    the tokens of the one before it worthless.
    """
    return hashlib.sha256(pin_hash.encode()).hexdigest()[:32]


def pin_token(context: Context, account_id: UUID, pin_hash: str) -> str:
    """A token that says for five minutes that this account's PIN was entered right."""
    claims = {
        "sub": str(account_id),
        "purpose": PIN_PURPOSE,
        "jti": uuid4().hex,
        "exp": int((context.now() + PIN_TOKEN_LIFE).timestamp()),
        "pin": pin_mark(pin_hash),
    }
    return jwt.encode(claims, context.settings.jwt_secret, algorithm="HS256")


def confirmed_pin(context: Context, account_id: UUID, token: str, refusal: RuleError) -> str | None:
    """The PIN mark in a PIN token of this account; raises `refusal` where the token is not one.

    A token with the contract's claims alone has no mark, and vouches for whatever the PIN is now. A
    few seconds of clock skew between instances are forgiven.
    """
    try:
        claims = context.keys.own(token)
    except jwt.InvalidTokenError as error:
        raise refusal from error
    expires, mark, subject = claims.get("exp"), claims.get("pin"), claims.get("sub")
    if claims.get("purpose") != PIN_PURPOSE or not isinstance(mark, str | None):
        raise refusal
    if not isinstance(expires, int) or not _alive(context.now(), expires):
        raise refusal
    if not hmac.compare_digest(str(subject), str(account_id)):
        raise refusal
    return mark


def _alive(now: datetime, expires: int) -> bool:
    return (now - PIN_TOKEN_LEEWAY).timestamp() < expires


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


async def admin(request: Request) -> UUID:
    """The account of an administrator, by the database's word; raises ClientError 401 or 403."""
    context: Context = request.state.context
    account_id = await account(request)
    administered(await CHECK.maybe(context.pool, account_id, None))
    return account_id


async def entitled(request: Request, error: FieldError | RuleError) -> None:
    """Raises what is to be said before `fault`: the order is token, fields, profile, rules."""
    context: Context = request.state.context
    account_id = await account(request)
    profile_id = None
    if isinstance(error, RuleError) and "profile_id" in request.path_params:
        profile_id = UUID(request.path_params["profile_id"])
    owned(await CHECK.maybe(context.pool, account_id, profile_id))
