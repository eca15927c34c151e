"""`viewing-time healthcheck`: asks the service of this machine whether it is ready.

`service/__main__.py` imports only this module for it: a probe runs every few seconds, and the rest
of the command would take half a second of CPU each time.
"""

import http.client
from contextlib import closing
from typing import Final

import click
import msgspec

from service.command import environment
from service.http.urls import HEALTH
from service.settings import FIELDS, reachable

TIMEOUT_SECONDS: Final = 2.0
MAX_ANSWER_BYTES: Final = 10_000


class Answer(msgspec.Struct):
    """The answer of /health/ready."""

    status: str
    checks: dict[str, str]


@click.command("healthcheck")
def probe() -> None:
    """Ask the service on HOST:PORT whether it is ready; exit 1 if it is not, or does not answer."""
    host, port = _address()
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)) as connection:
            connection.request("GET", f"{HEALTH}/ready")
            body = connection.getresponse().read(MAX_ANSWER_BYTES)
        answer = msgspec.json.decode(body, type=Answer)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"The service on {where} does not answer: {reason}.") from error
    if answer.status != "ok":
        failed = [f"{name} is {state}" for name, state in answer.checks.items() if state != "ok"]
        raise click.ClickException(f"The service on {where} is not ready: {', '.join(failed)}.")
    click.echo(f"The service on {where} is ready.")


def _address() -> tuple[str, int]:
    """An address where the service listens. No other setting is read, so it needs no secret."""
    variables = environment.variables()
    host, port = (
        environment.setting(name, variables) or FIELDS[name].default for name in ("host", "port")
    )
    return reachable(host), int(port)
