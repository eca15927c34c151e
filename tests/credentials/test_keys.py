"""The keys of tokens: secrets, published keys, rotation, errors, attacks."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from bench.ports import free_port
from service.credentials import jwks, keys
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.credentials.signing_platform import Platform, jwk, private_key, publishing
from tests.eventually import eventually
from tests.family import HEARTBEAT, PIN, SECRET, Family, bearer

STATUS = "/api/v1/parental-controls/pin/status"
OLD = "a secret from before, long enough for HS256"
REFRESH_SECONDS = 0.02


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    """A platform that publishes the key `first`."""
    published = Platform()
    published.add("first")
    async with publishing(published):
        yield published


Trusting = Callable[..., Awaitable[Running]]


@pytest.fixture
def trusting(start: Starter, settings: Settings) -> Trusting:
    """Starts an application that trusts a platform."""

    async def starter(platform: Platform, refresh: float = 300.0) -> Running:
        address = {"jwt_jwks_url": platform.url, "jwt_jwks_refresh_seconds": refresh}
        return await start(replace(settings, **address))

    return starter


async def accepts(running: Running, headers: dict[str, str]) -> bool:
    answer = await running.client.get(STATUS, headers=headers)
    if answer.status_code == 401:
        assert answer.json() == {"detail": "Invalid or expired token"}
    else:
        assert answer.status_code == 200
    return answer.status_code == 200


def forged(header: dict[str, Any], family: Family, key: bytes) -> dict[str, str]:
    """The header with a token of the account, signed with HMAC for any algorithm in its header."""

    def part(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    claims = {"sub": str(family.account), "exp": 4102444800}
    text = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
    token = text + b"." + part(hmac.digest(key, text, hashlib.sha256))
    return {"Authorization": f"Bearer {token.decode()}"}


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_published_key_of_each_algorithm_is_accepted(
    trusting: Trusting, platform: Platform, family: Family, algorithm: str
) -> None:
    platform.add("mine", algorithm)
    running = await trusting(platform)
    assert await accepts(running, platform.bearer("mine", family.account))
    assert await accepts(running, platform.bearer("first", family.account))
    assert await accepts(running, family.bearer)
    platform.keys["mine"] = (algorithm, private_key(algorithm, 99))
    assert not await accepts(running, platform.bearer("mine", family.account))
    headers = platform.bearer("first", family.account, jti="another")
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
    assert answer.json()["enforcement"] == "allowed"


async def test_published_keys_are_read_from_a_file_again(
    start: Starter, settings: Settings, family: Family, tmp_path: Path
) -> None:
    platform = Platform()
    platform.add("first")
    path = tmp_path / "jwks.json"
    path.write_bytes(platform.document())
    running = await start(
        replace(settings, jwt_jwks_file=str(path), jwt_jwks_refresh_seconds=REFRESH_SECONDS)
    )
    assert await accepts(running, platform.bearer("first", family.account))
    platform.add("second", "EdDSA")
    # Replaced in one step: half a document would be an error, and delay the next reading.
    new = path.with_suffix(".new")
    new.write_bytes(platform.document())
    new.replace(path)
    assert await accepts(running, platform.bearer("second", family.account))


async def test_keys_without_ids_and_tokens_without_ids_are_accepted(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    platform.add("second", number=1)
    algorithm, second = platform.keys["second"]
    claims = {"sub": str(family.account)}
    unnamed = jwt.encode(claims, second, algorithm=algorithm)
    running = await trusting(platform)
    assert await accepts(running, {"Authorization": f"Bearer {unnamed}"})
    public = jwk(algorithm, second.public_key())
    platform.answer = json.dumps({"keys": [public]}).encode()
    named = await trusting(platform)
    assert await accepts(named, platform.bearer("second", family.account))
    assert await accepts(named, {"Authorization": f"Bearer {unnamed}"})


async def test_previous_secret_is_accepted_beside_the_current_one(
    start: Starter, settings: Settings, family: Family
) -> None:
    before = await start(replace(settings, jwt_secret=OLD))
    claims = {"sub": str(family.account)}
    old = {"Authorization": f"Bearer {jwt.encode(claims, OLD, algorithm='HS256')}"}
    url = "/api/v1/parental-controls/pin/verify"
    verified = await before.client.post(url, json={"pin": PIN}, headers=old)
    during = await start(replace(settings, jwt_secret_previous=OLD))
    assert await accepts(during, old)
    assert await accepts(during, family.bearer)
    body = {"minutes": 15, "pin_token": verified.json()["pin_token"]}
    grant = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time/grant"
    assert (await during.client.post(grant, json=body, headers=old)).status_code == 200
    verified = await during.client.post(url, json={"pin": PIN}, headers=old)
    jwt.decode(
        verified.json()["pin_token"], SECRET, algorithms=["HS256"], options={"verify_exp": False}
    )
    after = await start()
    assert not await accepts(after, old)
    assert await accepts(after, family.bearer)


async def test_a_new_key_is_read_by_the_first_request_that_needs_it(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    running = await trusting(platform)
    assert platform.readings == 1
    platform.add("second", "RS256")
    tokens = [platform.bearer("second", family.account, jti=n) for n in range(20)]
    assert all(await asyncio.gather(*(accepts(running, token) for token in tokens)))
    assert platform.readings == 2
    assert await accepts(running, platform.bearer("first", family.account))


async def test_unknown_keys_cause_one_reading_a_minute(
    trusting: Trusting, platform: Platform, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await trusting(platform)
    stranger = Platform()
    for n in range(10):
        stranger.add(f"unknown-{n}", ("RS256", "ES256", "EdDSA")[n % 3], 50)
        assert not await accepts(running, stranger.bearer(f"unknown-{n}", family.account))
    assert platform.readings == 2
    platform.add("second")
    assert not await accepts(running, platform.bearer("second", family.account))
    monkeypatch.setattr(keys, "UNKNOWN_KEY_SECONDS", 0.0)
    assert await accepts(running, platform.bearer("second", family.account))
    assert platform.readings == 3


async def test_other_bad_tokens_cause_no_reading(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    running = await trusting(platform)
    platform.keys["first"] = ("ES256", private_key("ES256", 50))
    for headers in (
        platform.bearer("first", family.account),
        forged({"alg": "HS256", "kid": "unknown"}, family, b"x" * 32),
        forged({"alg": "none", "kid": "unknown"}, family, b"x" * 32),
        forged({"alg": "PS256", "kid": "unknown"}, family, b"x" * 32),
        forged({"alg": ["RS256"], "kid": "unknown"}, family, b"x" * 32),
        forged({"alg": "RS256", "kid": 7}, family, b"x" * 32),
        {"Authorization": "Bearer x"},
    ):
        assert not await accepts(running, headers)
    assert platform.readings == 1


async def test_removed_key_invalidates_its_cached_tokens(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    platform.add("second", "EdDSA")
    running = await trusting(platform, REFRESH_SECONDS)
    first, second = (platform.bearer(kid, family.account) for kid in ("first", "second"))
    for headers in (first, second, family.bearer):
        assert await accepts(running, headers)
    del platform.keys["first"]
    await platform.read_again()
    tokens = [headers["Authorization"][7:] for headers in (first, second, family.bearer)]
    assert [running.context.tokens.get(token) is None for token in tokens] == [True, False, False]
    assert not await accepts(running, first)
    assert await accepts(running, second)


async def test_key_replaced_under_its_id_is_no_longer_accepted(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    running = await trusting(platform, REFRESH_SECONDS)
    before = platform.bearer("first", family.account)
    assert await accepts(running, before)
    platform.add("first", number=1)
    await platform.read_again()
    assert not await accepts(running, before)
    assert await accepts(running, platform.bearer("first", family.account))


GARBAGE = {
    "nothing": b"",
    "page": b"<html>Down for maintenance</html>",
    "array": b"[]",
    "no keys": b'{"keys": []}',
    "number": b'{"keys": 5}',
    "no objects": b'{"keys": [1, null, "x", {}, []]}',
    "truncated": b'{"keys": [{"kty": "EC"',
    "deep": b'{"keys":' + b"[" * 100_000,
    "large": b" " * 300_000 + b'{"keys": []}',
    "many": json.dumps({"keys": [{"kty": "EC"}] * 51}).encode(),
    "half a key": b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "kid": "first"}]}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_malformed_documents_keep_the_keys(
    trusting: Trusting,
    platform: Platform,
    family: Family,
    answer: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = await trusting(platform, REFRESH_SECONDS)
    first = platform.bearer("first", family.account)
    assert await accepts(running, first)
    caplog.clear()
    platform.answer = answer
    await platform.read_again()
    assert await accepts(running, first)
    assert await accepts(running, platform.bearer("first", family.account, jti="fresh"))
    (fields, *_) = [r.fields for r in caplog.records if r.message == "jwks_unreadable"]  # type: ignore[attr-defined] # ours
    assert fields["keys_kept"] == 1
    platform.answer = None
    platform.add("second")
    await platform.read_again()
    assert await accepts(running, platform.bearer("second", family.account))


@pytest.mark.parametrize("status", ["500 Oops", "404 Not Found", "302 Found", "garbage"])
async def test_error_responses_keep_the_keys(
    trusting: Trusting, platform: Platform, family: Family, status: str
) -> None:
    other = Platform()
    other.add("first", number=50)
    async with publishing(other):
        running = await trusting(platform, REFRESH_SECONDS)
        platform.status, platform.headers = status, f"Location: {other.url}\r\n"
        await platform.read_again(3)
    assert other.readings == 0
    assert await accepts(running, platform.bearer("first", family.account))


async def test_keys_can_rotate_at_every_reading(
    trusting: Trusting, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rotating(Platform):
        def document(self) -> bytes:
            self.keys.clear()
            self.add(f"key-{self.readings}", "EdDSA", self.readings)
            return super().document()

    monkeypatch.setattr(keys, "UNKNOWN_KEY_SECONDS", 0.0)
    async with publishing(Rotating()) as platform:
        running = await trusting(platform)
        for n in range(1, 20):
            headers = platform.bearer(f"key-{n}", family.account)
            assert await accepts(running, headers)
            unknown = Platform()
            unknown.add("unknown")
            assert not await accepts(running, unknown.bearer("unknown", family.account))
            assert platform.readings == n + 1
            assert running.context.tokens.get(headers["Authorization"][7:]) is None
            assert await accepts(running, family.bearer)


async def test_keys_that_are_unreachable_at_start_are_read_later(
    trusting: Trusting, family: Family
) -> None:
    platform = Platform(free_port())
    platform.add("first")
    running = await trusting(platform, REFRESH_SECONDS)
    assert await accepts(running, family.bearer)
    assert not await accepts(running, platform.bearer("first", family.account))
    async with publishing(platform):
        await platform.read_again()
        assert await accepts(running, platform.bearer("first", family.account))


async def test_a_hanging_platform_delays_only_tokens_with_unknown_keys(
    trusting: Trusting, platform: Platform, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.1)
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 3.0)  # longer than a slow start
    platform.is_hanging = True
    running = await trusting(platform)
    answered: list[str] = []

    async def ask(name: str, headers: dict[str, str], is_accepted: bool) -> None:
        assert await accepts(running, headers) is is_accepted
        answered.append(name)

    await asyncio.gather(
        ask("unknown", platform.bearer("first", family.account), False),
        *(ask("secret", bearer(family.account, jti=n), True) for n in range(20)),
    )
    assert answered == ["secret"] * 20 + ["unknown"]
    assert platform.readings == 1


async def test_a_request_waits_a_bounded_time_for_a_hanging_platform(
    trusting: Trusting, platform: Platform, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 1.0)
    monkeypatch.setattr(keys, "WAIT_SECONDS", 0.05)
    running = await trusting(platform)
    platform.is_hanging = True
    platform.add("second")
    assert not await accepts(running, platform.bearer("second", family.account))
    reading = running.context.keys.reading
    assert reading is not None
    assert not reading.done()
    assert not await reading
    assert await accepts(running, platform.bearer("first", family.account))


async def test_a_response_that_arrives_byte_by_byte_meets_the_deadline(
    start: Starter, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.3)
    readings = 0

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal readings
        readings += 1
        with closing(writer), suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as dripping:
        url = f"http://127.0.0.1:{dripping.sockets[0].getsockname()[1]}/"
        address = {"jwt_jwks_url": url, "jwt_jwks_refresh_seconds": 1.0}
        running = await start(replace(settings, **address))
        reading = running.context.keys.reading
        assert reading is not None
        assert await reading is False
        await eventually(lambda: readings >= 2)
        reading = running.context.keys.reading
        assert reading is not None
        assert await reading is False


async def test_a_response_in_small_chunks_does_not_block_the_event_loop(
    settings: Settings, platform: Platform
) -> None:
    document = platform.document()
    turns = 0

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.writelines(b"1\r\n%c\r\n" % byte for byte in document + b" " * 5_000)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        nonlocal turns
        closed = asyncio.create_task(reader.read())  # the request, until the client closes
        while not closed.done():
            await asyncio.sleep(0)
            turns += 1
        writer.close()

    async with await asyncio.start_server(send, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert len(await jwks.read_published(replace(settings, jwt_jwks_url=url))) == 1
        await eventually(lambda: turns)
    assert turns > 5_000


async def test_a_key_published_during_a_reading_is_found_by_the_next(
    trusting: Trusting, platform: Platform, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await trusting(platform)
    has_read, may_return = asyncio.Event(), asyncio.Event()
    read_published = jwks.read_published

    async def slowly(settings: Settings) -> Any:
        published = await read_published(settings)
        has_read.set()
        await may_return.wait()
        return published

    monkeypatch.setattr(keys, "read_published", slowly)
    running.context.keys.read()
    await has_read.wait()
    platform.add("second")
    request = asyncio.create_task(accepts(running, platform.bearer("second", family.account)))
    await asyncio.sleep(0.05)
    may_return.set()
    assert await request


async def test_a_key_verifies_only_its_own_algorithm(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    platform.add("rsa", "RS256")
    running = await trusting(platform)
    rsa = private_key("RS256")
    public = rsa.public_key()
    published = json.loads(platform.document())["keys"]
    spellings = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        json.dumps(published[1]).encode(),
        published[1]["n"].encode(),
        b"",
    ]
    for spelling in spellings:
        for named in ({"kid": "rsa"}, {"kid": "first"}, {}):
            for algorithm in ("HS256", "RS256", "ES256", "none", ""):
                headers = forged({"alg": algorithm, **named}, family, spelling)
                assert not await accepts(running, headers)
    claims = {"sub": str(family.account)}
    for algorithm in ("PS256", "RS384", "RS512"):
        token = jwt.encode(claims, rsa, algorithm=algorithm, headers={"kid": "rsa"})
        assert not await accepts(running, {"Authorization": f"Bearer {token}"})
    for kid in ("first", "rsa"):
        for algorithm in ("RS256", "ES256", "EdDSA"):
            key = private_key(algorithm, 50)
            token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})
            assert not await accepts(running, {"Authorization": f"Bearer {token}"})
    assert await accepts(running, platform.bearer("rsa", family.account))


async def test_keys_inside_a_token_are_ignored(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    running = await trusting(platform)
    own = private_key("ES256", 50)
    other = Platform()
    other.add("first", number=50)
    async with publishing(other):
        embedded: list[dict[str, Any]] = [
            {"jwk": jwk("ES256", own.public_key())},
            {"jku": other.url, "kid": "first"},
            {"x5u": other.url, "kid": "unknown"},
            {"kid": other.url},
            {"kid": "../../etc/passwd"},
        ]
        for header in embedded:
            token = jwt.encode({"sub": str(family.account)}, own, algorithm="ES256", headers=header)
            assert not await accepts(running, {"Authorization": f"Bearer {token}"})
    assert other.readings == 0


async def test_private_weak_and_foreign_keys_of_a_set_are_ignored(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    ec, rsa, weak = private_key("ES256"), private_key("RS256"), private_key("RS256", 0, 1024)
    oct_key = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
    unusable = [
        jwk("ES256", ec, kid="private"),
        jwk("ES256", ec.public_key(), kid="encryption", use="enc"),
        jwk("ES256", ec.public_key(), kid="signs", key_ops=["sign"]),
        jwk("RS256", rsa.public_key(), kid="other", alg="PS256"),
        jwk("RS256", weak.public_key(), kid="weak"),
        {"kty": "oct", "kid": "secret", "k": oct_key, "alg": "HS256"},
        {"kty": "oct", "kid": "secret", "k": oct_key},
    ]
    good = json.loads(platform.document())["keys"]
    platform.answer = json.dumps({"keys": [*unusable, *good]}).encode()
    running = await trusting(platform)
    claims = {"sub": str(family.account)}
    for kid, algorithm, key in (
        ("private", "ES256", ec),
        ("encryption", "ES256", ec),
        ("signs", "ES256", ec),
        ("other", "PS256", rsa),
        ("other", "RS256", rsa),
        ("secret", "HS256", "s" * 32),
    ):
        token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})
        assert not await accepts(running, {"Authorization": f"Bearer {token}"})
    assert [published.kid for published in running.context.keys.published] == ["first"]
    assert await accepts(running, platform.bearer("first", family.account))


async def test_a_pin_token_signed_with_a_published_key_is_rejected(
    trusting: Trusting, platform: Platform, family: Family
) -> None:
    running = await trusting(platform)
    url = "/api/v1/parental-controls/pin/verify"
    headers = platform.bearer("first", family.account)
    verified = await running.client.post(url, json={"pin": PIN}, headers=headers)
    token = verified.json()["pin_token"]
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False})
    foreign_token = platform.bearer("first", family.account, **claims)["Authorization"][7:]
    grant = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time/grant"

    async def granted(pin_token: str) -> httpx.Response:
        body = {"minutes": 15, "pin_token": pin_token}
        return await running.client.post(grant, json=body, headers=headers)

    assert (await granted(foreign_token)).status_code == 403
    assert (await granted(token)).status_code == 200
