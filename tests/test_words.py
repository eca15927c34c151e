"""Sentences keep the rules of CONTRIBUTING.md, "Words", as far as a pattern can check them."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.conftest import ROOT

CODE: Final = ("service", "sql", "migrations", "tests", "bench")
PAGES: Final = ("README.md", "CONTRIBUTING.md", "docs/*.md", "ops/*.md")
ENDS: Final = r"(?=\s*(?:[.;:,)]|$))"


class Pattern(NamedTuple):
    """A pattern without a legitimate use, a text that it rejects, and the plainer words."""

    regex: str
    rejected: str
    plainer: str


PATTERNS: Final = (
    Pattern(r"^(?:What|Whoever|Whatever|Such)\b(?!.*\?)", "What a PIN carries", "a noun or a verb"),
    Pattern(r"\bthat (?:is|are) none\b", "a hash that is none", "that is not one"),
    Pattern(
        r"\b(?:is|are|was|be) no (?:UUID|JSON|CSV|JWK|number|integer|string|hash|heartbeat)\b",
        "a claim that is no number",
        "is not a",
    ),
    Pattern(r"\bheard of\b", "every change is heard of", "received"),
    Pattern(r"\bsent (?:away|off)\b", "heartbeats sent away", "rejected, or started"),
    Pattern(r"\bparted with\b", "a client that is parted with", "disconnected"),
    Pattern(r"\basked for again\b", "not asked for again", "requested again, or retried"),
    Pattern(r"\b(?:is|are|was|were) told\b", "the client is told", "is notified, or receives"),
    Pattern(rf"\bso (?:many|much|long|often|few){ENDS}", "once in so long.", "the number"),
    Pattern(r"\bvouch(?:es|ed)? for\b", "a key vouches for it", "verifies"),
    Pattern(r"\bwhatever (?:it|he|they) (?:is|are)\b", "whatever it is", "any, or of any kind"),
    Pattern(r"\blets? (?:nobody|no \w+) (?:in|out)\b", "lets nobody in", "rejects, or delays"),
    Pattern(r"\bnobody we know\b", "nobody we know", "unknown"),
    Pattern(r"\bgives? way\b", "a hash gives way", "has a lower priority"),
)


def test_sentences_use_plain_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words!r}: write {pattern.plainer}"
        for path, first, text in texts()
        for pattern in PATTERNS
        for line, words in matches(pattern, first, text)
    ]
    assert not found, "\n".join(["Read CONTRIBUTING.md, Words:", *found])


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.rejected)
def test_each_pattern_rejects_its_example(pattern: Pattern) -> None:
    assert [*matches(pattern, 1, pattern.rejected)]
    assert not [*matches(pattern, 1, pattern.plainer)]


def matches(pattern: Pattern, first: int, text: str) -> Iterator[tuple[int, str]]:
    """The line and the words of each match; `first` is the line of the text."""
    spaced = pattern.regex.replace(" ", r"\s+")
    for match in re.finditer(spaced, text, re.IGNORECASE if pattern.regex[0] != "^" else 0):
        yield first + text[: match.start()].count("\n"), match[0]


def texts() -> Iterator[tuple[Path, int, str]]:
    """Every docstring, comment, header and page: its file, its first line, its words."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from ((path, *found) for found in of_python(path.read_text(encoding="utf-8")))
        for path in sorted((ROOT / folder).rglob("*.sql")):
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            comments = {n: line for n, line in enumerate(lines, 1) if line.startswith("--")}
            yield from ((path, *found) for found in blocks(comments))
    for name in PAGES:
        for path in sorted(ROOT.glob(name)):
            yield path, 1, of_page(path.read_text(encoding="utf-8"))


def of_python(code: str) -> Iterator[tuple[int, str]]:
    """The docstrings of a module, its classes and functions, then its blocks of comments."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    yield from blocks({t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT})


def blocks(comments: dict[int, str]) -> Iterator[tuple[int, str]]:
    """The text of comments on successive lines, without their marks."""
    for _, block in groupby(enumerate(comments), lambda item: item[1] - item[0]):
        lines = [line for _, line in block]
        yield lines[0], "\n".join(comments[line].lstrip("-# ") for line in lines)


def of_page(text: str) -> str:
    """A page without code, quotations and the examples of worse words; lines keep their numbers."""
    removed = re.compile(
        r"^```.*?^```$|`[^`\n]*`|\"[^\"\n]*\"|^\| instead of \|.*?^$", re.DOTALL | re.MULTILINE
    )
    return removed.sub(lambda match: "\n" * match[0].count("\n"), text)
