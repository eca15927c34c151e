"""The refusal codes of the heartbeat statement in SQL and in Python."""

import re

from service.viewing.heartbeat_statement import DAY_UNKNOWN, RECORD_HEARTBEATS, REFUSALS

HEADER, BODY = re.split(r"^with ", RECORD_HEARTBEATS.text, maxsplit=1, flags=re.MULTILINE)


def test_refusal_codes_of_the_statement_are_those_of_the_module() -> None:
    cases = [text.rpartition("case\n")[2] for text in re.split(r"end\s+as\s+refusal\b", BODY)[:-1]]
    assert len(cases) == 2
    returned = {int(code) for case in cases for code in re.findall(r"(?:then|else)\s+(\d+)", case)}
    assert returned == {0, *REFUSALS, DAY_UNKNOWN}


def test_refusal_codes_are_described_in_the_header() -> None:
    [description] = re.findall(r"row: refusals .*?(?=-- row:)", HEADER, flags=re.DOTALL)
    described = {int(code) for code in re.findall(r"(\d+) [a-z]", description)}
    assert described == {0, *REFUSALS, DAY_UNKNOWN}
