"""The command `events`: what happened, and sending it to the webhook once more."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import click
import msgspec

from service.command import environment
from service.command.data import one_sentence, using
from service.command.each_cell import end, failures
from service.events import kept
from service.events.event import Event
from service.settings import Settings


class Moment(click.ParamType[datetime]):
    """A date or a time of ISO 8601, in UTC unless it has an offset."""

    name = "time"

    def convert(
        self, value: str, parameter: click.Parameter | None, context: click.Context | None
    ) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            if moment >= datetime(1970, 1, 1, tzinfo=UTC):
                return moment
        except (ValueError, OverflowError):
            pass
        return self.fail("must be a time like 2026-11-27T06:00:00Z", parameter, context)


@click.command("events")
@click.option("--since", type=Moment(), metavar="TIME", help="The events since TIME (UTC).")
@click.option("--parked", is_flag=True, help="The events that the webhook did not receive.")
@click.option("--redeliver", is_flag=True, help="Send these events to the webhook once more.")
@click.pass_obj
def events_command(
    set_up: Callable[[], Settings], since: datetime | None, parked: bool, redeliver: bool
) -> None:
    """Print events, a line of JSON each, and with --redeliver send them once more.

    A running service with WEBHOOK_URL sends them, in order for each profile. The receiver can tell
    by the id whether it has an event already.
    """
    if (since is None) != parked:
        raise click.UsageError("Give either --since or --parked.")
    repeated = 0

    def show_of(cell: Settings) -> None:
        nonlocal repeated
        with one_sentence(using(cell)):
            repeated += asyncio.run(kept.show(cell, since, _write, redeliver=redeliver))

    failed = failures(environment.cells(set_up()), show_of)
    if redeliver:
        click.echo(f"{repeated:,} events will be sent again.", err=True)
    end(failed)


def _write(event: Event) -> None:
    click.echo(msgspec.json.encode(event))
