"""The lines of a text file, whatever its encoding, its line ends and its compression."""

import codecs
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path

from speechssl.core.errors import InputError

GZIP = b"\x1f\x8b"
MARKS = {  # byte order marks; that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def first_bytes(path: Path, count: int) -> bytes:
    """The beginning of a file, unpacked if it is compressed by gzip. InputError if it cannot be unpacked."""
    with path.open("rb") as file:
        head = file.read(count)
    if not head.startswith(GZIP):
        return head
    try:
        with gzip.open(path) as file:
            return file.read(count)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}); copy it again") from None


def encoding_of(head: bytes, named: str = "") -> str:
    """The encoding by the byte order mark at the beginning of a file, else the one that was named, else that of an XML file by
    its first line, else UTF-8."""
    said = re.match(rb"""\s*<\?xml[^>]*?encoding=["']([\w.-]+)["']""", head)
    stated = named or (said[1].decode() if said else "utf-8")
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), stated)


def first_text(path: Path, encoding: str = "", count: int = 2**16) -> str:
    """The beginning of a text file with what cannot be decoded replaced; "" if it is no text. InputError as in read_lines."""
    head = first_bytes(path, count)
    text = head.decode(known_encoding(encoding_of(head, encoding)), errors="replace")
    return "" if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")


def known_encoding(name: str) -> str:
    """`name`, if it is that of an encoding of text; else InputError."""
    try:
        "".encode(name)
    except LookupError:
        raise InputError(
            f"there is no encoding {name!r}; name the right one with --encoding: latin-1, cp1252, utf-16, gb18030 ..."
        ) from None
    return name


def read_lines(path: Path, encoding: str = "") -> Iterator[str]:
    """The lines of a text file, plain or compressed by gzip, without a byte order mark, ended by LF, CRLF or CR.

    encoding: of a file without such a mark ("": UTF-8). InputError if it is in another one, or cannot be unpacked.
    Not by str.splitlines, which splits at some characters that a transcript may hold.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    name = known_encoding(encoding_of(first_bytes(path, 200), encoding))
    try:
        with io.TextIOWrapper(gzip.open(path) if compressed else path.open("rb"), encoding=name) as file:
            for line in file:
                yield line.removesuffix("\n")
    except UnicodeDecodeError:
        raise wrong_encoding(path, name, compressed) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}); copy it again") from None


def wrong_encoding(path: Path, name: str, compressed: bool) -> InputError:
    """The error with the place of the first byte that does not fit; found by decoding once more, in one piece."""
    data = gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
    try:
        data.decode(name)
    except UnicodeDecodeError as error:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", data[: error.start]))
        place = f"{error.reason} at byte {error.start}, line {line}"
        shown = "UTF-8" if name.startswith("utf-8") else name
        remedy = "`speechssl prepare ... --encoding latin-1`, or whichever it is in"
        return InputError(f"{path} is not {shown} text ({place}); save it as UTF-8, or name its encoding: {remedy}")
    return InputError(f"{path} changed while it was read; run the same command again")
