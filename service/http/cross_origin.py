"""The rights of pages of other origins in browsers (CORS)."""

from collections.abc import Sequence
from typing import Final

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

METHODS: Final = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Accept",
    "Idempotency-Key",
    "Prefer",
    "X-PIN-Token",
)
RESPONSE_HEADERS: Final = (
    "X-Locked-Until",
    "Retry-After",
    "Link",
    "Location",
    "Preference-Applied",
    "X-Truncated",
)


def middleware(origins: Sequence[str]) -> Middleware:
    """Lets pages of `origins` call the service and read its responses."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_credentials=True,
        allow_methods=METHODS,
        allow_headers=REQUEST_HEADERS,
        expose_headers=RESPONSE_HEADERS,
    )
