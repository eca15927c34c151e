"""Values as the cells of a CSV file that people open in a spreadsheet."""

from typing import Final

# A spreadsheet evaluates a cell that starts with one of these (OWASP, CSV injection); East Asian
# versions also take the full-width signs.
FORMULA: Final = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  ambiguous on purpose


def cell(value: object) -> object:
    """A value as a CSV cell; a leading quote prevents that a spreadsheet evaluates text."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() if value.startswith(FORMULA):
            return f"'{value}"
        case dict() | list():
            return _words(value)
    return value


def _words(value: object) -> str:
    """Days, limits and windows in words: `mon: 60, sun: unlimited`."""
    match value:
        case None:
            return "unlimited"  # in the limits by day; nothing else contains a null
        case dict():
            return ", ".join(f"{name}: {_words(member)}" for name, member in value.items())
        case [dict(), *_]:
            return "; ".join(map(_words, value))
        case list():
            return " ".join(map(_words, value))
    return str(value)
