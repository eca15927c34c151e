"""CELLS_FILE gives each cell its settings; every mistake in it is one sentence."""

from pathlib import Path

import pytest

from service.cells_file import cells
from service.settings import Settings, SettingsError, read

SECRET = "s" * 32
URL = "postgresql://viewing:hidden@db-1.example/platform"


def settings(folder: Path, text: str, **environment: str) -> Settings:
    (folder / "cells.toml").write_text(text)
    file = {"CELLS_FILE": str(folder / "cells.toml"), "JWT_SECRET": SECRET}
    return read({**file, **environment})


def refused(folder: Path, text: str, **environment: str) -> str:
    with pytest.raises(SettingsError) as refusal:
        cells(settings(folder, text, **environment))
    assert "hidden" not in str(refusal.value)
    return str(refusal.value)


def test_without_a_file_there_is_one_cell() -> None:
    one = read({"DATABASE_URL": URL, "JWT_SECRET": SECRET})
    assert cells(one) == (one,)
    assert (one.cell, one.database_schema) == ("", "")


def test_each_cell_has_its_settings_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = f"""
        [[cell]]
        name = "b"
        schema = "viewing_b"
        weight = 3
        [[cell]]
        name = "a"
        url = "{URL}-2"
        direct_url = "{URL}-3"
        [[cell]]
        name = "c"
        url = "{URL}-4"
        read_url = "{URL}-5"
    """
    shared = {"DATABASE_URL": URL, "DATABASE_DIRECT_URL": URL, "DATABASE_READ_URL": f"{URL}-6"}
    b, a, c = cells(settings(tmp_path, text, **shared))
    reads = [cell.database_read_url for cell in (b, a, c)]
    assert reads == [f"{URL}-6", "", f"{URL}-5"]
    assert (b.cell, b.cell_weight, b.database_schema) == ("b", 3, "viewing_b")
    assert (b.database_url, b.database_direct_url) == (URL, URL)
    assert (a.cell, a.cell_weight, a.database_schema) == ("a", 1, "")
    assert (a.database_url, a.database_direct_url) == (f"{URL}-2", f"{URL}-3")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Object missing required field `cell`"),
        ("cell = []", "length >= 1"),
        ("[[cell]]\nname = 'a", "CELLS_FILE must be TOML"),
        ("[[cell]]\nname = 'A b'", "matching regex"),
        ("[[cell]]\nname = 'a'\nhost = 'x'", "unknown field `host`"),
        ("[[cell]]\nname = 'a'\nschema = 'x; drop'", "matching regex"),
        ("[[cell]]\nname = 'a'\nweight = 0", ">= 1"),
        ("[[cell]]\nname = 'a'\n" * 65, "length <= 64"),
        ("[[cell]]\nname = 'a'\nurl = 'http://hidden'", "the url of cell a must look like"),
        ("[[cell]]\nname = 'a'\ndirect_url = 'x'", "the direct_url of cell a must look like"),
        ("[[cell]]\nname = 'a'\nschema = 'x'\n[[cell]]\nname = 'a'", "two cells are called a"),
        ("[[cell]]\nname = 'a'\n[[cell]]\nname = 'b'", "cells a and b are one schema"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, text, DATABASE_URL=URL)


def test_a_cell_needs_an_address(tmp_path: Path) -> None:
    assert "cell a needs a url" in refused(tmp_path, "[[cell]]\nname = 'a'")
