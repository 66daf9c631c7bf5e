"""Labelled pictures in files: what folders and shards have in common.

    images(i) = picture i / 255, upright RGB, cut and scaled as `picture.read_picture` says

A picture is found by its `Locator` alone (file, offset, length), so another process can decode
it without opening the data set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyinception.data.dataset import DatasetError, check_indices, check_split
from pyinception.data.picture import MAX_PIXELS, PictureError, read_picture

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "png", "bmp", "gif", "webp"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
    )
)
LISTED = 10  # faulty files named in one error
CACHE_BYTES = 2**30
BAD = ("stop", "skip")

Locator = tuple[str, int, int]  # file, first byte, number of bytes (-1: the whole file)
Progress = Callable[[int, int], None]


class Options(TypedDict, total=False):
    """Keywords that every data set of pictures takes, see `Pictures`."""

    check: bool
    bad: str
    max_pixels: int
    cache_bytes: int
    progress: Progress | None


def fetch(locator: Locator) -> Path | bytes:
    """What `read_picture` reads: the path of a whole file, or the bytes of a part of one.

    Raises
    ------
    PictureError
        If the file is gone or shorter than the part.
    """
    name, offset, length = locator
    if length < 0:
        return Path(name)
    try:
        with open(name, "rb") as file:
            if os.fstat(file.fileno()).st_size < offset + length:
                raise PictureError(f"the file ends before byte {offset + length:,}")
            return os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise PictureError(str(error)) from error


class Pictures:
    """A data set whose images lie encoded in files; a base class.

    A subclass sets `name`, gives labels and classes to this constructor and answers `_locate`
    and `where`.

    Parameters
    ----------
    root : Path
        Where they lie, for messages.
    split : str
        ``"train"`` or ``"test"``.
    size : (int, int)
        H, W of the images.
    labels : (N,) int64
    classes : list of str
    check : bool
        Decode every picture now, so that damage shows before training and not during it; the
        bytes are kept if they all fit in `cache_bytes`. False by default.
    bad : str
        What becomes of pictures that this check cannot read: ``"stop"`` raises, ``"skip"``
        leaves them out (`skipped`).
    max_pixels : int
        Largest picture accepted, in pixels before scaling.
    progress : callable or None
        ``progress(done, total)``, called after each picture checked.

    Attributes
    ----------
    skipped : list of str
        "NAME: reason" of the pictures left out.

    Raises
    ------
    DatasetError
        If pictures cannot be read: up to ten are named, each with its reason.
    """

    name = "pictures"

    def __init__(
        self,
        root: Path,
        split: str,
        size: tuple[int, int],
        labels: NDArray[np.int64],
        classes: list[str],
        **options: Unpack[Options],
    ) -> None:
        bad = options.get("bad", "stop")
        if bad not in BAD:
            raise DatasetError(f"{self.name}: bad is {bad!r}, expected one of {', '.join(BAD)}")
        self.root, self.split = root, check_split(self.name, split)
        self.shape = (*check_size(self.name, size), 3)
        self.classes, self.labels = classes, labels
        self.max_pixels = options.get("max_pixels", MAX_PIXELS)
        self.skipped: list[str] = []
        self._cache: NDArray[np.uint8] | None = None
        self._source = np.arange(len(labels), dtype=np.int64)  # of those that are not skipped
        if options.get("check", False):
            cache_bytes = options.get("cache_bytes", CACHE_BYTES)
            self._check(bad, cache_bytes, options.get("progress"))

    def _locate(self, source: int) -> Locator:
        raise NotImplementedError

    def _where(self, source: int) -> str:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def cached(self) -> bool:
        """Whether the images lie decoded in memory."""
        return self._cache is not None

    def locate(self, index: int) -> Locator:
        """File, first byte and number of bytes of picture `index`."""
        return self._locate(int(self._source[index]))

    def where(self, index: int) -> str:
        """The name of picture `index`, for people."""
        return self._where(int(self._source[index]))

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Picture `index` as large as it is, (H, W, 3) uint8, and its label."""
        (chosen,) = check_indices(f"{self.name}.read", [index], len(self))
        return self._decode(chosen, None), int(self.labels[chosen])

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Return the pictures at `indices`: (n, H, W, 3) float32 k/255 in [0, 1].

        Raises
        ------
        DatasetError
            If one cannot be read, or no longer.
        """
        chosen = check_indices(f"{self.name}.images", indices, len(self))
        if self._cache is not None:
            pixels = self._cache[chosen]
        else:
            pixels = np.empty((len(chosen), *self.shape), dtype=np.uint8)
            for n, index in enumerate(chosen):
                pixels[n] = self._decode(index, self.shape[:2])
        return np.divide(pixels, np.float32(255), dtype=np.float32)

    def _decode(self, index: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        try:
            return read_picture(fetch(self.locate(index)), size, max_pixels=self.max_pixels)
        except PictureError as error:
            raise DatasetError(f"{self.name}: {self.where(index)}: {error}") from error

    def _check(self, bad: str, cache_bytes: int, progress: Progress | None) -> None:
        shape = (len(self), *self.shape)
        keep = int(np.prod(shape)) <= cache_bytes
        cache = np.empty(shape, dtype=np.uint8) if keep else None
        faults: dict[int, str] = {}
        for n in range(len(self)):
            try:
                pixels = read_picture(
                    fetch(self.locate(n)), self.shape[:2], max_pixels=self.max_pixels
                )
                if cache is not None:
                    cache[n] = pixels
            except PictureError as error:
                faults[n] = f"{self.where(n)}: {error}"
            if progress is not None:
                progress(n + 1, len(self))
        if faults and (bad == "stop" or len(faults) == len(self)):
            lines = [f"  {text}" for text in list(faults.values())[:LISTED]]
            if len(faults) > LISTED:
                lines.append(f"  and {len(faults) - LISTED} more")
            text = f"{len(faults)} of {len(self)} files in {self.root} cannot be read:\n"
            raise DatasetError(f"{self.name}: {text}" + "\n".join(lines))
        if faults:
            self.skipped = list(faults.values())
        self._cache = cache
        self._keep(np.setdiff1d(self._source, list(faults)))

    def thin(self, count: int) -> None:
        """Keep `count` pictures, of every class the same share, in their order.

        The k-th one kept is number floor(k N / count) of all N ordered by class, whatever their
        order here: folders come class by class, where the first ones would be of one class.
        """
        if not 0 < count <= len(self):
            raise DatasetError(f"{self.name}: count is {count}, expected 1 ... {len(self)}")
        by_class = np.argsort(self.labels, kind="stable")
        self._keep(np.sort(by_class[np.arange(count) * len(self) // count]))

    def _keep(self, chosen: NDArray[np.int64]) -> None:
        self._source, self.labels = self._source[chosen], self.labels[chosen]
        self._cache = None if self._cache is None else self._cache[chosen]


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return `size` as two ints of at least 1, else raise DatasetError."""
    height, width = int(size[0]), int(size[1])
    if min(height, width) < 1:
        raise DatasetError(f"{name}: size is {size}, expected at least (1, 1)")
    return height, width


def pictures_of(dataset: object) -> Pictures | None:
    """The pictures that a data set, or the one it is a part of, is made of; else None."""
    while dataset is not None and not isinstance(dataset, Pictures):
        dataset = getattr(dataset, "whole", None)
    return dataset
