"""The packages that an installation contains: their licences and the bill of materials."""

import json
import re
from importlib.metadata import distribution
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.test_delivery import locked

BILL: Final[dict[str, Any]] = json.loads((ROOT / "sbom.cdx.json").read_text())
ROW: Final = re.compile(r"^\| ([a-z0-9-]+) \| ([^|]+) \| (always|`\w+`) \|$", re.M)
ROWS: Final = ROW.findall((ROOT / "docs" / "dependencies.md").read_text())
LISTED: Final = {name: licence for name, licence, _ in ROWS}
# Each allows to distribute the service under Apache-2.0 together with the unchanged package.
ALLOWED: Final = {
    *("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "PSF-2.0"),
    *("LGPL-3.0-only", "MPL-2.0"),
}
# The licences that packages without an expression of SPDX declare.
DECLARED: Final = {
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def installed(*extras: str) -> set[str]:
    """The names of the packages that an installation of the service with `extras` needs here."""
    found: set[str] = set()
    waiting = [("viewing-time", frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        found.add(canonicalize_name(name))
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted)):
                step = (needed.name, frozenset(needed.extras))
                if step not in seen:
                    seen.add(step)
                    waiting.append(step)
    return found - {"viewing-time"}


def licence(name: str) -> str:
    """The licence of an installed package, as an expression of SPDX where it has one."""
    metadata = distribution(name).metadata
    for field in ("License-Expression", "License"):
        if field in metadata and "\n" not in (text := metadata[field]):
            return DECLARED.get(text, text)
    classifiers = [each for each in metadata.get_all("Classifier", []) if "License ::" in each]
    return " AND ".join(DECLARED[each.rpartition(" :: ")[2]] for each in classifiers)


@pytest.mark.parametrize("name", sorted(installed("embedded", "otel", "zstd")))
def test_licence_of_every_package_is_allowed_and_listed(name: str) -> None:
    found = licence(name)
    assert LISTED.get(name) == found
    assert set(re.split(r" (?:AND|OR) ", found.replace("(", "").replace(")", ""))) <= ALLOWED


def test_exactly_the_locked_packages_have_a_listed_licence() -> None:
    assert {name for name, _, extra in ROWS if extra == "always"} == locked().keys()


def test_bill_of_materials_contains_the_locked_packages() -> None:
    """`make sbom` has validated it."""
    assert (BILL["bomFormat"], BILL["specVersion"]) == ("CycloneDX", "1.6")
    assert BILL["metadata"]["component"]["name"] == "viewing-time"
    versions = {canonicalize_name(each["name"]): each["version"] for each in BILL["components"]}
    assert versions == locked()
    for name, component in zip(versions, BILL["components"], strict=True):
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"]


def test_bill_of_materials_names_no_file_or_package_index_of_the_machine_that_made_it() -> None:
    assert not re.search(r"file:|/home/|/root/|/tmp/|pypi\.org", json.dumps(BILL))
