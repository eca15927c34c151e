"""Structured logs: one JSON object a line, times in UTC; readable words on a terminal.

An event is `logger.info("config_cache_invalidated", extra={"fields": {...}})`: the message is the
event's name, the fields stand beside it. Nobody puts a token, PIN, password or hash into a field.
"""

import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLine(logging.Formatter):
    """A record as one line of JSON: ts, level, logger, event, its fields, the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class ReadableLine(logging.Formatter):
    """The same record for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        line = f"{_moment(record)} {record.levelname:<7} {record.getMessage()} {words}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Queue(logging.handlers.QueueHandler):
    """Hands the record over as it is; a full queue drops it, since logging must not block."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def handleError(self, record: logging.LogRecord) -> None:
        """A full queue means nobody reads the log: there is nowhere left to say so."""


@contextmanager
def logging_to_stdout(level: str) -> Iterator[None]:
    """Sends all logs to standard output from a thread of its own, until the block ends."""
    target = logging.StreamHandler(sys.stdout)
    target.setFormatter(ReadableLine() if sys.stdout.isatty() else JsonLine())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(10_000)
    listener = logging.handlers.QueueListener(lines, target)
    root = logging.getLogger()
    handler = _Queue(lines)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("yoyo").setLevel(logging.WARNING)
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        listener.stop()
