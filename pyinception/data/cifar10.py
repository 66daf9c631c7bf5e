"""CIFAR-10, binary version: 60,000 colour images of 32 x 32 in ten classes.

    record = label (1 byte) | red 32 x 32 | green 32 x 32 | blue 32 x 32,  10,000 records a file

Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009); the archive
is ``cifar-10-binary.tar.gz`` of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked by the
user. Files: ``data_batch_1.bin`` ... ``data_batch_5.bin`` for training, ``test_batch.bin``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import ArrayDataset, DatasetError, check_split

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
RECORD = 1 + 3 * 32 * 32
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
ARCHIVE_FOLDER = "cifar-10-batches-bin"


def cifar10(
    root: str | Path, split: str = "train", *, records_per_file: int = 10_000
) -> ArrayDataset:
    """images(i) = bytes of record i as (32, 32, 3) RGB / 255.

    Parameters
    ----------
    root : path
        The folder with the ``.bin`` files, or the one with ``cifar-10-batches-bin`` in it.
    split : str
        ``"train"`` (five files) or ``"test"`` (one).
    records_per_file : int
        Images in each file: 10,000 in the published archive.

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
    check_split("cifar10", split)
    folder = _folder(Path(root), split)
    faults = [fault for name in FILES[split] if (fault := _fault(folder / name, records_per_file))]
    if faults:
        raise DatasetError("cifar10: " + "; ".join(faults))
    parts = [_read(folder / name, records_per_file) for name in FILES[split]]
    records = np.concatenate(parts) if len(parts) > 1 else parts[0]
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArrayDataset("cifar10", split, pixels, records[:, 0], CLASSES, scale=255)


def _folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DatasetError(f"cifar10: {root} is not a folder")
    for folder in (root, root / ARCHIVE_FOLDER):
        if any((folder / name).exists() for name in FILES[split]):
            return folder
    wanted = ", ".join(FILES[split])
    raise DatasetError(
        f"cifar10: no {wanted} in {root} or {root / ARCHIVE_FOLDER}: unpack the binary version "
        "of CIFAR-10 there"
    )


def _fault(path: Path, records: int) -> str | None:
    """Return what is wrong with a file's presence or size, or None."""
    if not path.is_file():
        return f"{path} is missing"
    size, expected = path.stat().st_size, records * RECORD
    if size == expected:
        return None
    kind = "truncated" if size < expected else "too long"
    return f"{path} has {size:,} bytes, expected {expected:,} ({records:,} x {RECORD}): {kind}"


def _read(path: Path, records: int) -> NDArray[np.uint8]:
    """Return (records, 3073) bytes after checking every label."""
    table = np.fromfile(path, dtype=np.uint8)
    if table.size != records * RECORD:
        raise DatasetError(f"cifar10: {path} changed size while it was read")
    table = table.reshape(records, RECORD)
    bad = np.flatnonzero(table[:, 0] >= len(CLASSES))
    if bad.size:
        raise DatasetError(
            f"cifar10: {path} has {bad.size} labels out of range, the first is "
            f"{table[bad[0], 0]} in record {bad[0]}, expected [0, {len(CLASSES)})"
        )
    return table
