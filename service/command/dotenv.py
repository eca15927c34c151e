"""Reads `.env` files."""

import re
from pathlib import Path
from typing import Final

from service.settings import SettingsError

QUOTED: Final = re.compile(r"""(["'])(.*?)\1(?:\s+#.*)?""")


def dotenv(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of a `.env` file; empty if there is no file.

    A line can start with `export `, and a value can be quoted. `#` starts a comment at the start
    of a line and after a space. Raises SettingsError with every other line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError([f"{path} must be a file of text that can be read."]) from error
    pairs: dict[str, str] = {}
    errors: list[str] = []
    for number, line in enumerate(lines, 1):
        name, equals, value = line.partition("=")
        name = name.strip().removeprefix("export ").strip()
        quoted = QUOTED.fullmatch(value.strip())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals or not name.isidentifier():
            errors.append(f"{path}, line {number}, must be NAME=value.")
        elif quoted:
            pairs[name] = quoted[2]
        elif value.strip().startswith(("'", '"')):
            errors.append(f"{path}, line {number}, must close its quotes.")
        else:
            pairs[name] = re.sub(r"\s#.*", "", value).strip()
    if errors:
        raise SettingsError(errors)
    return pairs
