"""Claims are read once, and as strictly as by PyJWT, which would verify the signature again."""

import base64
import hashlib
import hmac
from itertools import product
from typing import Any

import jwt
import pytest
from jwt.algorithms import HMACAlgorithm

from service.credentials import keys
from service.credentials.tokens import Tokens
from service.settings import Settings
from tests.family import SECRET

HEADERS = (
    b'{"alg":"HS256"}',
    b' {"typ" : "JWT", "alg" : "HS256"}\n',
    b'{"alg":"HS256","kid":"k"}',
    b'{"alg":"HS256","kid":null}',
    b'{"alg":"none","alg":"HS256"}',
    b'{"alg":"HS256","crit":[]}',
    b'{"alg":"HS256","crit":["exp"],"exp":1}',
    b'{"alg":"HS256","crit":["b64"]}',
    b'{"alg":"HS256","crit":["b64"],"b64":true}',
    b'{"alg":"HS256","crit":["b64"],"b64":false}',
    b'{"alg":"HS256","b64":false}',
    b'{"alg":"HS256","b64":true}',
    b'{"alg":"HS256","x":[1e999,null]}',
    b'{"alg":"HS256","x":"\xff"}',
    b'{"alg":"HS256","x":' + b"1" * 5_000 + b"}",
)
CLAIMS = (
    b'{"sub":"a","exp":2000000000,"aud":["x","y"]}',
    b'{"sub":"a","sub":7,"exp":"1","nbf":[],"iat":true,"jti":5}',
    b'{"exp":NaN,"nbf":-Infinity,"iat":1e999,"x":1' + b"0" * 400 + b"}",
    b'{"sub":"\\ud800","x":"\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"sub":"a"}',
    '{"sub":"a"}'.encode("utf-16"),
    b'{"sub":"\xff"}',
    b'{"x":' + b"1" * 5_000 + b"}",
    b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b'{"x":01}',
    b'{"x":"\n"}',
    b'{"sub":"a"} {}',
    b'["sub"]',
    b"null",
    b"",
)
# Ways to write a part of a token: {0} is its text without padding, {1} the padding.
SPELLINGS = ("{0}", "{0}{1}", "{0}=", "{0}==", "{0}====", "{0}.", "{0}\n", "{0}é", "{0}+/", "{0}A")
UNCHECKED = ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")


def written(content: bytes, spelling: str = "{0}") -> str:
    encoded = base64.urlsafe_b64encode(content).decode()
    unpadded = encoded.rstrip("=")
    return spelling.format(unpadded, encoded[len(unpadded) :])


def signed(message: str, spelling: str = "{0}") -> str:
    digest = hmac.digest(SECRET.encode(), message.encode(), hashlib.sha256)
    return f"{message}.{written(digest, spelling)}"


def read_by_us(token: str) -> str:
    settings = Settings(database_url="", jwt_secret=SECRET)
    try:
        return repr(keys.Keys(settings, Tokens(1)).own(token))
    except jwt.InvalidTokenError:
        return "rejected"


def read_by_pyjwt(token: str) -> str:
    options: Any = {f"verify_{name}": False for name in UNCHECKED}
    try:
        return repr(jwt.decode(token, SECRET, algorithms=["HS256"], options=options))
    except jwt.InvalidTokenError:
        return "rejected"


def test_a_token_is_read_or_rejected_as_by_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_TOKEN_BYTES", 100_000)
    tokens = [signed(f"{written(h)}.{written(c)}") for h, c in product(HEADERS, CLAIMS)]
    plain = (HEADERS[0], CLAIMS[0])
    for spelling in SPELLINGS:
        for part in range(2):
            spelled = [written(each) for each in plain]
            spelled[part] = written(plain[part], spelling)
            tokens.append(signed(".".join(spelled)))
        tokens.append(signed(".".join(map(written, plain)), spelling))
    tokens += [signed(written(HEADERS[0])), signed(""), signed("."), signed(".".join("abc"))]
    read = [read_by_us(token) for token in tokens]
    assert read == [read_by_pyjwt(token) for token in tokens]
    assert 20 < len(tokens) - read.count("rejected") < len(tokens) / 2


def test_a_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = 0
    verify = HMACAlgorithm.verify

    def counting(*arguments: Any) -> bool:
        nonlocal verified
        verified += 1
        return verify(*arguments)

    monkeypatch.setattr(HMACAlgorithm, "verify", counting)
    assert read_by_us(jwt.encode({"sub": "a"}, SECRET, algorithm="HS256")) == "{'sub': 'a'}"
    assert verified == 1
