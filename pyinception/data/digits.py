"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 in 17 gray levels.

    images(i) = bilinear(pixels[i] / 16, size)

The data ship inside scikit-learn (UCI "Optical Recognition of Handwritten Digits", the half
written by 13 people), so nothing is downloaded.

The split is called ``last-500``: in file order, images 0..1296 are for training and 1297..1796
for testing. The file keeps each writer's digits together, so the test writers are mostly
strangers; a split that mixes all images puts a near copy of each test image into the training
set (nearest neighbour 98-99 %, here 96-97 %).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import ArrayDataset, DatasetError, check_split, require, whole
from pyinception.data.resize import bilinear

SPLIT = "last-500"
COUNT, TEST_COUNT = 1797, 500
# SHA-256 of the 1,797 x 64 pixels, then of the 1,797 labels, as bytes: two installations that
# agree on it agree on every image of the split.
FINGERPRINT = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def digits(split: str = "train", *, size: int = 28) -> ArrayDataset:
    """images = bilinear(8 x 8 digits / 16, (size, size)), one channel, ink is 1.

    Parameters
    ----------
    split : str
        ``"train"`` (1,297 images) or ``"test"`` (500), see the head of this file.
    size : int
        Rows and columns of an image: 8 leaves the pixels as they are.

    Returns
    -------
    ArrayDataset
        Images (size, size, 1) float32 in [0, 1], ten classes "0" to "9".

    Raises
    ------
    ImportError
        If scikit-learn is absent (extra ``train``).
    DatasetError
        If `split` is unknown, `size` below 8, or scikit-learn ships other data.
    """
    check_split("digits", split)
    size = whole("digits", "size", size, 8)
    pixels, labels = _load()
    chosen = split_indices(split)
    grid = np.divide(pixels[chosen], 16, dtype=np.float32).reshape(-1, 8, 8, 1)
    names = [str(digit) for digit in range(10)]
    return ArrayDataset("digits", split, bilinear(grid, (size, size)), labels[chosen], names)


def split_indices(split: str) -> NDArray[np.int64]:
    """Return the rows of scikit-learn's table that make up a split of ``last-500``."""
    boundary = COUNT - TEST_COUNT
    first, last = (0, boundary) if check_split("digits", split) == "train" else (boundary, COUNT)
    return np.arange(first, last, dtype=np.int64)


def _load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    datasets = require("sklearn.datasets", "train", "data set 'digits'")
    bunch = datasets.load_digits()
    pixels = np.asarray(bunch.data).astype(np.uint8)
    labels = np.asarray(bunch.target).astype(np.int64)
    found = hashlib.sha256(pixels.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    if found != FINGERPRINT:
        raise DatasetError(
            f"digits: scikit-learn's table has shape {pixels.shape} and SHA-256 {found[:16]}..., "
            f"expected ({COUNT}, 64) and {FINGERPRINT[:16]}...: another version of the data"
        )
    return pixels, labels
