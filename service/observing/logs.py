"""Structured logs: one JSON object a line, times in UTC; readable words on a terminal.

An event is `logger.info("config_cache_invalidated", extra={"fields": {...}})`: the message is the
event's name, the fields stand beside it. Nobody puts a token, PIN, password or hash into a field.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import orjson

from service.observing.trace import CURRENT

MAX_LINES: Final = 10_000
STOP_SECONDS: Final = 1.0


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """What stands beside the event: its own fields, then those of the request at work."""
    return {**getattr(record, "fields", {}), **getattr(record, "trace", {})}


class JsonLine(logging.Formatter):
    """A record as one line of JSON: ts, level, logger, event, its fields, the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class ReadableLine(logging.Formatter):
    """The same record for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        words = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{_moment(record)} {record.levelname:<7} {record.getMessage()} {words}".rstrip()
        if not line.isprintable():
            line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Lines(logging.Handler):
    """The way of records to a file descriptor: bounded, and nobody waits for it.

    Records are formatted and written by a thread of their own. While its reader does not read,
    `LINES_MOST` of them wait and the others are dropped and counted; when its reader has gone, all
    are. A record takes the request it belongs to along.
    """

    def __init__(self) -> None:
        super().__init__()
        self._refused = self._failed = self._reported = 0
        self._waiting: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._descriptor: int | None = None
        self._thread: Thread | None = None

    @property
    def dropped(self) -> int:
        """How many lines were never written."""
        return self._refused + self._failed

    def begin(self, descriptor: int | None) -> None:
        """Starts to write; without a descriptor, everything is dropped."""
        self._descriptor = descriptor
        # A daemon: a write that never ends must not keep the process from ending.
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Writes what waits, for as long as STOP_SECONDS allow."""
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def handle(self, record: logging.LogRecord) -> bool:
        """Takes a record; unlike the inherited way, without a lock that a writer could hold."""
        if self._waiting.qsize() >= MAX_LINES:
            self._refused += 1
            return False
        trace = CURRENT.get()
        if trace is not None:
            record.trace = trace.fields()
        self._waiting.put(record)
        return True

    def _write_all(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._write(record)
            if self._refused > self._reported and self._waiting.qsize() <= MAX_LINES // 2:
                self._report()

    def _report(self) -> None:
        refused = self._refused
        lost, self._reported = refused - self._reported, refused
        self._write(_own_record("WARNING", "log_lines_dropped", lines=lost))

    def _write(self, record: logging.LogRecord) -> None:
        """Writes a line, all of it; one that cannot be written is dropped.

        A field can raise anything while it is formatted. The thread must survive that, else no
        line would ever be written again; another line says whose was dropped.
        """
        try:
            line = self.format(record)
        except Exception as error:
            self._failed += 1
            fields = {"source": record.name, "error": type(error).__name__}
            line = self.format(_own_record("ERROR", "log_line_unreadable", **fields))
        left = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        try:
            if self._descriptor is None:
                raise BrokenPipeError
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            self._failed += 1


def _own_record(level: str, event: str, **fields: object) -> logging.LogRecord:
    """A record about the log itself."""
    return logging.makeLogRecord(
        {"name": "viewing_time.logs", "levelname": level, "msg": event, "fields": fields}
    )


LINES: Final = Lines()


@contextmanager
def logging_to_stdout(level: str) -> Iterator[None]:
    """Sends all logs to standard output from a thread of its own, until the block ends.

    Straight to the descriptor: Python's own buffer has a lock that the end of the process takes.
    """
    is_open = sys.stdout is not None  # None when the process was started with it closed
    is_terminal = is_open and sys.stdout.isatty()
    LINES.setFormatter(ReadableLine() if is_terminal else JsonLine())
    root = logging.getLogger()
    root.addHandler(LINES)
    root.setLevel(level)
    logging.getLogger("yoyo").setLevel(logging.WARNING)
    # Its pool tells of a database that is away, at length and each time; who asks for it does too.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
    LINES.begin(sys.stdout.fileno() if is_open else None)
    try:
        yield
    finally:
        root.removeHandler(LINES)
        LINES.end()
