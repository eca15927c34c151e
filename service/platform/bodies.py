"""Accounts, profiles and titles as the platform sends them, in a PUT or as a line of an import.

An absent member keeps its stored value; for a new row it gets the default of the table.
"""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.http import lenient_json
from service.http.fields import AccountId, doc

# Hashes that the PIN hasher can check: 60 characters of bcrypt, at most 2^16 rounds.
BCRYPT: Final = r"^\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}$"

PasswordHash = Annotated[str, Meta(max_length=60, pattern=BCRYPT)]

EMAIL: Final = doc("The parent's address, unique; the service never writes to it.", "a@example.org")
TIER: Final = doc("The subscription tier, in the platform's words.", "basic")
IS_ADMIN: Final = doc("The account may use the endpoints for administrators.", False)
IS_ACTIVE: Final = doc("The account may use the service.", True)
NAME: Final = doc("The name that the parent sees.", "Ada")
IS_KIDS: Final = doc("A child's profile, which can have limits; false for an adult's.", True)
RATING: Final = doc("The parental rating, in the platform's words.", "TV-G")
TITLE_NAME: Final = doc("The title's name.", "Cartoon")
IS_EDUCATIONAL: Final = doc("Viewing it can be exempt from the limit.", False)
TITLE_TYPE: Final = doc("The type of title, in the platform's words.", "movie")


class AccountBody(msgspec.Struct):
    """An account. Without a password hash its PIN cannot be reset."""

    email: Annotated[str, Meta(min_length=1, max_length=255), EMAIL]
    password_hash: Annotated[
        PasswordHash | UnsetType,
        doc(
            "bcrypt hash of at most 2^16 rounds; its password is needed to reset the PIN.",
            "$2b$12$YoG4b449C4UoHr36EJjxKubBY3Ies/pqA4UB.DOktrZqaUpQJ4LFW",
        ),
    ] = UNSET
    subscription_tier: Annotated[Annotated[str, Meta(max_length=20)] | UnsetType, TIER] = UNSET
    is_admin: Annotated[bool | UnsetType, IS_ADMIN] = UNSET
    is_active: Annotated[bool | UnsetType, IS_ACTIVE] = UNSET


class ProfileBody(msgspec.Struct):
    """A profile of an account; with `is_kids` it is a child's, whose viewing can be limited."""

    account_id: AccountId
    name: Annotated[str, Meta(min_length=1, max_length=100), NAME]
    is_kids: Annotated[bool, IS_KIDS]
    parental_rating: Annotated[Annotated[str, Meta(max_length=10)] | UnsetType, RATING] = UNSET


class TitleBody(msgspec.Struct):
    """A title of the catalogue; viewing an educational one can be exempt from the limit."""

    title: Annotated[str, Meta(min_length=1, max_length=500), TITLE_NAME]
    is_educational: Annotated[bool, IS_EDUCATIONAL]
    title_type: Annotated[Annotated[str, Meta(max_length=20)] | UnsetType, TITLE_TYPE] = UNSET


ACCOUNT: Final = lenient_json.Body(AccountBody)
PROFILE: Final = lenient_json.Body(ProfileBody)
TITLE: Final = lenient_json.Body(TitleBody)
