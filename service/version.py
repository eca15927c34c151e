"""The version of this service."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _version() -> str:
    """The installed distribution's version; `unknown` in a checkout that is not installed."""
    try:
        return version("viewing-time")
    except PackageNotFoundError:
        return "unknown"


VERSION: Final = _version()
