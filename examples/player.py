"""A player: sends a heartbeat every 30 seconds while a title plays, and obeys the verdict.

    VIEWING_TIME_TOKEN=… .venv/bin/python examples/player.py --profile ID --title ID

It needs httpx, a dependency of the service. When the time is used up, it asks a parent for more and
plays on as soon as one approves. It does not ask during downtime or a lock, because more time does
not lift these. It shows the block screen while the service cannot be reached, because viewing is
not counted.
"""

import argparse
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx

WARNINGS = ("warning_15", "warning_5")
UNREACHABLE: dict[str, Any] = {"enforcement": "blocked"}
NOTHING_LEFT: dict[str, Any] = {"enforcement": "blocked"}
# What the child reads, by the rule that more time does not lift, or else by the status of the
# request for more time; None: it is not known.
SCREENS = {
    "locked": "a parent has locked this profile",
    "downtime": "no viewing at this time of day",
    "pending": "no viewing time left today; a parent has been asked for more",
    "denied": "no viewing time left today; a parent has said no",
    "approved": "no viewing time left today; a parent has said yes",
    "expired": "no viewing time left today; ask a parent for more",
    None: "no viewing time left today; ask a parent for more",
}
MAX_PAUSE_SECONDS = 8.0


class Refused(Exception):
    """The service rejects the request; a retry would not help."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code} {answer.text}")
        self.status = answer.status_code


class Player:
    """One title on one screen; `interval` is in seconds."""

    def __init__(self, client: httpx.Client, options: argparse.Namespace) -> None:
        self.client = client
        self.has_reached_the_service = False
        self.profile, self.interval = options.profile, options.interval
        self.wish = {
            "profile_id": options.profile,
            "minutes": options.ask,
            "device_id": options.device,
        }
        self.request_id: str | None = None
        self.warned: set[str] = set()  # warnings that were shown since more time was left
        self.body = {
            "profile_id": options.profile,
            "title_id": options.title,
            "device_id": options.device,
            "device_type": "tv",
            "session_id": None,
            "exclusive": True,
        }

    def play(self, beats: int | None) -> None:
        """Plays for a number of heartbeats, or forever; always ends the session."""
        try:
            for _ in itertools.count() if beats is None else range(beats):
                started_at = time.monotonic()
                verdict = self.beat()
                screen = self.ask() if verdict is NOTHING_LEFT else None
                show(verdict, screen, is_warning=self.warns(verdict["enforcement"]))
                time.sleep(max(0.0, started_at + self.interval - time.monotonic()))
        finally:
            self.end()

    def beat(self) -> dict[str, Any]:
        """Sends one heartbeat and returns the verdict.

        Before the first heartbeat, and while the block screen shows, it only queries whether
        playback may start: nothing is watched, so nothing is counted. Then it starts a new session.
        """
        if self.body["session_id"] is None:
            eligibility = self.call("GET", f"playback-eligible/{self.profile}")
            if eligibility is None or not eligibility["eligible"]:
                return UNREACHABLE if eligibility is None else NOTHING_LEFT
        try:
            verdict = self.call("POST", "heartbeat", json=self.body)
        except Refused as refusal:
            if refusal.status == 409:  # another device plays: it has ended this session
                self.body["session_id"] = None
            raise
        if verdict is not None:
            self.body["session_id"] = verdict["session_id"]
        if verdict is None or verdict["enforcement"] == "blocked":
            self.end()
            return UNREACHABLE if verdict is None else NOTHING_LEFT
        self.request_id = None
        return verdict

    def warns(self, enforcement: str) -> bool:
        """Whether to warn now: once at 15 and once at 5 minutes, and again after a grant."""
        is_new = enforcement in WARNINGS and enforcement not in self.warned
        if enforcement in WARNINGS:
            self.warned.add(enforcement)
        if enforcement == "warning_15":
            self.warned.discard("warning_5")
        elif enforcement == "allowed":
            self.warned.clear()
        return is_new

    def ask(self) -> str | None:
        """Asks a parent for more time, and later what became of it; None if it is not known.

        Returns the name of the rule that blocks if it is not a limit: then it does not ask. One
        request of a child can be pending: asking again returns that one. The service rejects the
        sixth request of a day until the reset.
        """
        decision = self.call("GET", f"decision/{self.profile}", patience=0)
        if decision is None:
            return None
        reason: str | None = decision["reason"]
        if reason in ("locked", "downtime"):
            return reason
        if self.request_id is None:
            answer = self.call("POST", "requests", patience=0, json=self.wish)
        else:
            answer = self.call("GET", f"requests/{self.request_id}", patience=0)
        if answer is None:
            return None
        self.request_id = answer["request_id"]
        status: str = answer["status"]
        return status

    def end(self) -> None:
        """Ends the session. A failure does no harm: the next session to start ends it too.

        If the first heartbeat could not be counted, its session does not exist (404).
        """
        if self.body["session_id"] is not None:
            session = f"session/{self.body['session_id']}/end"
            self.body["session_id"] = None
            try:
                self.call("POST", session, patience=0)
            except Refused as refusal:
                if refusal.status != 404:
                    raise

    def call(
        self, method: str, path: str, patience: float | None = None, **content: Any
    ) -> dict[str, Any] | None:
        """Repeats a request until it is answered or the next heartbeat is due; None if unanswered.

        Every attempt has the same key, so the service does not count a repeated heartbeat again.
        """
        headers = {"Idempotency-Key": str(uuid4())}
        end = time.monotonic() + (self.interval if patience is None else patience)
        for pause in pauses():
            try:
                answer = self.client.request(method, path, headers=headers, **content)
            except httpx.TransportError as error:
                print(f"  no answer: {type(error).__name__}", file=sys.stderr)
            else:
                if answer.is_success:
                    self.has_reached_the_service = True
                    body: dict[str, Any] = answer.json()
                    return body
                if answer.status_code not in (408, 429) and answer.status_code < 500:
                    raise Refused(answer)
                pause = max(pause, float(answer.headers.get("Retry-After", 0)))
            if time.monotonic() + pause > end:
                return None
            time.sleep(pause)
        raise AssertionError("pauses never end")


def pauses() -> Iterator[float]:
    """Seconds between attempts: exponential back-off with jitter."""
    for n in itertools.count():
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        yield jitter * min(MAX_PAUSE_SECONDS, 0.5 * 2**n)


def show(verdict: dict[str, Any], screen: str | None, *, is_warning: bool) -> None:
    """Prints the line that the child sees; `screen` is what `ask` has returned."""
    if verdict is UNREACHABLE:
        print("BLOCKED  viewing cannot be counted at the moment", flush=True)
    elif verdict["enforcement"] == "blocked":
        print(f"BLOCKED  {SCREENS[screen]}", flush=True)
    elif verdict["remaining_minutes"] is None:
        print("playing  without a limit", flush=True)
    else:
        word = "WARNING" if is_warning else "playing"
        print(f"{word}  {verdict['remaining_minutes']:g} minutes left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Play a title as a viewing-time player.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--profile", required=True, help="id of the profile that watches")
    parser.add_argument("--title", required=True, help="id of the title that plays")
    parser.add_argument("--device", default="living-room-tv")
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between heartbeats")
    parser.add_argument("--ask", type=int, default=30, help="minutes to ask for: 15 to 120")
    parser.add_argument("--beats", type=int, help="stop after this many; default: never")
    options = parser.parse_args()
    token = os.environ.get("VIEWING_TIME_TOKEN")
    if not token:
        parser.error("VIEWING_TIME_TOKEN must hold an access token")
    with httpx.Client(
        base_url=f"{options.url}/api/v1/viewing-time/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=5.0,
    ) as client:
        player = Player(client, options)
        try:
            player.play(options.beats)
        except Refused as error:
            sys.exit(f"BLOCKED  {error}")
        except KeyboardInterrupt:
            print("stopped")
        if not player.has_reached_the_service:
            sys.exit("The service could not be reached")


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
    until_closed(main)
