"""The files of an import as people have them: piped, compressed, in UTF-16."""

import codecs
import gzip
import io
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STANDARD_INPUT: Final = "-"
CHUNK_BYTES: Final = 64 * 1024
GZIP: Final = b"\x1f\x8b"
# A frame, or a skippable one, with which some programs begin.
ZSTD: Final = (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60)))
ZSTD_MISSING: Final = "install `viewing-time[zstd]`"
SPREADSHEETS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# The marks of UTF-16 begin those of UTF-32.
ENCODINGS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableFile(Exception):
    """A file whose content cannot be read; its message is one sentence without a full stop."""


class Source(NamedTuple):
    """The text of a file in UTF-8; `file` is what was opened, for progress."""

    text: BinaryIO
    file: BinaryIO
    has_mark: bool


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """Opens the file `name`; a pipe is copied first. Raises UnreadableFile.

    The import reads within a transaction, which must not wait for another program.
    """
    with ExitStack() as stack:
        if name != STANDARD_INPUT:
            file: BinaryIO = stack.enter_context(Path(name).open("rb"))
        elif sys.stdin is None:
            raise UnreadableFile("Standard input is closed")
        else:
            file = sys.stdin.buffer
        if not file.seekable():
            copy = stack.enter_context(TemporaryFile())
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        label = "Standard input" if name == STANDARD_INPUT else name
        text = _unpacked(cast(io.BufferedReader, file), label)
        start = text.peek(4)[:4]
        if start.startswith(SPREADSHEETS):
            raise UnreadableFile(f"{label} is a spreadsheet or an archive: save it as CSV UTF-8")
        if start.startswith((GZIP, *ZSTD)):
            raise UnreadableFile(f"{label} is compressed twice: decompress it first")
        for mark, encoding in ENCODINGS:
            if start.startswith(mark):
                yield Source(_buffered(_recoded(text, encoding, label)), file, has_mark=True)
                return
        if b"\0" in start:
            raise UnreadableFile(f"{label} has zero bytes, so it is not UTF-8: save it as UTF-8")
        yield Source(text, file, has_mark=start.startswith(codecs.BOM_UTF8))


def plain_suffix(name: str) -> str:
    """The suffix of a file name, in lower case, without that of a compression."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix


def _unpacked(file: io.BufferedReader, name: str) -> io.BufferedReader:
    """The file, decompressed if it is compressed; its content decides, not its name."""
    start = file.peek(4)[:4]
    if start.startswith(GZIP):
        return _buffered(_chunks(lambda: gzip.GzipFile(fileobj=file), zlib.error, f"{name}: gzip"))
    if start.startswith(ZSTD):
        try:
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
        except ImportError:
            raise UnreadableFile(
                f"{name} is compressed by zstd: {ZSTD_MISSING}, or decompress it first"
            ) from None
        return _buffered(_chunks(lambda: zstd.ZstdFile(file), zstd.ZstdError, f"{name}: zstd"))
    return file


def _chunks(
    unpacked: Callable[[], io.BufferedIOBase], damage: type[Exception], name: str
) -> Iterator[bytes]:
    """The content of a compressed file; raises UnreadableFile where it is damaged."""
    try:
        with unpacked() as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except EOFError as error:
        raise UnreadableFile(f"{name} data ends early, the file was not copied wholly") from error
    except (damage, gzip.BadGzipFile) as error:
        reason = str(error).rstrip(".")
        raise UnreadableFile(f"{name} data cannot be decompressed: {reason}") from error


def _recoded(file: BinaryIO, encoding: str, name: str) -> Iterator[bytes]:
    """The text of a file with a byte order mark, in UTF-8 without one.

    A lone half of a character becomes bytes that are not UTF-8, an error of its line.
    """
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield decoder.decode(chunk).encode(errors="surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{name} is not valid {encoding.upper()}: {error.reason}") from error


class _Chunks(io.RawIOBase):
    """A raw stream of the chunks of an iterator."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(view), len(self._rest))
        view[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _buffered(chunks: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Chunks(chunks), CHUNK_BYTES)
