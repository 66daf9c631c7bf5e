"""MNIST and sets in its format (Fashion-MNIST, KMNIST): grey images of 28 x 28 in ten classes.

    file = 0 0 8 rank | rank extents (4 bytes, big-endian) | bytes in row-major order     ("idx")

Source: LeCun, Cortes, Burges, "The MNIST database" (format at the end of its page). Files, plain
or with ``.gz``: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-...``.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import ArrayDataset, DatasetError, check_split

PREFIXES = {"train": "train", "test": "t10k"}
CLASSES = [str(digit) for digit in range(10)]
MAX_BYTES = 2**30  # of one unpacked file: MNIST's largest has 47 MB
_UBYTE = 8


def mnist(root: str | Path, split: str = "train") -> ArrayDataset:
    """images(i) = bytes of image i / 255, (H, W, 1).

    Parameters
    ----------
    root : path
        The folder with the two files of the split.
    split : str
        ``"train"`` or ``"test"`` (files ``t10k-...``).

    Returns
    -------
    ArrayDataset
        Images (28, 28, 1) float32 in [0, 1] (or as the file says), ten classes "0" to "9".

    Raises
    ------
    DatasetError
        If a file is missing, truncated, too long or no idx file, if images and labels differ in
        number, or a label is above 9: the file is named.
    """
    check_split("mnist", split)
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"mnist: {folder} is not a folder")
    images = _find(folder, f"{PREFIXES[split]}-images", 3)
    labels = _find(folder, f"{PREFIXES[split]}-labels", 1)
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise DatasetError(
            f"mnist: {images} holds {len(pixels)} images, {labels} {len(classes)} labels"
        )
    bad = np.flatnonzero(classes >= len(CLASSES))
    if bad.size:
        raise DatasetError(
            f"mnist: {labels} has {bad.size} labels out of range, the first is "
            f"{classes[bad[0]]} at index {bad[0]}, expected [0, {len(CLASSES)})"
        )
    return ArrayDataset("mnist", split, pixels[..., None], classes, CLASSES, scale=255)


def _find(folder: Path, stem: str, rank: int) -> Path:
    names = [f"{stem}{joint}idx{rank}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DatasetError(f"mnist: no {' or '.join(names[:2])} in {folder}")


def read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """The array of bytes in an idx file of `rank` axes, gzipped or not (its content decides).

    Raises
    ------
    DatasetError
        If the magic number, the rank or the length is not as it should be.
    """
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            head = file.read(4 + 4 * rank)
            if len(head) < 4 + 4 * rank or head[:4] != bytes((0, 0, _UBYTE, rank)):
                wanted = bytes((0, 0, _UBYTE, rank))
                text = f"begins with {head[:4]!r}, expected {wanted!r} and {rank} extents"
                raise DatasetError(f"mnist: {path} is no idx file of bytes: {text}")
            shape = tuple(int(extent) for extent in np.frombuffer(head, ">u4", rank, 4))
            count = math.prod(shape)
            if not 0 < count <= MAX_BYTES:
                raise DatasetError(f"mnist: {path} says shape {shape}: empty, or over 2^30 bytes")
            content = _up_to(file, count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"mnist: {path} is truncated or damaged: {error}") from None
    if len(content) != count:
        kind = "truncated" if len(content) < count else "too long"
        found = f"{len(content):,}" if len(content) < count else f"more than {count:,}"
        raise DatasetError(
            f"mnist: {path} has {found} bytes after its head, expected {count:,} "
            f"for shape {shape}: {kind}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _up_to(file: Any, count: int) -> bytes:
    """At most `count` bytes, taken in pieces: what a head promises is not allocated at once."""
    pieces, left = [], count
    while left and (piece := file.read(min(left, 2**20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
