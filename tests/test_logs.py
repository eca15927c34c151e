"""A log line is one JSON object; secrets are masked; logging waits for nobody."""

import logging
import sys

import orjson

from service.logs import JsonLine, ReadableLine
from service.settings import Settings, masked


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("viewing_time.test", logging.INFO, "f", 1, message, (), None)
    made.fields = fields
    return made


def test_a_line_is_json_with_the_fields_beside_the_event() -> None:
    line = JsonLine().format(record("beat\nhappened", profile_id="p", seconds=30))
    assert "\n" not in line
    shown = orjson.loads(line)
    assert shown.pop("ts").endswith("Z")
    assert shown == {
        "level": "INFO",
        "logger": "viewing_time.test",
        "event": "beat\nhappened",
        "profile_id": "p",
        "seconds": 30,
    }


def test_an_error_carries_its_cause() -> None:
    made = record("failed")
    try:
        raise ValueError("the cause")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: the cause" in orjson.loads(JsonLine().format(made))["error"]
    assert "ValueError: the cause" in ReadableLine().format(made)


def test_secrets_are_masked() -> None:
    shown = masked(Settings(database_url="postgresql://u:secret@h/d", jwt_secret="s" * 32))
    assert "secret" not in str(shown).replace("jwt_secret", "")
    assert (shown["jwt_secret"], shown["port"]) == ("***", 8000)
