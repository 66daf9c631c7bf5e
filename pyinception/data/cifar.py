"""CIFAR-10 and CIFAR-100, binary version: colour images of 32 x 32 in ten or a hundred classes.

    record = label (1 byte)            | red 32 x 32 | green 32 x 32 | blue 32 x 32     CIFAR-10
    record = superclass, label (2)     | red 32 x 32 | green 32 x 32 | blue 32 x 32     CIFAR-100

Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009); the archives
are ``cifar-10-binary.tar.gz`` and ``cifar-100-binary.tar.gz`` of
https://www.cs.toronto.edu/~kriz/cifar.html, unpacked by the user. The "python version" is a
pickle, which is never opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import ArrayDataset, DatasetError, check_split

PIXELS = 3 * 32 * 32
CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


@dataclass(frozen=True)
class Archive:
    """One published archive: its folder, files, records a file, and labels before the pixels."""

    name: str
    folder: str
    files: dict[str, tuple[str, ...]]
    records: dict[str, int]
    labels: tuple[int, ...]  # number of values of each label byte; the last one is the class
    python_files: tuple[str, ...]  # of the version that is a pickle

    @property
    def record(self) -> int:
        """Bytes of a record."""
        return len(self.labels) + PIXELS


CIFAR10 = Archive(
    "cifar10",
    "cifar-10-batches-bin",
    {
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    {"train": 10_000, "test": 10_000},
    (10,),
    ("cifar-10-batches-py", "data_batch_1"),
)
CIFAR100 = Archive(
    "cifar100",
    "cifar-100-binary",
    {"train": ("train.bin",), "test": ("test.bin",)},
    {"train": 50_000, "test": 10_000},
    (20, 100),
    ("cifar-100-python", "meta"),
)
NAMES100 = "fine_label_names.txt"


def cifar10(
    root: str | Path, split: str = "train", *, records_per_file: int | None = None
) -> ArrayDataset:
    """images(i) = bytes of record i as (32, 32, 3) RGB / 255.

    Parameters
    ----------
    root : path
        The folder with the ``.bin`` files, or the one with ``cifar-10-batches-bin`` in it.
    split : str
        ``"train"`` (five files) or ``"test"`` (one).
    records_per_file : int or None
        Images in each file; None: as in the published archive (10,000).

    Returns
    -------
    ArrayDataset
        Images (32, 32, 3) float32 in [0, 1]; held as bytes, 154 MB for the training split.

    Raises
    ------
    DatasetError
        If a file is missing, has another size (truncated), or holds a label above 9. Every
        faulty file is named.
    """
    return _load(CIFAR10, Path(root), split, records_per_file, lambda folder: CLASSES)


def cifar100(
    root: str | Path, split: str = "train", *, records_per_file: int | None = None
) -> ArrayDataset:
    """images(i) = bytes of record i as (32, 32, 3) RGB / 255; the fine label is the class.

    Parameters, result and errors as of `cifar10`; the folder inside `root` is
    ``cifar-100-binary``, the files hold 50,000 and 10,000 images, and the classes are the lines
    of its ``fine_label_names.txt``.
    """
    return _load(CIFAR100, Path(root), split, records_per_file, _fine_names)


def _load(
    archive: Archive,
    root: Path,
    split: str,
    records: int | None,
    names: Callable[[Path], list[str]],
) -> ArrayDataset:
    check_split(archive.name, split)
    folder = _folder(archive, root, split)
    count = archive.records[split] if records is None else records
    files = [folder / name for name in archive.files[split]]
    faults = [fault for path in files if (fault := _fault(archive, path, count))]
    if faults:
        raise DatasetError(f"{archive.name}: " + "; ".join(faults))
    parts = [_read(archive, path, count) for path in files]
    table = np.concatenate(parts) if len(parts) > 1 else parts[0]
    head = len(archive.labels)
    pixels = table[:, head:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = table[:, head - 1]
    return ArrayDataset(archive.name, split, pixels, labels, names(folder), scale=255)


def _folder(archive: Archive, root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DatasetError(f"{archive.name}: {root} is not a folder")
    for folder in (root, root / archive.folder):
        if any((folder / name).exists() for name in archive.files[split]):
            return folder
    if any((root / name).exists() for name in archive.python_files):
        raise DatasetError(
            f"{archive.name}: {root} holds the python version, a pickle, which is never opened: "
            "take the binary version"
        )
    wanted = ", ".join(archive.files[split])
    raise DatasetError(
        f"{archive.name}: no {wanted} in {root} or {root / archive.folder}: unpack the binary "
        "version there"
    )


def _fault(archive: Archive, path: Path, records: int) -> str | None:
    """Return what is wrong with a file's presence or size, or None."""
    if not path.is_file():
        return f"{path} is missing"
    size, expected = path.stat().st_size, records * archive.record
    if size == expected:
        return None
    kind = "truncated" if size < expected else "too long"
    text = f"expected {expected:,} ({records:,} x {archive.record})"
    return f"{path} has {size:,} bytes, {text}: {kind}"


def _read(archive: Archive, path: Path, records: int) -> NDArray[np.uint8]:
    """Return (records, bytes of a record) after checking every label."""
    table = np.fromfile(path, dtype=np.uint8)
    if table.size != records * archive.record:
        raise DatasetError(f"{archive.name}: {path} changed size while it was read")
    table = table.reshape(records, archive.record)
    for column, values in enumerate(archive.labels):
        bad = np.flatnonzero(table[:, column] >= values)
        if bad.size:
            raise DatasetError(
                f"{archive.name}: {path} has {bad.size} labels out of range, the first is "
                f"{table[bad[0], column]} in record {bad[0]}, expected [0, {values})"
            )
    return table


def _fine_names(folder: Path) -> list[str]:
    path, count = folder / NAMES100, CIFAR100.labels[-1]
    if not path.is_file():
        raise DatasetError(f"cifar100: {path} is missing; it comes with the archive")
    names = path.read_bytes()[: 2**16].decode(errors="replace").split()
    if len(names) != count or len(set(names)) != count:
        raise DatasetError(f"cifar100: {path} has {len(names)} names, expected {count} different")
    return names
