"""The demo: a page with a television and a parent's phone, served by `viewing-time run` only."""

from typing import Final

PATH: Final = "/demo"
