"""Sends a batch to WEBHOOK_URL and judges the answer by its status.

The receiver is not trusted: redirects are not followed, since one could lead into our own network,
its cookies are not kept, and little of its answer is read.
"""

import asyncio
import ssl
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from service.events.deliveries import Delivery
from service.events.event import Event
from service.events.signing import signatures
from service.setting_values import webhook_key
from service.settings import Settings
from service.version import VERSION

if TYPE_CHECKING:
    import httpx

Outcome = Literal["delivered", "refused", "timed_out", "lost", "unreachable"]

CONNECT_SECONDS: Final = 5.0
SEND_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_RETRY_AFTER_SECONDS: Final = 3_600.0


class Answer(msgspec.Struct, frozen=True):
    """The outcome of an attempt; `reason` is for the log."""

    outcome: Outcome
    reason: str = ""
    retry_after: float = 0.0


class Batch(msgspec.Struct, frozen=True):
    events: list[Event]


class Message(msgspec.Struct, frozen=True):
    """The body: the same in each attempt."""

    type: str
    timestamp: datetime
    data: Batch


class Receiver:
    """A client of WEBHOOK_URL; the environment's proxies and the system's certificates apply."""

    def __init__(self, settings: Settings, client: "httpx.AsyncClient | None") -> None:
        secrets = (settings.webhook_secret, settings.webhook_secret_previous)
        self._keys = [webhook_key(secret) for secret in secrets if secret]
        address = urlsplit(settings.webhook_url)
        self._auth = (unquote(address.username or ""), unquote(address.password or ""))
        # Without the password, because the client logs the URL.
        self._url = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
        self._client = client

    @classmethod
    async def open(cls, settings: Settings, connections: int) -> "Receiver":
        """A receiver with at most `connections` connections; sends nothing yet."""
        import httpx  # takes 0.2 s to import, and only services with a webhook need it

        context = await asyncio.to_thread(ssl.create_default_context)  # takes 50 ms
        try:
            client = httpx.AsyncClient(
                verify=context,
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=connections),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                headers={
                    "Accept-Encoding": "identity",
                    "Content-Type": "application/json",
                    "User-Agent": f"viewing-time/{VERSION}",
                },
            )
        except (httpx.InvalidURL, ImportError, ValueError):
            client = None  # a proxy that httpx cannot use; its address can contain a password
        return cls(settings, client)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def send(self, delivery: Delivery) -> Answer:
        """Sends a batch, within SEND_SECONDS."""
        import httpx

        if self._client is None:
            return Answer("unreachable", "a proxy of the environment cannot be used")
        body = _body(delivery)
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(SEND_SECONDS):
                async with self._client.stream(
                    "POST",
                    self._url,
                    content=body,
                    headers=self._headers(delivery, body),
                    auth=self._auth if any(self._auth) else None,
                ) as response:
                    await _skim(response)
        except TimeoutError:
            problem = Answer("timed_out", f"no answer in {SEND_SECONDS:g} seconds")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            problem = Answer("unreachable", f"{type(error).__name__}: {error}")
        except (httpx.HTTPError, ValueError) as error:
            problem = Answer("lost", type(error).__name__)
        except httpx.InvalidURL:
            problem = Answer("unreachable", "InvalidURL")
        return problem if response is None else _judged(response)

    def _headers(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        webhook_id, timestamp = str(delivery.id), str(int(delivery.claimed_at.timestamp()))
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signatures(self._keys, webhook_id, timestamp, body),
        }


def _body(delivery: Delivery) -> bytes:
    return msgspec.json.encode(Message("events", delivery.created_at, Batch(delivery.events)))


async def _skim(response: "httpx.Response") -> None:
    """Reads a short answer, so that the connection can be used again; drops a long one."""
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            return
        await asyncio.sleep(0)  # one read can return ten thousand chunks


def _judged(response: "httpx.Response") -> Answer:
    """The status decides, whatever follows it."""
    if response.is_success:
        return Answer("delivered")
    return Answer("refused", f"status {response.status_code}", _retry_after(response))


def _retry_after(response: "httpx.Response") -> float:
    """The seconds in `Retry-After`; a date counts from the answer's own `Date`."""
    text = response.headers.get("retry-after", "")
    seconds = 0.0
    with suppress(ValueError, TypeError, OverflowError):
        if text.isascii() and text.isdigit():
            seconds = float(text)
        else:
            date = parsedate_to_datetime(response.headers.get("date", ""))
            seconds = (parsedate_to_datetime(text) - date).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
