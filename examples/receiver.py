"""A receiver of the webhook: verifies each request, stores new events, prints them.

    WEBHOOK_SECRET=whsec_... python examples/receiver.py --port 9000 --database events.db

The service gets WEBHOOK_URL=http://127.0.0.1:9000/ and the same WEBHOOK_SECRET. Events that were
received before are recognized by their id, also after a restart. Only the standard library is used.
"""

import argparse
import base64
import hmac
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

MAX_BODY_BYTES = 1024 * 1024
MAX_CLOCK_DIFFERENCE = 300  # seconds: older requests could be repeated by somebody who read them
MAX_SILENCE = 30  # seconds


class Refused(Exception):
    """The request is not from the service, or cannot be read."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def number(text: str) -> int:
    """The number in a header; -1 if it is not one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


def verify(secret: str, headers: Any, body: bytes, now: float) -> None:
    """Raises Refused unless the service has signed this body, and lately."""
    timestamp = headers.get("webhook-timestamp", "")
    if abs(now - number(timestamp)) > MAX_CLOCK_DIFFERENCE:
        raise Refused(400, "the timestamp is too far away from this clock")
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    # There are two signatures while the secret is being changed. `compare_digest` takes the same
    # time wherever two texts differ, so a forger learns nothing from the time of the answer.
    signatures = headers.get("webhook-signature", "").encode("latin-1").split(b" ")
    if not any(hmac.compare_digest(expected, each) for each in signatures):
        raise Refused(401, "no signature fits")


def store(database: sqlite3.Connection, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stores the events together, and returns those that are new."""
    with database:
        return [
            event
            for event in events
            if database.execute(
                "insert or ignore into events (id, event) values (?, ?)",
                (event["id"], json.dumps(event)),
            ).rowcount
        ]


class Handler(BaseHTTPRequestHandler):
    """Answers 204 after the events are stored, so that the service repeats what was not."""

    protocol_version = "HTTP/1.1"
    timeout = MAX_SILENCE
    secret: str
    database: sqlite3.Connection
    storing = Lock()

    def do_POST(self) -> None:
        try:
            events = self.events()
        except Refused as refusal:
            print(f"refused: {refusal}", file=sys.stderr, flush=True)
            self.close_connection = True
            self.answer(refusal.status)
            return
        with self.storing:
            new = store(self.database, events)
        self.answer(204)
        try:
            for event in new:
                print(event["type"], event["profile_id"], json.dumps(event["data"]), flush=True)
        except BrokenPipeError:  # the reader of the output has ended
            self.server.shutdown()

    def events(self) -> list[dict[str, Any]]:
        """The events of a request that was verified."""
        length = number(self.headers.get("content-length", ""))
        if not 0 <= length <= MAX_BODY_BYTES:
            raise Refused(413, "no length, or a body that is too long")
        body = self.rfile.read(length)
        verify(self.secret, self.headers, body, time.time())
        events: list[dict[str, Any]] = json.loads(body)["data"]["events"]
        return events

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Replaces the line that the server prints for each request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--database", default=":memory:", help="file for the events")
    arguments = parser.parse_args()
    if "WEBHOOK_SECRET" not in os.environ:
        sys.exit("Set WEBHOOK_SECRET.")
    Handler.secret = os.environ["WEBHOOK_SECRET"]
    Handler.database = sqlite3.connect(arguments.database, check_same_thread=False)
    Handler.database.execute("create table if not exists events (id text primary key, event text)")
    with ThreadingHTTPServer((arguments.host, arguments.port), Handler) as server:
        print(f"listening on {server.server_port}", flush=True)
        server.serve_forever()


def until_closed(run: Callable[[], None]) -> None:
    """Runs the program; ends it quietly if the reader of its output has ended, such as `head`."""
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    try:
        until_closed(main)
    except KeyboardInterrupt:
        sys.exit(130)
