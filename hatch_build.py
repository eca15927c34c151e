"""Leaves comments of statements and migrations out of the wheel: they are half of its size.

The comments are for readers of the source. The rest of a file is the same.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS: Final = ("sql", "migrations")
# Not those for yoyo, and not indented ones: they can be in functions, which the database stores.
COMMENT: Final = re.compile(r"^--(?! (?:depends|transactional):).*\n", re.M)


class Uncommented(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files to the wheel; an editable installation reads those of the checkout."""
        if version == "editable":
            return
        self._folder = TemporaryDirectory()
        for folder in FOLDERS:
            for path in sorted(Path(self.root, folder).glob("*.sql")):
                copy = Path(self._folder.name, path.name)
                text = path.read_text("utf-8")
                copy.write_text(COMMENT.sub("", text) or text, "utf-8")
                build_data["force_include"][str(copy)] = f"service/{folder}/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()
