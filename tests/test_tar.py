"""Shards: tar files read by a small reader of our own."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from picture_files import resum, sample, write_tar

from pyinception import data
from pyinception.data import DatasetError
from pyinception.data.tar_index import members
from pyinception.data.tar_shards import TarShards


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "deep/" * 30])  # a long name needs the format's extension
def test_tar_members_are_those_of_tarfile(tmp_path: Path, form: int, folder: str) -> None:
    folder = folder[:120] if form == tarfile.USTAR_FORMAT else folder + "\u00e9/"
    files = sample(0, 3, folder) + sample(1, 0, folder) + [("notes.txt", b"x" * 700)]
    path = write_tar(tmp_path / "a.tar", files, form)
    found = list(members(path))
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
    assert [tuple(member) for member in found] == expected and len(found) == 7


def test_tar_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000001.tar", sample(2, 4))
    write_tar(tmp_path / "train-000000.tar", [*sample(0, 1), ("info.txt", b"x"), *sample(1, 0)])
    write_tar(tmp_path / "val-000000.tar", sample(7, 6))
    train, test = (data.load("tar", split, root=tmp_path, size=4) for split in ("train", "test"))
    assert train.labels.tolist() == [1, 0, 4] and test.labels.tolist() == [6]
    assert train.classes == test.classes == [str(k) for k in range(7)]
    assert (
        train.images([2, 0])[:, 1, 1].tolist()
        == (np.float32([[2, 4, 9], [0, 1, 9]]) / np.float32(255)).tolist()
    )
    assert isinstance(train, TarShards) and train.where(2) == "train-000001.tar: 000002"
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\n")
    assert data.load("tar", root=tmp_path).classes == list("abcdef")
    with pytest.raises(DatasetError, match=r"classes.txt names 6 classes, a .cls says 6"):
        data.load("tar", "test", root=tmp_path)
    path = tmp_path / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(DatasetError, match=r"train-000001.tar: 000002: the file ends before byte"):
        train.images([2])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b"x")], r"'a' has no .cls beside it"),
        ([("a.cls", b"1")], r"'a' has no picture beside it"),
        ([("a.png", b"x"), ("b.png", b"x"), ("a.cls", b"1")], r"'a' has no .cls beside it"),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")], "'a' has two pictures"),
        ([("a.png", b"x"), ("a.cls", b"1"), ("a.cls", b"1")], "'a' has two .cls"),
        (
            [("a.png", b"x"), ("a.cls", b"cat")],
            r"'a.cls' holds b'cat' \(3 bytes\), expected a class",
        ),
        ([("a.png", b"x"), ("a.cls", b"-1")], "holds b'-1'"),
        ([("a.png", b"x"), ("a.cls", b"1" * 900)], r"\(900 bytes\)"),
        ([("a.txt", b"x")], "no sample in the 1 shards"),
    ],
)
def test_tar_samples_that_are_none(tmp_path: Path, files: list, message: str) -> None:
    write_tar(tmp_path / "train.tar", files)
    with pytest.raises(DatasetError, match=message):
        TarShards(tmp_path)


def with_type(kind: bytes, length: bytes = b"00000000000\0") -> bytes:
    name = b"000000.png".ljust(100, b"\0")
    return resum(
        (name + b"0000644\0" * 3 + length + b"0" * 11 + b"\0" * 9 + kind).ljust(512, b"\0")
    )


END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: no end of archive"),
        (with_type(b"0"), "truncated: no end of archive in 512 bytes"),
        (with_type(b"0", b"00000001000\0") + END[:100], "a member of 512 bytes in a file of 612"),
        (with_type(b"0", b"\x80" + b"\xff" * 11) + END, r"truncated"),
        (with_type(b"0", b"\xff" * 12) + END, "is no octal number"),
        (with_type(b"0", b"12 4\0".ljust(12, b"\0")) + END, "is no octal number"),
        (with_type(b"2") + END, "of type b'2', expected regular files"),
        (with_type(b"1") + END, "of type b'1'"),
        (with_type(b"S") + END, "of type b'S'"),
        (with_type(b"L", b"00000300000\0") + bytes(98304) + END, "extended header of 98,304 bytes"),
        (
            with_type(b"x", b"00000000013\0") + b"99 path=abc\n" + bytes(500) + END,
            "a damaged extended",
        ),
        (
            with_type(b"x", b"00000000013\0") + b"11 size=12\n" + bytes(501) + END,
            "b'size', which is not",
        ),
        (with_type(b"0")[:-1] + b"\1" + END, "no tar header, or a damaged one"),
        (
            gzip.compress(with_type(b"0")).ljust(512, b"\0") + END,
            "gzip: expected an uncompressed tar",
        ),
        (with_type(b"0") + END + b"lost", "data after the end"),
    ],
)
def test_hostile_tar_headers_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a.tar: .*{message}.*\(header at byte \d"):
        list(members(path))


def test_the_index_of_a_large_tar_takes_little_memory(tmp_path: Path) -> None:
    """Peak memory of a fresh process that opens 40 MB of shard, against one that opens 100 kB.

    The kernel's own figure of its memory: ru_maxrss begins with the peak of the parent.
    """
    big = b"\xff" * 8000
    for name, count in (("small", 10), ("large", 5000)):
        files = [part for n in range(count) for part in ((f"{n}.png", big), (f"{n}.cls", b"1"))]
        write_tar(tmp_path / name / "train.tar", files)
        write_tar(tmp_path / name / "test.tar", files[:2])
    code = (
        "import sys; from pyinception.data.tar_shards import TarShards; TarShards(sys.argv[1]); "
        "print(*(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))"
    )
    peaks = []
    for name in ("small", "large"):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 16 * 2**20, peaks  # names and places, not contents
