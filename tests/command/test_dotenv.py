"""The `.env` file: quotes, comments, `export`, and malformed lines."""

from pathlib import Path

import pytest

from service.command.dotenv import dotenv
from service.settings import SettingsError


def test_missing_file_sets_nothing(tmp_path: Path) -> None:
    assert dotenv(tmp_path / ".env") == {}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("  NAME = value  ", "value"),
        ("export NAME=value", "value"),
        ("NAME=", ""),
        ("NAME=two words", "two words"),
        ("NAME=value # a comment", "value"),
        ("NAME= # nothing yet", ""),
        ("NAME=a#b", "a#b"),
        ("NAME=#b", "#b"),
        ("NAME=a=b", "a=b"),
        ('NAME="two words"', "two words"),
        ("NAME='a # b'", "a # b"),
        ('NAME="it\'s"  # quoted', "it's"),
        ('NAME=""', ""),
        ("NAME=it's", "it's"),
        ("NAME=snow ☃", "snow ☃"),
    ],
)
def test_value_is_read(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / ".env").write_text(f"# ours\n\n{line}\nLAST=1\n", encoding="utf-8")
    assert dotenv(tmp_path / ".env") == {"NAME": value, "LAST": "1"}


def test_byte_order_mark_and_carriage_returns_are_ignored(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfNAME=value\r\nLAST=1\r\n")
    assert dotenv(tmp_path / ".env") == {"NAME": "value", "LAST": "1"}


def test_malformed_lines_are_reported_by_number_without_their_text(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("JWT_SECRET hunter2\nPORT=1\nNAME='hunter2\n=hunter2\nMY-NAME=hunter2\n")
    with pytest.raises(SettingsError) as caught:
        dotenv(path)
    assert caught.value.errors == [
        f"{path}, line 1, must be NAME=value.",
        f"{path}, line 3, must close its quotes.",
        f"{path}, line 4, must be NAME=value.",
        f"{path}, line 5, must be NAME=value.",
    ]


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"NAME=\xff\xfe")
    for path in (tmp_path / ".env", tmp_path):
        with pytest.raises(SettingsError, match="must be a file of text that can be read"):
            dotenv(path)
