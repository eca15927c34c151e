"""Structured logs: one JSON object a line, times in UTC; readable words on a terminal.

An event is `logger.info("config_cache_invalidated", extra={"fields": {...}})`: the message is the
event's name, the fields are members beside it. No field may contain a token, PIN, password or hash.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import orjson

from service.observing.trace import CURRENT

MAX_LINES: Final = 10_000
STOP_SECONDS: Final = 1.0


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """A record's time, and its own fields with those of its request."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    fields = {**getattr(record, "fields", {}), **getattr(record, "trace", {})}
    return time.replace("+00:00", "Z"), fields


class JsonLine(logging.Formatter):
    """A record as one line of JSON: ts, level, logger, event, its fields, the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        time, fields = _parts(record)
        line = {
            "ts": time,
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class ReadableLine(logging.Formatter):
    """The same record for a person at a terminal; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        time, fields = _parts(record)
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        line = f"{time} {record.levelname:<7} {record.getMessage()} {words}".rstrip()
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class QueuedHandler(logging.Handler):
    """Formats and writes records in its own thread, from a bounded queue.

    When the queue is full, or the descriptor closed, records are dropped and counted: logging never
    delays the service.
    """

    def __init__(self) -> None:
        super().__init__()
        self._overflowed = self._failed = self._reported = 0
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._descriptor: int | None = None
        self._thread: Thread | None = None

    @property
    def dropped(self) -> int:
        """The number of lines that were never written."""
        return self._overflowed + self._failed

    def start(self, descriptor: int | None) -> None:
        """Starts writing; without a descriptor, everything is dropped."""
        self._descriptor = descriptor
        # A daemon: a write that never ends must not keep the process from ending.
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes the queued records, for at most STOP_SECONDS."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def handle(self, record: logging.LogRecord) -> bool:
        """Queues a record with its request's fields, without the lock of the inherited method."""
        if self._queue.qsize() >= MAX_LINES:
            self._overflowed += 1
            return False
        if trace := CURRENT.get():
            record.trace = trace.fields()
        self._queue.put(record)
        return True

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            self._write(record)
            lost = self._overflowed - self._reported
            if lost and self._queue.qsize() <= MAX_LINES // 2:
                self._reported += lost
                self._write(_own_record("WARNING", "log_lines_dropped", lines=lost))

    def _write(self, record: logging.LogRecord) -> None:
        """Writes a whole line, or drops it."""
        try:
            line = self.format(record)
        except Exception as error:
            # A field can raise anything; the thread must survive it to write further lines.
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
    return logging.makeLogRecord(
        {"name": "viewing_time.logs", "levelname": level, "msg": event, "fields": fields}
    )


HANDLER: Final = QueuedHandler()


@contextmanager
def logging_to_stdout(level: str) -> Iterator[None]:
    """Sends all logs to standard output until the block ends.

    It writes to the descriptor, because Python's own buffer has a lock that the interpreter needs
    to exit.
    """
    is_open = sys.stdout is not None  # None if the process was started with it closed
    is_terminal = is_open and sys.stdout.isatty()
    HANDLER.setFormatter(ReadableLine() if is_terminal else JsonLine())
    root = logging.getLogger()
    root.addHandler(HANDLER)
    root.setLevel(level)
    logging.getLogger("yoyo").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Its pool logs each failed connection at length; the caller logs the same failure.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
    HANDLER.start(sys.stdout.fileno() if is_open else None)
    try:
        yield
    finally:
        root.removeHandler(HANDLER)
        HANDLER.stop()
