"""Authentication: which tokens are accepted, how long they are cached, and their limits."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import msgspec
import pytest

from service.credentials import keys
from service.credentials.keys import MAX_TOKEN_BYTES
from service.database.driver import Connection
from service.http import auth
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.family import EXPIRES, HEARTBEAT, SECRET, Family, bearer

STATUS = "/api/v1/parental-controls/pin/status"
NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
INVALID = {"detail": "Invalid or expired token"}


async def status(running: Running, headers: dict[str, str]) -> httpx.Response:
    return await running.client.get(STATUS, headers=headers)


async def accepts(running: Running, headers: dict[str, str]) -> bool:
    answer = await status(running, headers)
    assert answer.status_code == 200 or (answer.status_code, answer.json()) == (401, INVALID)
    return answer.status_code == 200


def tampered(headers: dict[str, str], part: int) -> dict[str, str]:
    """The header with one part of its token cut short."""
    parts = headers["Authorization"].split(".")
    parts[part] = parts[part][:-4]
    return {"Authorization": ".".join(parts)}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Token x"},
    ],
)
async def test_missing_bearer_token_is_401(running: Running, headers: dict[str, str]) -> None:
    answer = await status(running, headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", [" ", "x", "a.b.c", "....", "é" * 9, "a" * 9000])
async def test_a_malformed_authorization_header_is_rejected(running: Running, token: str) -> None:
    answer = await status(running, {"Authorization": f"Bearer {token}".encode()})  # type: ignore[dict-item] # not ASCII
    assert (answer.status_code, answer.json()) == (401, INVALID)
    assert "www-authenticate" not in answer.headers


async def test_scheme_is_case_insensitive(running: Running, family: Family) -> None:
    token = family.bearer["Authorization"].removeprefix("Bearer ")
    assert await accepts(running, {"Authorization": f"bEARER {token}"})


async def test_a_token_must_be_signed_with_the_secret(running: Running, family: Family) -> None:
    claims = {"sub": str(family.account)}
    for token in (
        jwt.encode(claims, "another secret, long enough too for HS256", algorithm="HS256"),
        jwt.encode(claims, SECRET * 2, algorithm="HS512"),
        jwt.encode(claims, SECRET * 2, algorithm="HS384"),
        jwt.encode(claims, "", algorithm="none"),
    ):
        assert not await accepts(running, {"Authorization": f"Bearer {token}"})
    for part in range(3):
        assert not await accepts(running, tampered(family.bearer, part))
    assert len(running.context.tokens) == 0
    assert await accepts(running, family.bearer)


async def test_token_with_a_critical_extension_is_rejected(
    running: Running, family: Family
) -> None:
    claims = {"sub": str(family.account)}
    headers = {"crit": ["bound"], "bound": "tv-1"}
    token = jwt.encode(claims, SECRET, algorithm="HS256", headers=headers)
    assert not await accepts(running, {"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("claims", "is_accepted"),
    [
        ({"exp": NOW + SECOND}, True),
        ({"exp": NOW}, False),
        ({"exp": NOW - SECOND}, False),
        ({"exp": 0}, False),
        ({"exp": NOW.timestamp() + 0.5}, True),
        ({"exp": str(NOW.timestamp() + 60)}, False),
        ({"exp": True}, False),
        ({"exp": [NOW.timestamp() + 60]}, False),
        ({"exp": float("nan")}, False),
        ({"exp": 10**400}, False),
        ({"exp": None}, True),
        ({"nbf": NOW}, True),
        ({"nbf": NOW + SECOND}, False),
        ({"nbf": "soon"}, False),
        ({"nbf": -(10**400)}, False),
        ({"iat": NOW + timedelta(days=1)}, True),
        ({"aud": "somebody", "iss": "anybody", "jti": 5}, True),
        ({"purpose": "pin_verified"}, False),
        ({"purpose": None}, False),
    ],
)
async def test_claims_decide_whether_a_token_is_accepted(
    running: Running, family: Family, claims: dict[str, Any], is_accepted: bool
) -> None:
    running.clock.fixed = NOW
    assert await accepts(running, bearer(family.account, **claims)) is is_accepted


@pytest.mark.parametrize("subject", ["absent", None, "", "me", 7, ["x"], {}, True])
async def test_subject_that_is_not_a_uuid_is_rejected(running: Running, subject: object) -> None:
    claims: dict[str, Any] = {} if subject == "absent" else {"sub": subject}
    token = jwt.api_jws.encode(
        msgspec.json.encode(claims), SECRET, algorithm="HS256", headers={"typ": "JWT"}
    )
    answer = await status(running, {"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid token payload"})


async def test_token_without_expiry_is_accepted_unless_settings_require_one(
    start: Starter, settings: Settings, family: Family
) -> None:
    strict = msgspec.structs.replace(settings, jwt_require_exp=True, jwt_leeway_seconds=300)
    for changed, is_accepted in ((settings, True), (strict, False)):
        running = await start(changed)
        assert await accepts(running, bearer(family.account, exp=None)) is is_accepted
        assert await accepts(running, family.bearer)


async def test_cached_token_is_not_verified_again(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await accepts(running, family.bearer)

    async def unexpected(*_: object) -> None:
        raise AssertionError("verified again")

    monkeypatch.setattr(auth, "verified", unexpected)
    assert await accepts(running, family.bearer)
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.json()["enforcement"] == "allowed"


@pytest.mark.parametrize("leeway", [0, 5])
async def test_cached_token_expires_on_time(
    start: Starter, settings: Settings, family: Family, leeway: int
) -> None:
    running = await start(msgspec.structs.replace(settings, jwt_leeway_seconds=leeway))
    running.clock.fixed = NOW
    token = bearer(family.account, exp=NOW + 60 * SECOND, nbf=NOW + leeway * SECOND)
    assert await accepts(running, token)
    end = NOW + (60 + leeway) * SECOND
    running.clock.fixed = end - timedelta(milliseconds=1)
    assert await accepts(running, token)
    running.clock.fixed = end
    assert not await accepts(running, token)
    assert not await accepts(running, bearer(family.account, exp=end - leeway * SECOND))


async def test_number_of_cached_tokens_is_bounded(
    start: Starter, settings: Settings, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, tokens_max_size=3))
    for n in range(5):
        assert await accepts(running, bearer(family.account, jti=n))
    assert (len(running.context.tokens), running.context.tokens.evictions) == (3, 2)


def padded(account: UUID, size: int, **claims: Any) -> str:
    """A token of `size` bytes with a valid signature."""
    bare = len(bearer(account, **claims, pad="")["Authorization"][7:])
    for length in range((size - bare) * 3 // 4 - 4, size):
        token = bearer(account, **claims, pad="x" * length)["Authorization"][7:]
        if len(token) == size:
            return token
    raise AssertionError("no token has this size")


async def test_token_longer_than_8_kib_is_rejected_without_parsing(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin_claims = {"purpose": "pin_verified", "exp": int(EXPIRES.timestamp())}
    largest = {"Authorization": f"Bearer {padded(family.account, MAX_TOKEN_BYTES)}"}
    assert await accepts(running, largest)
    parental = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    pin_token = padded(family.account, MAX_TOKEN_BYTES, **pin_claims)

    async def granted(token: str) -> httpx.Response:
        body = {"minutes": 15, "pin_token": token}
        return await running.client.post(f"{parental}/grant", json=body, headers=family.bearer)

    async def changed(token: str) -> httpx.Response:
        body = {"reset_hour": 3, "pin_token": token}
        return await running.client.put(parental, json=body, headers=family.bearer)

    assert (await granted(pin_token)).status_code == 200
    assert (await changed(pin_token)).status_code == 200

    def unexpected(*_: Any, **__: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr("service.credentials.keys.urlsafe_b64decode", unexpected)
    monkeypatch.setattr(keys, "json", SimpleNamespace(loads=unexpected))
    for size in (MAX_TOKEN_BYTES + 1, 60_000):
        token = padded(family.account, size)
        assert not await accepts(running, {"Authorization": f"Bearer {token}"})
        assert not await accepts(running, {"Authorization": f"bearer {'x' * size}"})
        assert running.context.tokens.get(token) is None
        beat = await running.client.post(
            HEARTBEAT,
            json=family.beat(),
            headers={"Authorization": f"Bearer {token}"},
        )
        assert (beat.status_code, beat.json()) == (401, INVALID)
        token = padded(family.account, size, **pin_claims)
        answer = await granted(token)
        assert (answer.status_code, answer.json()["detail"]) == (
            403,
            "Invalid or expired PIN token",
        )
        answer = await changed(token)
        assert answer.status_code == 403
        assert answer.json()["detail"] == "Valid PIN token required to change: reset_hour"


async def test_token_is_parsed_only_after_its_signature_is_verified(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing can cost a hundred times as much as a signature, and any client can send garbage."""
    parsed: list[bytes] = []

    def counting(content: bytes) -> Any:
        parsed.append(content)
        return json.loads(content)

    monkeypatch.setattr(keys, "json", SimpleNamespace(loads=counting))
    token = family.bearer["Authorization"][7:]
    header, payload, signature = token.split(".")
    for other in (
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{'W1tb' * 1900}.{signature}",
        f"{'W1tb' * 1900}.{payload}.{signature}",
        f"{header}..",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}",
        f"é.{payload}.{signature}",
        f"{header}.é.{signature}",
        f"{header}.{payload}.é",
        f"A.{payload}.{signature}",
    ):
        answer = await status(running, {"Authorization": f"Bearer {other}".encode()})  # type: ignore[dict-item] # not ASCII
        assert (answer.status_code, answer.json()) == (401, INVALID), other
    assert parsed == []
    assert await accepts(running, family.bearer)
    assert await accepts(running, family.bearer)
    assert [json.loads(part) for part in parsed] == [
        jwt.get_unverified_header(token),
        jwt.decode(token, options={"verify_signature": False}),
    ]


async def test_account_must_exist_and_be_active(
    running: Running, connection: Connection, family: Family
) -> None:
    assert await accepts(running, family.bearer)
    await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    await connection.execute("update users set is_active = false where id = $1", family.account)
    inactive = (401, {"detail": "User not found or inactive"})
    for answer in (
        await status(running, family.bearer),
        await status(running, bearer(uuid4())),
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer),
    ):
        assert (answer.status_code, answer.json()) == inactive


@pytest.mark.parametrize(
    ("claims", "is_accepted"),
    [
        ({"iss": "https://accounts.example", "aud": "viewing-time"}, True),
        ({"iss": "https://accounts.example", "aud": ["web", "viewing-time"]}, True),
        ({"iss": "https://accounts.example", "aud": ["web"]}, False),
        ({"iss": "https://accounts.example", "aud": "viewing-time-2"}, False),
        ({"iss": "https://accounts.example", "aud": {"viewing-time": 1}}, False),
        ({"iss": "https://accounts.example"}, False),
        ({"iss": "https://accounts.example/", "aud": "viewing-time"}, False),
        ({"iss": ["https://accounts.example"], "aud": "viewing-time"}, False),
        ({"aud": "viewing-time"}, False),
        ({}, False),
    ],
)
async def test_issuer_and_audience_are_required_when_set(
    start: Starter,
    settings: Settings,
    family: Family,
    claims: dict[str, Any],
    is_accepted: bool,
) -> None:
    changed = msgspec.structs.replace(
        settings, jwt_issuer="https://accounts.example", jwt_audience="viewing-time"
    )
    running = await start(changed)
    body = {"sub": str(family.account), **claims}
    token = jwt.api_jws.encode(msgspec.json.encode(body), SECRET, algorithm="HS256")
    assert await accepts(running, {"Authorization": f"Bearer {token}"}) is is_accepted


async def test_administrator_right_comes_from_the_database(
    running: Running, connection: Connection, family: Family
) -> None:
    url = "/api/v1/admin/metrics"
    claimed = bearer(family.account, is_admin=True)
    answer = await running.client.get(url, headers=claimed)
    assert (answer.status_code, answer.json()) == (403, {"detail": "Admin privileges required"})
    await connection.execute("update users set is_admin = true where id = $1", family.account)
    assert (await running.client.get(url, headers=claimed)).status_code == 200
