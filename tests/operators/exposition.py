"""Reads the samples of /metrics."""

import re
from typing import NamedTuple

import httpx

SAMPLE = re.compile(r'(\w+)(?:\{((?:\w+="[^"\\\n]*",?)*)\})? (\S+)')
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Sample(NamedTuple):
    name: str
    labels: frozenset[tuple[str, str]]


Scrape = dict[Sample, float]


def parse(text: str) -> Scrape:
    """The samples of an exposition; AssertionError for a malformed line."""
    found: Scrape = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            sample = Sample(match[1], frozenset(LABEL.findall(match[2] or "")))
            assert sample not in found, line
            found[sample] = float(match[3])
    return found


def value(scraped: Scrape, name: str, **labels: str) -> float:
    """One sample; 0 if it is missing."""
    return scraped.get(Sample(f"viewing_time_{name}", frozenset(labels.items())), 0.0)


async def scrape(client: httpx.AsyncClient, url: str = "/metrics") -> Scrape:
    """The current samples of the service."""
    answer = await client.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)
