"""docs/limits.md names every limit of the service, with the value that is in force."""

import ast
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest

from service.settings import Settings

ROOT: Final = Path(__file__).parent.parent
SERVICE: Final = ROOT / "service"
ROW: Final = re.compile(r"^\| (?P<limit>[^|]+) \| `(?P<where>[^`|]+)` \| (?P<value>[^|]+) \|", re.M)
UNITS: Final = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024**2}
CONSTANT: Final = re.compile(r"^(MAX|MIN)_|(^|_)(SECONDS|MAX|MIN)$")
SETTING: Final = re.compile(r"_(seconds|max|size|connections|workers|days|hours)$")

LISTED: Final = {
    row["where"]: row["value"].strip()
    for row in ROW.finditer((ROOT / "docs" / "limits.md").read_text())
}


def numbers(cell: str) -> tuple[float, ...]:
    """The values of a cell such as `64 KiB` or `1, 2, 4 s`."""
    found = re.fullmatch(r"(\d[\d,.]*(?:, \d[\d,.]*)*) ?(s|KiB|MiB|)", cell)
    assert found, f"{cell!r} is not a value with a unit"
    return tuple(float(each.replace(",", "")) * UNITS[found[2]] for each in found[1].split(", "))


def assigned(path: Path) -> dict[str, ast.expr]:
    """The module-level constants of a file; read, not imported, because of the extra `otel`."""
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.AnnAssign)]
    return {
        node.target.id: node.value
        for node in nodes
        if isinstance(node.target, ast.Name) and node.value is not None
    }


def constants() -> Iterator[str]:
    """Each module-level constant that is a limit, as `folder/file.NAME`."""
    for path in sorted(SERVICE.rglob("*.py")):
        module = path.relative_to(SERVICE).with_suffix("").as_posix()
        for name, value in assigned(path).items():
            # A tuple holds the buckets of a histogram or the steps of a scale.
            if CONSTANT.search(name) and not isinstance(value, ast.Tuple):
                yield f"{module}.{name}"


def value_of(where: str) -> object:
    """The constant `folder/file.NAME`, or the default of a setting."""
    path, _, name = where.rpartition(".")
    if not path:
        fields = {field.name: field.default for field in msgspec.structs.fields(Settings)}
        return fields[name.lower()]
    expression = ast.Expression(assigned(SERVICE / f"{path}.py")[name])
    return eval(compile(expression, path, "eval"), {"timedelta": timedelta})


@pytest.mark.parametrize("where", LISTED)
def test_listed_value_is_the_value_in_force(where: str) -> None:
    value = value_of(where)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    assert numbers(LISTED[where]) == (value if isinstance(value, tuple) else (value,))


def test_every_constant_that_is_a_limit_is_listed() -> None:
    assert [where for where in constants() if where not in LISTED] == []


def test_every_setting_that_is_a_limit_is_listed() -> None:
    names = [name.upper() for name in Settings.__struct_fields__ if SETTING.search(name)]
    assert [name for name in names if name not in LISTED] == []
