"""The version of this service; `unknown` in a checkout that is not installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("viewing-time")
except PackageNotFoundError:
    VERSION = "unknown"
