"""Packs statements and migrations small: without their comments, each kind in one file.

The comments, which are for readers of the source, and the entries of many files in an archive are
half of their size. Statements are packed without their indentation and the comments in it too; the
functions of migrations keep both, because readers find them in the database.
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Not those for yoyo, and not indented ones: they can be in functions, which the database stores.
COMMENT: Final = re.compile(r"^--(?! (?:depends|transactional):).*\n", re.M)
INDENTATION: Final = re.compile(r"^ +", re.M)


class Packed(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files to the wheel; an editable installation reads those of the checkout."""
        if version == "editable":
            return
        self._folder = TemporaryDirectory()
        included = build_data["force_include"]
        for name in ("sql", "migrations"):
            packed = Path(self._folder.name, f"{name}.json")
            texts = _texts(Path(self.root, name))
            if name == "sql":
                texts = {
                    each: COMMENT.sub("", INDENTATION.sub("", text)) for each, text in texts.items()
                }
                # Statements that begin alike are neighbours: that saves a kilobyte.
                texts = dict(sorted(texts.items(), key=lambda item: item[1]))
            packed.write_text(json.dumps(texts), "utf-8")
            included[str(packed)] = f"service/{packed.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()


def _texts(folder: Path) -> dict[str, str]:
    """The files of a folder without comments; a file of nothing else stays as it is."""
    texts = {
        path.relative_to(folder).with_suffix("").as_posix(): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.sql"))
    }
    return {name: COMMENT.sub("", text) or text for name, text in texts.items()}
