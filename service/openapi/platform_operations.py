"""The operations of the systems that own accounts, profiles and titles."""

from typing import Final

from service import errors
from service.openapi.operation import EVERYWHERE, Operation, admin
from service.openapi.parameters import MODE, REQUEST_KEY
from service.platform import accounts, bodies, erasure, import_merge, profiles, titles

IN_BATCHES: Final = (
    "With 5,000 or more sessions the response is 202, and the deletion continues in the background,"
    " also after a restart. The same request returns 202 until it is done, then 404."
)
# Examples of rules that only the platform's database has.
REFERRED: Final = errors.still_referred_to("watchlists")
RULE: Final = errors.value_needed("country", "users")


def deletion(not_found: errors.Sentence, note: str = "") -> Operation:
    return admin(sentences=[errors.DELETION_ACCEPTED, not_found, REFERRED], note=note + IN_BATCHES)


# By the name of the handler, as in `operations`.
RECORDS: Final[dict[str, Operation]] = {
    "account_put": admin(
        accounts.Account,
        bodies.AccountBody,
        [errors.EMAIL_TAKEN, errors.ACCOUNT_BEING_DELETED, RULE],
        note="A deactivated account is rejected from its next request on.",
    ),
    "account_delete": deletion(errors.ACCOUNT_NOT_FOUND),
    "profile_put": admin(
        profiles.Profile,
        bodies.ProfileBody,
        [errors.OWNER_NOT_FOUND, errors.PROFILE_TAKEN, errors.PROFILE_BEING_DELETED, RULE],
        note=EVERYWHERE,
    ),
    "profile_delete": deletion(errors.PROFILE_NOT_FOUND),
    "viewing_data_erase": admin(
        erasure.Erased,
        sentences=[errors.PROFILE_NOT_FOUND, REFERRED],
        note=f"A second request deletes nothing. {EVERYWHERE}",
    ),
    "title_put": admin(
        titles.Title,
        bodies.TitleBody,
        [errors.TITLE_BEING_DELETED, RULE],
        note="The change applies to the next heartbeat on every instance.",
    ),
    "title_delete": deletion(
        errors.TITLE_NOT_FOUND, "Minutes that were counted stay in the balances. "
    ),
    "import_records": admin(
        import_merge.Outcome,
        sentences=[RULE],
        parameters=[MODE, REQUEST_KEY],
        note="Up to 100 MB of lines, each a JSON object of at most 1 MB: `type` (`account`,"
        " `profile` or `title`), `id`, and the members of its PUT, each of at most 64 KiB."
        " Importing the same lines again changes nothing. By default one wrong line rejects all of"
        " them; with `mode=best` the others are imported.",
        also={422: import_merge.Outcome},
        lines=[bodies.AccountBody, bodies.ProfileBody, bodies.TitleBody],
    ),
}
