"""All that a handler may reach; built once by the application's lifespan."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from service.config_cache import ConfigCache
from service.database import Pool
from service.heartbeat_writer import HeartbeatWriter
from service.metrics import Metrics
from service.pin_hasher import PinHasher
from service.settings import Settings


class Verified(msgspec.Struct, frozen=True):
    """An access token whose signature was checked: whose it is, and until when (epoch seconds)."""

    account_id: UUID
    expires: float


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one running service; `now` is the only clock, aware and in UTC."""

    settings: Settings
    pool: Pool
    configurations: ConfigCache
    writer: HeartbeatWriter
    pins: PinHasher
    tokens: dict[str, Verified]
    metrics: Metrics
    now: Callable[[], datetime]
