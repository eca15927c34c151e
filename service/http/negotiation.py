"""The media type and the language that a client prefers (RFC 9110, section 12.5)."""

import re
from collections.abc import Sequence
from typing import Final

QUALITY: Final = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


def prefers(accept: str, media_type: str, default: str) -> bool:
    """Whether an `Accept` header ranks `media_type` above `default`; on a tie it does not."""
    qualities: dict[str, float] = {}
    for member in accept.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        qualities[name] = max(_quality(parameters), qualities.get(name, 0.0))
    return _media_quality(qualities, media_type) > _media_quality(qualities, default)


def _media_quality(qualities: dict[str, float], media_type: str) -> float:
    """The quality of the most specific range that covers the media type."""
    ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((qualities[name] for name in ranges if name in qualities), 0.0)


def _quality(parameters: list[str]) -> float:
    """The weight of a range: 1 if it has none, 0 if it is malformed."""
    for parameter in parameters:
        if parameter.startswith("q="):
            weight = QUALITY.fullmatch(parameter)
            return float(weight[1]) if weight else 0.0
    return 1.0


def preferred_language(accept_language: str, languages: Sequence[str]) -> str:
    """The language that an `Accept-Language` header prefers; the first one if it names none.

    A range that is longer than a language fits it (lookup, RFC 4647, section 3.4): `de-AT` finds
    `de`. Of equal ranges the first is preferred.
    """
    best, quality = languages[0], 0.0
    for member in accept_language.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        fitting = [each for each in languages if name == each or name.startswith(f"{each}-")]
        found = languages[0] if name == "*" else max(fitting, key=len, default=None)
        if found is not None and _quality(parameters) > quality:
            best, quality = found, _quality(parameters)
    return best
