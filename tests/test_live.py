"""The live page: it runs nothing but its own script, and asks only its own service."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from service.admin import Counts
from service.live import PAGE
from tests.conftest import Running


async def test_the_page_lets_only_its_own_script_run(running: Running) -> None:
    answer = await running.client.get("/admin/live")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    [script] = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")


@pytest.mark.parametrize(
    "outside", ["src=", "href=", "//cdn", "localStorage", "cookie", "innerHTML"]
)
def test_the_page_needs_nothing_from_outside_and_keeps_nothing(outside: str) -> None:
    assert outside not in PAGE.replace("http://www.w3.org/2000/svg", "")


def test_the_page_reads_members_that_exist() -> None:
    """Of the answer to `GET /api/v1/admin/metrics`."""
    counted = Counts.__annotations__
    used = set(re.findall(r"\b(?:a|b|body|before)\.(\w+)\.(\w+)", PAGE))
    assert len(used) > 8
    for group, member in used:
        assert member in counted[group].__struct_fields__, f"{group}.{member}"
