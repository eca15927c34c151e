"""A parent's app on the command line: PIN, limits, more time, requests, history, the week.

export VIEWING_TIME_TOKEN=…
.venv/bin/python examples/parent.py set-pin --pin 1234
.venv/bin/python examples/parent.py limits PROFILE --weekday 90 --weekend unlimited
.venv/bin/python examples/parent.py grant PROFILE 30
.venv/bin/python examples/parent.py follow --approve
.venv/bin/python examples/parent.py report
.venv/bin/python examples/parent.py page

It needs httpx, a dependency of the service.
"""

import argparse
import contextlib
import getpass
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

MAX_SILENCE_SECONDS = 40.0  # the service sends a comment every 15 seconds


class Parent:
    """The requests of a parent."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.last_id = ""  # of the latest event
        self.retry_seconds = 3.0

    def call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Returns the response; exits with the service's sentence if it is an error."""
        answer = self.client.request(method, path, **content)
        if not answer.is_success:
            until = answer.headers.get("X-Locked-Until")
            sys.exit(f"{_detail(answer)}{f', until {until}' if until else ''}")
        body: dict[str, Any] = answer.json()
        return body

    def set_pin(self, options: argparse.Namespace) -> None:
        body = {"new_pin": options.pin or typed("New PIN")}
        if self.call("GET", "pin/status")["has_pin"]:
            body["current_pin"] = options.current or typed("Current PIN")
        print(self.call("POST", "pin", json=body)["detail"])

    def verified(self, options: argparse.Namespace) -> str:
        """A PIN token, which replaces the PIN for five minutes."""
        body = {"pin": options.pin or typed("PIN")}
        token: str = self.call("POST", "pin/verify", json=body)["pin_token"]
        return token

    def verify(self, options: argparse.Namespace) -> None:
        self.verified(options)
        print("The PIN is right")

    def limits(self, options: argparse.Namespace) -> None:
        """Changes the given members, then prints the configuration; null means no limit."""
        path = f"profiles/{options.profile}/viewing-time"
        names = ("weekday_limit_minutes", "weekend_limit_minutes", "timezone", "reset_hour")
        changes = {name: value for name, value in vars(options).items() if name in names}
        if "reset_hour" in changes:
            changes["pin_token"] = self.verified(options)
        found = self.call("PUT", path, json=changes) if changes else self.call("GET", path)
        print(f"weekdays  {minutes(found['weekday_limit_minutes'])}")
        print(f"weekends  {minutes(found['weekend_limit_minutes'])}")
        print(f"resets    {found['reset_hour']:02}:00 {found['timezone']}")
        print(f"lessons   {'are free' if found['educational_exempt'] else 'count'}")

    def grant(self, options: argparse.Namespace) -> None:
        """Grants more time today: on the child's device with the PIN, remotely without it."""
        body: dict[str, Any] = {"minutes": options.minutes}
        if options.pin:
            body["pin_token"] = self.verified(options)
        path = f"profiles/{options.profile}/viewing-time/grant"
        granted = self.call("POST", path, json=body)
        print(f"granted   {minutes(granted['granted_minutes'])}")
        print(f"left      {minutes(granted['remaining_minutes'])}")

    def follow(self, options: argparse.Namespace) -> None:
        """Prints events as they happen, and approves requests for more time if that is wanted.

        After an interruption it resumes behind the latest event, so it misses none.
        """
        left = options.events
        while left is None or left > 0:
            with contextlib.suppress(httpx.TransportError):
                for event in self.events():
                    print(f"{event['occurred_at']}  {event['type']}", flush=True)
                    if options.approve and event["type"] == "request.created":
                        options.request, options.minutes = event["data"]["request_id"], None
                        self.approve(options)
                    left = None if left is None else left - 1
                    if left == 0:
                        return
            time.sleep(self.retry_seconds)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events until the response ends, which may happen at any time."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        timeout = httpx.Timeout(10.0, read=MAX_SILENCE_SECONDS)
        with self.client.stream("GET", "events", headers=headers, timeout=timeout) as answer:
            if not answer.is_success:
                answer.read()
                sys.exit(_detail(answer))
            data = ""
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "retry":
                    self.retry_seconds = int(value) / 1000
                elif name == "data":
                    data = value
                elif not line and data:
                    yield json.loads(data)
                    data = ""

    def requests(self, options: argparse.Namespace) -> None:
        found = self.call("GET", "requests", params={"status": "pending"})["requests"]
        for each in found:
            print(
                f"{each['request_id']}  {minutes(each['minutes'])}  {each['message'] or ''}".strip()
            )

    def approve(self, options: argparse.Namespace) -> None:
        """Grants what a child has requested, or other minutes."""
        body: dict[str, Any] = {}
        if options.minutes is not None:
            body["minutes"] = options.minutes
        if options.pin:
            body["pin_token"] = self.verified(options)
        granted = self.call("POST", f"requests/{options.request}/approve", json=body)
        print(f"approved  {minutes(granted['granted_minutes'])}", flush=True)

    def deny(self, options: argparse.Namespace) -> None:
        body = {"pin_token": self.verified(options)} if options.pin else {}
        print(self.call("POST", f"requests/{options.request}/deny", json=body)["status"])

    def history(self, options: argparse.Namespace) -> None:
        today = datetime.now(UTC).date()
        span = {"from_date": str(today - timedelta(days=options.days - 1)), "to_date": str(today)}
        path = f"profiles/{options.profile}/history"
        for day in self.call("GET", path, params=span)["days"]:
            print(f"{day['date']}  {minutes(day['total_minutes'])}")
            for session in day["sessions"]:
                length = minutes(session["duration_minutes"])
                print(f"  {session['started_at'][11:16]}  {length:>12}  {session['title_name']}")

    def report(self, options: argparse.Namespace) -> None:
        week = self.call("GET", "weekly-report")
        print(f"{week['week_start']} to {week['week_end']}")
        for profile in week["profiles"]:
            used = profile["limit_usage_percent"]
            share = "no limit" if used is None else f"{used:g} % of the limit"
            print(f"{profile['profile_name']}: {minutes(profile['total_minutes'])}, {share}")
            for day in profile["daily_totals"]:
                bar = "#" * -int(-day["minutes"] // 10)  # one for every 10 minutes begun
                print(f"  {day['date']}  {minutes(day['minutes']):>12}  {bar}".rstrip())
            for title in profile["top_titles"]:
                print(f"  {minutes(title['total_minutes']):>24}  {title['title_name']}")

    def page(self, options: argparse.Namespace) -> None:
        """Prints a URL of the week as a page; open it in a browser within five minutes."""
        print(options.url + self.call("POST", "weekly-report/link")["url"])


def typed(what: str) -> str:
    """Reads a secret from the terminal, or from a line of standard input."""
    text = ""
    with contextlib.suppress(EOFError):  # Ctrl-D
        if sys.stdin is not None and sys.stdin.isatty():
            text = getpass.getpass(f"{what}: ")
        elif sys.stdin is not None:
            text = sys.stdin.readline().strip()
    if not text:
        sys.exit(f"{what} is needed: type it at a terminal, or pass it as an option")
    return text


def amount(text: str) -> int | None:
    """Minutes from the command line; None means unlimited."""
    return None if text == "unlimited" else int(text)


def minutes(value: float | None) -> str:
    return "unlimited" if value is None else f"{value:g} min"


def _detail(answer: httpx.Response) -> str:
    """The service's sentence; for an invalid field, its name and the reason."""
    if "json" not in answer.headers.get("Content-Type", ""):
        return f"The service answered {answer.status_code}"
    detail = answer.json()["detail"]
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in detail)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look after a family's viewing time.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    commands = parser.add_subparsers(required=True)
    absent = argparse.SUPPRESS

    def command(call: Any, name: str, help_text: str, *, profile: bool) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_text)
        added.set_defaults(call=call)
        if profile:
            added.add_argument("profile", help="id of the child's profile")
        return added

    pin = command(Parent.set_pin, "set-pin", "set the PIN, or change it", profile=False)
    pin.add_argument("--current", help="the current PIN; a prompt asks for it if it is needed")
    verify = command(Parent.verify, "verify", "is this the PIN?", profile=False)
    limits = command(Parent.limits, "limits", "show the limits, or change them", profile=True)
    for days in ("weekday", "weekend"):
        help_text = "minutes (15 to 480 by 15), or unlimited"
        name = f"{days}_limit_minutes"
        limits.add_argument(f"--{days}", dest=name, default=absent, type=amount, help=help_text)
    limits.add_argument("--timezone", default=absent, help="such as Europe/Berlin")
    limits.add_argument("--reset-hour", default=absent, type=int, help="0 to 23; needs the PIN")
    grant = command(Parent.grant, "grant", "grant more time today", profile=True)
    grant.add_argument("minutes", type=amount, help="15 to 120, or unlimited")
    follow = command(Parent.follow, "follow", "print what happens", profile=False)
    follow.add_argument("--approve", action="store_true", help="approve requests for more time")
    follow.add_argument("--events", type=int, help="end after that number; default: never")
    command(Parent.requests, "requests", "requests for more time", profile=False)
    approve = command(Parent.approve, "approve", "approve a request", profile=False)
    deny = command(Parent.deny, "deny", "deny a request", profile=False)
    for decision in (approve, deny):
        decision.add_argument("request", help="id of the request")
    approve.add_argument("--minutes", type=int, help="15 to 120; default: as requested")
    for secured in (pin, verify, limits, grant, follow, approve, deny):
        secured.add_argument("--pin", help="prefer the prompt: other users can see arguments")
    history = command(Parent.history, "history", "sessions by day", profile=True)
    history.add_argument("--days", type=int, default=7)
    command(Parent.report, "report", "the last seven days of every child", profile=False)
    command(Parent.page, "page", "a link to the same as a page, for a browser", profile=False)
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    token = os.environ.get("VIEWING_TIME_TOKEN")
    if not token:
        sys.exit("VIEWING_TIME_TOKEN must hold an access token")
    with httpx.Client(
        base_url=f"{options.url}/api/v1/parental-controls/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=12.0,  # the service answers within 10 seconds, also if it has to check a PIN
    ) as client:
        try:
            options.call(Parent(client), options)
        except httpx.TransportError as error:
            sys.exit(f"The service does not answer: {error}")
        except KeyboardInterrupt:
            sys.exit(130)


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
