"""The metrics say how many events wait, for what, and for how long."""

from uuid import uuid4

from service.database.driver import Connection
from service.events.backlog import Backlog
from tests.conftest import Running
from tests.events.receiving import add_events
from tests.family import Family

STATES = (
    "update viewing_events set delivery_id = (select id from viewing_deliveries) "
    "where position <= 3",
    "update viewing_events set parked_at = now() where position = 4",
    "update viewing_events set delivered_at = now() where position = 5",
    "update viewing_events set occurred_at = now() - interval '1 day' where position in (4, 5)",
    "update viewing_events set occurred_at = now() - interval '1 hour' where position = 6",
)


async def test_waiting_events_are_counted_with_the_age_of_the_oldest(
    running: Running, connection: Connection, family: Family
) -> None:
    backlog = Backlog(running.context.pool, has_webhook=True)
    await backlog.count()
    nothing = {"unnumbered": 0, "unsent": 0, "sending": 0, "parked": 0}
    assert (backlog.waiting, backlog.oldest_seconds) == (nothing, 0)
    await connection.execute("update viewing_event_feed set webhook_from = 0")
    await connection.execute(
        "insert into viewing_deliveries (id, created_at, attempts, due_at) "
        "values ($1, now(), 0, now())",
        uuid4(),
    )
    await add_events(connection, family.account, [family.child], range(10))
    for change in STATES:
        await connection.execute(change)
    await backlog.count()
    assert backlog.waiting == {"unnumbered": 0, "unsent": 5, "sending": 3, "parked": 1}
    assert 3_600 <= backlog.oldest_seconds < 3_700


async def test_without_a_webhook_no_event_waits_for_it(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update viewing_event_feed set webhook_from = 0")
    await add_events(connection, family.account, [family.child], range(10))
    backlog = Backlog(running.context.pool, has_webhook=False)
    await backlog.count()
    assert backlog.waiting["unsent"] == 0
    assert backlog.oldest_seconds == 0
