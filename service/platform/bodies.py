"""Accounts, profiles and titles as the platform that owns them sends them, one by one or in bulk.

A member that may be absent keeps what is stored; a new row gets what the tables' defaults say.
"""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.http import lenient_json

# What the PIN hasher can check: 60 characters of bcrypt, at most 2^16 rounds.
BCRYPT: Final = r"^\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}$"

PasswordHash = Annotated[str, Meta(max_length=60, pattern=BCRYPT)]


class AccountBody(msgspec.Struct):
    """An account; without a password hash nobody proves to be the parent who resets a PIN."""

    email: Annotated[str, Meta(min_length=1, max_length=255)]
    password_hash: PasswordHash | UnsetType = UNSET
    subscription_tier: Annotated[str, Meta(max_length=20)] | UnsetType = UNSET
    is_admin: bool | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


class ProfileBody(msgspec.Struct):
    """A profile of an account, which stays that account's; `is_kids` is a child, with limits."""

    account_id: UUID
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    is_kids: bool
    parental_rating: Annotated[str, Meta(max_length=10)] | UnsetType = UNSET


class TitleBody(msgspec.Struct):
    """A title of the catalogue; viewing an educational one may be exempt from the limit."""

    title: Annotated[str, Meta(min_length=1, max_length=500)]
    is_educational: bool
    title_type: Annotated[str, Meta(max_length=20)] | UnsetType = UNSET


ACCOUNT: Final = lenient_json.Body(AccountBody)
PROFILE: Final = lenient_json.Body(ProfileBody)
TITLE: Final = lenient_json.Body(TitleBody)
