"""Files as spreadsheets write them are read as the same rows, compressed or not."""

import csv
import gzip
import io
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.command.import_source import UnreadableFile, opened, plain_suffix
from service.platform.import_csv import BOOLEANS, NO_HEADER, NOT_UTF8, CsvRows, csv_lines
from service.platform.import_ids import BUCKETS, SeenIds
from service.platform.import_lines import MAX_LINE_BYTES, BadLine, Record

FIRST: Final = "6f0d3a5e-58c1-4a6b-9f0e-2f6f3c1d7a01"
SECOND: Final = "6f0d3a5e-58c1-4a6b-9f0e-2f6f3c1d7a02"
MARK: Final = b"\xef\xbb\xbf"


def read(file: Path, delimiter: str | None = None) -> list[tuple[int, Any]]:
    """The rows of a file of CSV: each line's number, and its members or its error."""
    with opened(str(file)) as source:
        return [
            (line.number, msgspec.json.decode(line.text))
            if isinstance(line.text, bytes)
            else (line.number, str(line.text))
            for line in CsvRows(csv_lines(source.text), delimiter)
            if line.text is not None
        ]


def table(delimiter: str, end: str, before: str = "", quote: str = "") -> str:
    """Two titles, the first with a line break and a delimiter in a cell."""
    names = f"{delimiter}".join(
        quote + n + quote for n in ("type", "id", "title", "is_educational")
    )
    rows = (
        f'title{delimiter}{FIRST}{delimiter}"Zoë{delimiter} das ""Kind""\nallein"{delimiter}TRUE',
        f"title{delimiter}{SECOND}{delimiter}=1+1{delimiter}false",
    )
    return before + "".join(row + end for row in (names, *rows))


SPREADSHEETS: Final = {
    "Excel, German, CSV UTF-8": MARK + table(";", "\r\n").encode(),
    "Excel, English, CSV UTF-8": MARK + table(",", "\r\n").encode(),
    "Excel, Unicode text": b"\xff\xfe" + table("\t", "\r\n").encode("utf-16-le"),
    "big-endian UTF-16": b"\xfe\xff" + table("\t", "\r\n").encode("utf-16-be"),
    "Excel for Mac, old lines": table(";", "\r").encode(),
    "LibreOffice": table(",", "\n").encode(),
    "LibreOffice, all cells quoted": table(";", "\n", quote='"').encode(),
    "Google Sheets": table(",", "\r\n").encode().removesuffix(b"\r\n"),
    "Google Sheets, TSV": table("\t", "\r\n").encode(),
    "Numbers, German": table(";", "\r\n").encode(),
}


@pytest.mark.parametrize("program", SPREADSHEETS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_file_of_a_spreadsheet_gives_its_rows_and_their_lines(
    program: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "titles"
    file.write_bytes(compress(SPREADSHEETS[program]))
    [(first, one), (second, two)] = read(file)
    assert (first, second) == (2, 4)
    assert one.pop("title").translate({ord(c): None for c in ",;\t"}) == 'Zoë das "Kind"\nallein'
    assert one == {"type": "title", "id": FIRST, "is_educational": "TRUE"}
    assert two["title"] == "=1+1"  # a formula is text


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;\n"])
def test_first_line_of_excel_names_the_delimiter_and_counts_as_a_line(
    line: str, tmp_path: Path
) -> None:
    file = tmp_path / "titles.csv"
    file.write_text(table(";", "\r\n", before=line), newline="")
    assert [number for number, _ in read(file)] == [3, 5]
    file.write_text("sep=|\ntype|id\ntitle|1\n")
    assert read(file) == [(3, {"type": "title", "id": "1"})]


def test_header_decides_the_delimiter_by_the_names_that_it_knows(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text('\n;;;\ntype;id;"a;b";note, one, two, three, four\ntitle;1;x;y,z\n')
    assert read(file) == [
        (4, {"type": "title", "id": "1", "a;b": "x", "note, one, two, three, four": "y,z"})
    ]
    file.write_text("type\tid\ntitle\t1\n")
    assert read(file, delimiter=",")[0] == (1, NO_HEADER)


def test_rows_without_a_value_are_blank(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text("type;id;;\ntitle;1;;\n;;;\n\n;\ntitle;2;;\n")
    assert [number for number, _ in read(file)] == [2, 6]


@pytest.mark.parametrize(
    "text", [" ;x\n", "<html>\n", '{"type":"title"}\n', "title;1\n", "id;title\n"]
)
def test_first_row_that_is_no_header_is_an_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text(text)
    assert read(file) == [(1, NO_HEADER)]


def test_names_can_have_capitals(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text("Type;ID;Is_Kids;Note, of, ours\ntitle;1;yes;A\n")
    assert read(file) == [
        (2, {"type": "title", "id": "1", "is_kids": "yes", "Note, of, ours": "A"})
    ]


@pytest.mark.parametrize("header", ["type;id", "type;id;;"])
def test_empty_cells_beyond_the_names_may_be_missing(header: str, tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text(f"{header}\ntitle;1\ntitle;2;\ntitle;3;;;;\ntitle;4;;;;x\ntitle\n")
    rows = read(file)
    assert rows[:3] == [(n, {"type": "title", "id": str(n - 1)}) for n in (2, 3, 4)]
    assert [str(error).partition(" under")[0] for _, error in rows[3:]] == ["6 cells", "1 cells"]


def test_name_that_is_twice_in_the_header_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text("type,id,id\ntitle,1,2\n")
    assert read(file)[0] == (1, "id: In the header twice")


def test_file_of_another_encoding_is_rejected_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_bytes(table(";", "\r\n").encode("cp1252"))
    assert read(file)[0] == (2, NOT_UTF8)
    assert read(file)[-1][0] == 4


@pytest.mark.parametrize(
    "word", ["WAHR", "FALSCH", "Vrai", "FAUX", "VERDADERO", "falso", "ja", "oui", "sí", "1,5"]
)
def test_boolean_in_another_language_is_rejected_with_what_is_expected(
    word: str, tmp_path: Path
) -> None:
    file = tmp_path / "titles.csv"
    file.write_text(f"type;id;title;is_educational;is_kids\ntitle;{FIRST};Planets;{word};{word}\n")
    assert read(file) == [(2, f"is_educational: Expected true or false, not {word}")]


def test_rejected_cell_is_not_shown_because_it_can_be_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "accounts.csv"
    file.write_text(f"type,id,email,is_active\naccount,{FIRST},a@x.test,$2b$12$secret\n")
    assert read(file) == [(2, "is_active: Expected true or false")]


def test_boolean_of_another_type_of_record_is_ignored_as_in_json(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text(f"type;id;title;is_educational;is_kids\ntitle;{FIRST};Planets;yes;WAHR\n")
    assert read(file)[0][1]["title"] == "Planets"


def test_every_boolean_member_is_known() -> None:
    found = set()
    for kind in get_args(Record):
        for field in msgspec.structs.fields(kind):
            accepted = msgspec.defstruct("One", [("a", field.type)])
            try:
                msgspec.convert({"a": True}, accepted)
            except msgspec.ValidationError:
                continue
            found.add(field.name)
    assert found == BOOLEANS


CELL: Final = st.text(
    st.one_of(
        st.sampled_from("\"',;\t\r\n =\ufeff"),
        st.characters(codec="utf-8", exclude_characters="\0"),
    ),
    max_size=8,
)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    has_separator=st.booleans(),
)
def test_table_of_any_dialect_gives_its_rows(
    rows: list[tuple[str, str, str]],
    delimiter: str,
    end: str,
    quoting: Any,
    encoding: str,
    has_separator: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    header = ("type", "id", "title", "is_educational", "x", "y")
    if quoting == csv.QUOTE_MINIMAL and end != "\r\n":
        # Python's writer does not quote the other line end, which then ends the row.
        a, b, c = ([re.sub(r"[\r\n]", "", cell) for cell in row] for row in zip(*rows, strict=True))
        rows = list(zip(a, b, c, strict=True))
    text = io.StringIO(newline="")
    if has_separator:
        text.write(f"sep={delimiter}{end}")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(header)
    expected = []
    for title, *more in rows:
        # A row of several lines must be a valid record, else its quote counts as unclosed.
        cells = ("title", str(uuid4()), f"t{title}", "yes", *more)
        writer.writerow(cells)
        expected.append({name: cell for name, cell in zip(header, cells, strict=True) if cell})
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(text.getvalue().encode(encoding))
    assert [members for _, members in read(file)] == expected


def zstd_compressed(text: bytes) -> bytes:
    """With a checksum, as the program `zstd` writes it."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd = pytest.importorskip(name, reason="zstd is not installed")
    compressed: bytes = zstd.compress(text, options={zstd.CompressionParameter.checksum_flag: 1})
    return compressed


COMPRESSIONS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "zstd": zstd_compressed,
}


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_compression_is_found_by_content(kind: str, tmp_path: Path) -> None:
    text = table(";", "\r\n").encode()
    compress = COMPRESSIONS[kind]
    expected_file = tmp_path / "titles.csv.gz"
    expected_file.write_bytes(text)
    expected = read(expected_file)
    assert len(expected) == 2
    file = tmp_path / "titles"
    file.write_bytes(compress(text))
    assert read(file) == expected
    file.write_bytes(compress(text[:20]) + compress(text[20:]))  # as `cat` joins them
    assert read(file) == expected
    file.write_bytes(compress(b""))
    assert read(file) == []


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_damaged_archive_is_one_sentence(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    whole = COMPRESSIONS[kind](b"".join(b"%d,x\n" % number for number in range(10_000)))
    file.write_bytes(whole[:-9])
    with pytest.raises(UnreadableFile, match=rf"{kind} data ends early, .*not copied wholly$"):
        read(file)
    middle = len(whole) // 2
    for damaged in (
        whole[:middle] + bytes(50) + whole[middle + 50 :],
        whole[:10] + b"\xff" * 20 + whole[30:],
        whole + b"more",
    ):
        file.write_bytes(damaged)
        sentence = rf"{kind} data (cannot be decompressed: .|ends early)"
        with pytest.raises(UnreadableFile, match=sentence):
            read(file)


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("text", [b"x", b'"\n'])
def test_memory_of_a_decompression_bomb_is_bounded(kind: str, text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "bomb"
    size = 30 * MAX_LINE_BYTES if text == b"x" else 10_000
    file.write_bytes(COMPRESSIONS[kind](b"type,id\n" + text * size))
    tracemalloc.start()
    try:
        with opened(str(file)) as source:
            count = sum(1 for line in CsvRows(csv_lines(source.text)) if line.text is not None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count >= 1
    assert peak < 8 * MAX_LINE_BYTES


def test_missing_zstd_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd", "backports"):
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "titles.csv.zst"
    file.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(UnreadableFile, match=r"install `viewing-time\[zstd\]`, or decompress it"):
        read(file)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04" + bytes(30), "is a spreadsheet or an archive: save it as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a spreadsheet or an archive"),
        ("type;id\n".encode("utf-16-le"), "has zero bytes, so it is not UTF-8: save it as UTF-8"),
        ("type;id\n".encode("utf-16")[:-1], "is not valid UTF-16: truncated data"),
        # Without the time, which would make other names of the tests in each process.
        (
            gzip.compress(gzip.compress(b"type;id\n", mtime=0), mtime=0),
            "is compressed twice: decompress it first",
        ),
        (gzip.compress(b"PK\x03\x04" + bytes(30), mtime=0), "is a spreadsheet or an archive"),
    ],
)
def test_file_that_is_not_text_is_one_sentence(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "titles.csv"
    file.write_bytes(content)
    with pytest.raises(UnreadableFile, match=sentence):
        read(file)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.csv", ".csv"), ("A.CSV.GZ", ".csv"), ("a.tsv.zst", ".tsv"), ("a.gz", ""), ("-", "")],
)
def test_name_without_the_suffix_of_a_compression(name: str, suffix: str) -> None:
    assert plain_suffix(name) == suffix


def test_too_long_line_is_one_error_and_ends_at_any_line_end(tmp_path: Path) -> None:
    long = b"z" * (3 * MAX_LINE_BYTES)
    file = tmp_path / "titles.csv"
    for end in (b"\n", b"\r\n", b"\r"):
        file.write_bytes(b"type,id" + end + long + end + b"title,1" + end + b"x" + end)
        numbers = [number for number, _ in read(file)]
        assert numbers == [2, 3, 4]
        assert read(file)[0][1] == f"Longer than {MAX_LINE_BYTES} bytes"


def test_ids_are_exact_however_their_bytes_overlap() -> None:
    seen = SeenIds()
    ids = [uuid4() for _ in range(2000)] + [UUID(int=n << 8) for n in range(2000)]
    assert all(seen.add("title", each) for each in ids)
    assert not any(seen.add("title", each) for each in ids)
    assert seen.add("profile", ids[0])
    assert BUCKETS == 2**16


def test_ids_in_one_bucket_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.platform.import_ids.BUCKETS", 1)
    seen = SeenIds()
    shifted = [UUID(bytes=bytes([1]) * n + bytes([2]) * (16 - n)) for n in range(17)]
    assert all(seen.add("title", each) for each in (*shifted, *(UUID(int=n) for n in range(200))))
    assert not any(seen.add("title", each) for each in shifted)


def test_rejected_line_keeps_what_the_file_has(tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_bytes(MARK + table(";", "\r\n").encode())
    with opened(str(file)) as source:
        rows = CsvRows(csv_lines(source.text))
        sources = [line.source for line in rows]
    assert MARK + rows.head + b"".join(sources) == file.read_bytes()


def test_bad_row_of_several_lines_is_one_error_unless_its_quote_is_not_closed() -> None:
    broken = b'title,1,"A\n\n""b"",\nc",WAHR\n'
    head, good = b"type,id,title,is_educational\n", f"title,{FIRST},Planets,no\n".encode()
    [bad, after] = CsvRows(csv_lines(io.BytesIO(head + broken + good)))
    assert isinstance(bad.text, BadLine)
    assert (bad.number, bad.source, after.number) == (2, broken, 6)
    unclosed = b'title,1,"A,no\n', good, b'x",WAHR\n'
    [bad, after, last] = CsvRows(csv_lines(io.BytesIO(head + b"".join(unclosed))))
    assert (bad.source, after.source, last.source) == unclosed
    assert isinstance(after.text, bytes)
