"""A demo family, so that the first `curl` returns data."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import jwt
import msgspec

from service.database.pool import connect
from service.database.statement import Statement
from service.demo.page import Child, Family, Title
from service.http.urls import PARENTAL, VIEWING
from service.settings import Settings

ACCOUNT: Final = UUID("d0000000-0000-4000-8000-000000000001")
CHILD: Final = UUID("d0000000-0000-4000-8000-000000000011")
SIBLING: Final = UUID("d0000000-0000-4000-8000-000000000012")
TITLE: Final = UUID("d0000000-0000-4000-8000-000000000021")
LESSON: Final = UUID("d0000000-0000-4000-8000-000000000022")
# Hashes of the password `correct horse` and the PIN 1234, which the README publishes.
PASSWORD_HASH: Final = "$2b$12$YoG4b449C4UoHr36EJjxKubBY3Ies/pqA4UB.DOktrZqaUpQJ4LFW"  # noqa: S105
PIN_HASH: Final = "$2b$12$rGX0FioDJUD2YvEaHnOh7uwrZz.PUug9IYfblgibyharVFCUJ3uKG"


class DemoRow(msgspec.Struct, frozen=True):
    is_demo: bool


LOAD: Final = Statement("demo_load", DemoRow)


def load(settings: Settings) -> bool:
    """Loads the demo family into a database without accounts; False if it has other accounts."""
    return asyncio.run(_load(settings))


async def _load(settings: Settings) -> bool:
    connection = await connect(settings)
    try:
        row = await LOAD.one(
            connection,
            ACCOUNT,
            CHILD,
            SIBLING,
            TITLE,
            LESSON,
            PASSWORD_HASH,
            PIN_HASH,
            datetime.now(UTC),
            timeout=30,
        )
    finally:
        connection.terminate()
    return row.is_demo


def token(secret: str, account_id: UUID, life: timedelta, issuer: str, audience: str) -> str:
    """An access token like the platform's; an empty issuer or audience is left out."""
    now = datetime.now(UTC)
    claims = {"sub": str(account_id), "iat": now, "exp": now + life}
    optional = {"iss": issuer, "aud": audience}
    claims |= {name: value for name, value in optional.items() if value}
    return jwt.encode(claims, secret, algorithm="HS256")


def family(settings: Settings) -> Family:
    """The demo family for the page, with the names that the database has, and a new token."""
    return Family(
        _parents_token(settings),
        "1234",
        "correct horse",
        (Child(CHILD, "Ada"), Child(SIBLING, "Ben")),
        (Title(TITLE, "The Paper Boat", False), Title(LESSON, "How Planets Move", True)),
        settings.credit,
    )


def _parents_token(settings: Settings) -> str:
    week = timedelta(days=7)
    return token(settings.jwt_secret, ACCOUNT, week, settings.jwt_issuer, settings.jwt_audience)


def curls(settings: Settings) -> str:
    """Three shell commands: a heartbeat, the balance, the weekly report."""
    viewing, parental = f"{settings.origin}{VIEWING}", f"{settings.origin}{PARENTAL}"
    bearer = f"-H 'Authorization: Bearer {_parents_token(settings)}'"
    beat = f'{{"profile_id":"{CHILD}","title_id":"{TITLE}","device_id":"tv-1","device_type":"tv"}}'
    return "\n".join(
        (
            f"curl -s {bearer} -H 'Content-Type: application/json' -d '{beat}' {viewing}/heartbeat",
            f"curl -s {bearer} {viewing}/balance/{CHILD}",
            f"curl -s {bearer} {parental}/weekly-report",
        )
    )
