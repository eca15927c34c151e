"""All that a handler may reach; built once by the application's lifespan."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from service.config_cache import ConfigCache
from service.database import Pool
from service.deadlines import Deadlines
from service.deletion import Deletions
from service.heartbeat_writer import HeartbeatWriter
from service.keys import Keys, Verified
from service.metrics import Metrics
from service.pin_hasher import PinHasher
from service.pin_turns import Turns
from service.readiness import ReadinessWatch
from service.settings import Settings
from service.supervision import Supervisor


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one running service; `now` is the only clock, aware and in UTC."""

    settings: Settings
    pool: Pool
    configurations: ConfigCache
    writer: HeartbeatWriter
    pins: PinHasher
    pin_turns: Turns
    keys: Keys
    tokens: dict[str, Verified]
    deadlines: Deadlines
    deletions: Deletions
    metrics: Metrics
    supervisor: Supervisor
    readiness: ReadinessWatch
    now: Callable[[], datetime]
