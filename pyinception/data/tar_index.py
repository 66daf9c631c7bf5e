"""What lies where in an uncompressed tar file: a reader of headers that extracts nothing.

    file = (header of 512 bytes | content, padded to 512)*, then zeros

POSIX.1-1988 (ustar) headers, long names of GNU (type L) and POSIX.1-2001 (type x, key path).
A header may say anything: every number is checked against the file before it is used, names are
keys and never paths, and anything but regular files and folders is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyinception.data.dataset import DatasetError

BLOCK = 512
MAX_EXTENSION = 2**16  # bytes of a long name or an extended header; a path has at most 4,096
MAX_TAIL = 2**20  # zeros after the end: writers pad to 10 KiB
_REGULAR, _FOLDER = b"0\0" + b"7", b"5"
_EXTENSIONS = b"Lxg"


class Member(NamedTuple):
    """One regular file inside a tar file."""

    name: str
    offset: int  # of its first byte
    length: int


def members(path: Path) -> Iterator[Member]:
    """Yield the regular files of a tar file, in its order.

    Raises
    ------
    DatasetError
        If the file is truncated or compressed, a header is damaged, or a member is a link, a
        device or sparse: file and byte are named.
    """
    with open(path, "rb") as file:
        handle = file.fileno()
        size = os.fstat(handle).st_size
        offset, name = 0, None
        while True:
            header = os.pread(handle, BLOCK, offset)
            if len(header) < BLOCK:
                raise _error(path, offset, f"truncated: no end of archive in {size:,} bytes")
            if not any(header):
                _check_tail(path, handle, offset, size)
                return
            length, kind = _read_header(path, offset, header)
            content, following = offset + BLOCK, offset + BLOCK + -(-length // BLOCK) * BLOCK
            if following > size:
                text = f"a member of {length:,} bytes in a file of {size:,}: truncated"
                raise _error(path, offset, text)
            if kind in _EXTENSIONS:
                if length > MAX_EXTENSION:
                    raise _error(path, offset, f"an extended header of {length:,} bytes")
                found = _long_name(path, offset, kind, os.pread(handle, length, content))
                name = found or name
            else:
                if kind in _REGULAR:
                    yield Member(name or _short_name(header), content, length)
                elif kind not in _FOLDER:
                    text = f"member {_short_name(header)!r} of type {kind!r}"
                    raise _error(path, offset, f"{text}, expected regular files")
                name = None
            offset = following


def _error(path: Path, offset: int, text: str) -> DatasetError:
    return DatasetError(f"tar: {path}: {text} (header at byte {offset:,})")


def _read_header(path: Path, offset: int, header: bytes) -> tuple[int, bytes]:
    """Length of the content and type of the member, after checking the header's sum."""
    # The sum counts its own field as blanks; some writers summed signed bytes, none of today.
    expected = sum(header) - sum(header[148:156]) + 8 * 32
    if _octal(header[148:156]) != expected:
        head = "gzip" if header[:2] == b"\x1f\x8b" else "no tar header, or a damaged one"
        raise _error(path, offset, f"{head}: expected an uncompressed tar")
    length = _octal(header[124:136])
    if length is None:
        raise _error(path, offset, f"length {header[124:136]!r} is no octal number")
    return length, header[156:157]


def _octal(field: bytes) -> int | None:
    """The number in an octal field, or in GNU's binary form; None where there is none."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return None
    return int(digits, 8)


def _short_name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0")[0]
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", errors="surrogateescape")


def _long_name(path: Path, offset: int, kind: bytes, content: bytes) -> str | None:
    """The name in an extension's content; of POSIX records "LENGTH KEY=VALUE\\n" the path."""
    if kind == b"L":
        return _text(content.split(b"\0")[0])
    name, start = None, 0
    while start < len(content):
        digits, blank, _ = content[start : start + 6].partition(b" ")
        stop = start + int(digits) if blank and digits.isdigit() else 0
        key, equals, value = content[start + len(digits) + 1 : stop - 1].partition(b"=")
        if not start < stop <= len(content) or content[stop - 1 : stop] != b"\n" or not equals:
            raise _error(path, offset, "a damaged extended header")
        if kind == b"x" and key == b"path":
            name = _text(value)
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise _error(path, offset, f"extended header {key!r}, which is not supported")
        start = stop
    return name


def _check_tail(path: Path, handle: int, offset: int, size: int) -> None:
    """Nothing but zeros may follow the end: what stood there would be silently lost."""
    if size - offset > MAX_TAIL or any(os.pread(handle, size - offset, offset)):
        raise _error(path, offset, "data after the end of the archive")
