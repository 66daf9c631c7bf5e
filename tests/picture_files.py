"""Encoded pictures and tar shards of them, for the tests of data sets."""

import io
import tarfile
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image", reason="image files need Pillow (extra train)")


def encoded(colour: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> bytes:
    memory = io.BytesIO()
    Image.new("RGB", size, colour).save(memory, format="PNG")
    return memory.getvalue()


def write_tar(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(n: int, label: int, folder: str = "") -> list[tuple[str, bytes]]:
    key = f"{folder}{n:06d}"
    return [
        (f"{key}.json", b"{}"),
        (f"{key}.png", encoded((n, label, 9))),
        (f"{key}.cls", b"%d" % label),
    ]


def resum(header: bytes) -> bytes:
    total = sum(header) - sum(header[148:156]) + 8 * 32
    return header[:148] + b"%06o\0 " % total + header[156:]
