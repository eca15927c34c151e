"""The parts of the service that handlers use; built once by the application's lifespan."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from service.credentials.keys import Keys
from service.credentials.pin_hasher import PinHasher
from service.credentials.pin_turns import Turns
from service.credentials.tokens import Tokens
from service.database.driver import Pool
from service.database.reads import Reads
from service.deadlines import Deadlines
from service.events.stream import Streams
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor
from service.settings import Settings
from service.viewing.config_cache import ConfigCache
from service.viewing.deletion import Deletions
from service.viewing.heartbeat_writer import HeartbeatWriter

if TYPE_CHECKING:
    from service.operators.readiness import ReadinessWatch


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one running service; `now` is the only clock, aware and in UTC."""

    settings: Settings
    pool: Pool
    reads: Reads
    configurations: ConfigCache
    writer: HeartbeatWriter
    pins: PinHasher
    pin_turns: Turns
    keys: Keys
    tokens: Tokens
    deadlines: Deadlines
    deletions: Deletions
    streams: Streams
    metrics: Metrics
    supervisor: Supervisor
    readiness: "ReadinessWatch"
    now: Callable[[], datetime]
