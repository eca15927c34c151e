"""Signatures are those of Standard Webhooks."""

from service.events.signing import signatures
from service.setting_values import webhook_key

# Signed with the package `standardwebhooks` 1.1.0.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_signature_is_that_of_another_implementation() -> None:
    assert signatures([webhook_key(SECRET)], *MESSAGE) == SIGNATURE


def test_each_key_has_a_signature() -> None:
    both = signatures([b"another key of at least 24 bytes", webhook_key(SECRET)], *MESSAGE)
    first, second = both.split(" ")
    assert first.startswith("v1,")
    assert first != second == SIGNATURE
