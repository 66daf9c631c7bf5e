"""What a data set is: images of one size by index, and each as it was stored.

    images(i) = pixels of image i / 255,   read(i) = (pixels of image i, label i)

A data set answers for any list of indices, keeps no position and owns no random state.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyinception.extents import integer

SPLITS = ("train", "test")


class DatasetError(ValueError):
    """A data set is missing, empty, damaged or not what its name says."""


@runtime_checkable
class Dataset(Protocol):
    """Labelled images of one split.

    Attributes
    ----------
    name : str
        The data set's name, for example ``"digits"``.
    split : str
        ``"train"`` or ``"test"``.
    classes : list of str
        Class k is called ``classes[k]``.
    labels : (N,) int64
        Class of every image, in [0, len(classes)).
    shape : (int, int, int)
        H, W, C of every image.
    """

    name: str
    split: str
    classes: list[str]
    labels: NDArray[np.int64]
    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Return the images at `indices`: (n, H, W, C) float32 in [0, 1], a new array."""
        ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return image `index` as it was stored, (H, W, C) uint8 of its own size, and its label."""
        ...


class ArrayDataset:
    """images(i) = pixels[i] / scale, from arrays already in memory.

    Parameters
    ----------
    name, split : str
        As in `Dataset`.
    pixels : (N, H, W, C) uint8 or float32
        Kept, not copied.
    labels : (N,) integers
        In [0, len(classes)).
    classes : list of str
        Names of the classes.
    scale : float
        The value that becomes 1.0: 255 for bytes, 1 for floats.

    Raises
    ------
    DatasetError
        If shapes disagree or a label is out of range.
    """

    def __init__(
        self,
        name: str,
        split: str,
        pixels: NDArray[np.generic],
        labels: ArrayLike,
        classes: list[str],
        scale: float = 1.0,
    ) -> None:
        pixels = np.asarray(pixels)
        if pixels.ndim != 4 or pixels.dtype not in (np.uint8, np.float32):
            raise DatasetError(
                f"ArrayDataset: pixels is {pixels.dtype} of shape {pixels.shape}, "
                "expected uint8 or float32 of shape (N, H, W, C)"
            )
        if len(pixels) == 0:
            raise DatasetError(f"ArrayDataset: {name}/{split} holds no images")
        self.name, self.split, self.classes = name, split, list(classes)
        self.labels = check_labels("ArrayDataset", labels, len(pixels), len(classes))
        self.shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        self._pixels, self._scale = pixels, np.float32(scale)

    def __len__(self) -> int:
        return len(self._pixels)

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Return pixels[indices] / scale: (n, H, W, C) float32."""
        chosen = self._pixels[check_indices(f"{self.name}.images", indices, len(self))]
        return np.divide(chosen, self._scale, dtype=np.float32)

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return image `index`, (H, W, C) uint8 (floats times 255, rounded), and its label."""
        return read_bytes(self, index)


def read_bytes(dataset: Dataset, index: int) -> tuple[NDArray[np.uint8], int]:
    """`Dataset.read` of a data set whose images all have one size: rint(255 images(i))."""
    image = dataset.images([index])[0]
    return np.rint(image * np.float32(255)).astype(np.uint8), int(dataset.labels[index])


def whole(name: str, argument: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`, else DatasetError."""
    try:
        return integer(name, argument, value, least)
    except (TypeError, ValueError) as error:
        raise DatasetError(str(error)) from None


def check_split(function: str, split: str) -> str:
    """Return `split` if it is one of `SPLITS`, else raise DatasetError."""
    if split not in SPLITS:
        raise DatasetError(f"{function}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    return split


def check_indices(function: str, indices: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return `indices` as (n,) int64 in [0, count), else raise TypeError or IndexError."""
    array = np.asarray(indices)
    if array.size == 0:
        array = array.astype(np.int64).reshape(-1)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"{function}: indices is {array.dtype} of rank {array.ndim}, expected 1-D integers"
        )
    if array.size and (array.min() < 0 or array.max() >= count):
        raise IndexError(
            f"{function}: indices span [{array.min()}, {array.max()}], expected [0, {count})"
        )
    return array.astype(np.int64)


def check_labels(function: str, labels: ArrayLike, count: int, classes: int) -> NDArray[np.int64]:
    """Return `labels` as (count,) int64 in [0, classes), else raise DatasetError."""
    array = np.asarray(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise DatasetError(
            f"{function}: labels is {array.dtype} of shape {array.shape}, "
            f"expected integers of shape ({count},)"
        )
    bad = np.flatnonzero((array < 0) | (array >= classes))
    if bad.size:
        raise DatasetError(
            f"{function}: {bad.size} labels out of range, the first is {array[bad[0]]} "
            f"at index {bad[0]}, expected [0, {classes})"
        )
    return array.astype(np.int64)


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or raise an ImportError that names the extra it is in."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {package}, which is not installed: "
            f"pip install 'pyinception[{extra}]' ({error})"
        ) from error
