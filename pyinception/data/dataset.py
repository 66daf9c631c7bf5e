"""What a data set is, and how an epoch is walked.

    batch b of epoch e = images[order_e[b B : (b + 1) B]],  order_e = permutation(seed, e)

A data set answers for any list of indices, keeps no position and owns no random state. The
order of an epoch and every random choice made on an image are functions of
(seed, epoch, index, purpose), so a run may stop after any step and resume there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyinception import rng

SPLITS = ("train", "test")

Augmentation = Callable[..., NDArray[np.float32]]


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


class Batch(NamedTuple):
    """One step's data: `images` (B, H, W, C) float32, `labels` (B,) int64."""

    step: int
    indices: NDArray[np.int64]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool = True) -> NDArray[np.int64]:
    """order = permutation of 0..count-1 drawn from (seed, epoch), or 0..count-1.

    Returns
    -------
    (count,) int64
    """
    if not shuffle:
        return np.arange(count, dtype=np.int64)
    return rng.generator(seed, epoch, 0, "order").permutation(count).astype(np.int64)


def steps_per_epoch(count: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return ceil(count / batch_size), or its floor if the last short batch is dropped."""
    if batch_size < 1:
        raise ValueError(f"steps_per_epoch: batch_size is {batch_size}, expected at least 1")
    return count // batch_size if drop_last else -(-count // batch_size)


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    augment: Augmentation | None = None,
    start: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Yield batch b = (b, i, augment(images[i]), labels[i]) with i = order[b B : (b + 1) B].

    Parameters
    ----------
    dataset : Dataset
        Where images and labels come from.
    batch_size : int
        B. The last batch of an epoch may be shorter.
    seed, epoch : int
        Fix the order and every augmentation.
    shuffle : bool
        False walks 0, 1, 2, ...
    augment : callable or None
        ``augment(images, indices, seed=..., epoch=...) -> images``, see `augment.Augment`.
    start : int
        First step to yield: what follows is the same as without it.
    drop_last : bool
        Leave a short last batch out.

    Yields
    ------
    Batch

    Raises
    ------
    ValueError
        If `batch_size` is below 1 or `start` lies outside the epoch.
    """
    count = len(dataset)
    steps = steps_per_epoch(count, batch_size, drop_last=drop_last)
    if not 0 <= start <= steps:
        raise ValueError(f"batches: start is {start}, expected a step in [0, {steps}]")
    order = epoch_order(count, seed=seed, epoch=epoch, shuffle=shuffle)
    return _walk(dataset, order, range(start, steps), batch_size, augment, seed, epoch)


def _walk(
    dataset: Dataset,
    order: NDArray[np.int64],
    steps: range,
    batch_size: int,
    augment: Augmentation | None,
    seed: int,
    epoch: int,
) -> Iterator[Batch]:
    # A generator of its own, so that `batches` checks its arguments when it is called.
    for step in steps:
        indices = order[step * batch_size : (step + 1) * batch_size]
        images = dataset.images(indices)
        if augment is not None:
            images = augment(images, indices, seed=seed, epoch=epoch)
        yield Batch(step, indices, images, dataset.labels[indices])


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
