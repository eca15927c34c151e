"""What a client would rather have: a media type, a language (RFC 9110, section 12.5)."""

import re
from collections.abc import Collection
from typing import Final

QUALITY: Final = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII)
MAX_TAG_LENGTH: Final = 35  # characters; what RFC 5646, section 4.4.1, tells to expect


def prefers(accept: str, media_type: str, default: str) -> bool:
    """Whether an `Accept` header ranks `media_type` above `default`; a tie is the default's."""
    qualities = _qualities(accept)
    return _media_quality(qualities, media_type) > _media_quality(qualities, default)


def language(accept_language: str, known: Collection[str], default: str) -> str:
    """The best of the `known` tags for an `Accept-Language` header, else the default.

    A range that is not known is cut from its end until one is (RFC 4647, section 3.4): `de-AT`
    gets `de`.
    """
    qualities = _qualities(accept_language)
    wanted = [tag for tag, weight in qualities.items() if weight and len(tag) <= MAX_TAG_LENGTH]
    for tag in sorted(wanted, key=lambda tag: -qualities[tag]):
        while tag:
            if tag in known:
                return tag
            tag = tag.rpartition("-")[0]
    return default


def _media_quality(qualities: dict[str, float], media_type: str) -> float:
    """The most specific range that covers the media type decides."""
    for covering in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if covering in qualities:
            return qualities[covering]
    return 0.0


def _qualities(header: str) -> dict[str, float]:
    """Every member of a header in lower case, with its weight; one that cannot be read is 0."""
    found: dict[str, float] = {}
    for member in header.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        if name:
            found[name] = max(_quality(parameters), found.get(name, 0.0))
    return found


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            weight = QUALITY.fullmatch(parameter)
            return float(weight[1]) if weight else 0.0
    return 1.0
