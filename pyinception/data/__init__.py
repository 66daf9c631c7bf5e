"""Data sets by name: ``load("digits", "train")``.

=============  =====================================================  ==============  ========
name           what                                                   H, W, C         from
=============  =====================================================  ==============  ========
digits         handwritten digits that ship with scikit-learn         28, 28, 1       library
shapes         generated objects of widely varying size, with boxes   32, 32, 3       nothing
cifar10        CIFAR-10, binary version                               32, 32, 3       a folder
image_folder   any pictures, one sub-folder per class                 as asked        a folder
=============  =====================================================  ==============  ========
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from pyinception.data.augment import Augment, channel_mean
from pyinception.data.dataset import (
    ArrayDataset,
    Batch,
    Dataset,
    DatasetError,
    batches,
    epoch_order,
    steps_per_epoch,
)

NAMES = ("digits", "shapes", "cifar10", "image_folder")

__all__ = [
    "NAMES",
    "ArrayDataset",
    "Augment",
    "Batch",
    "Dataset",
    "DatasetError",
    "batches",
    "channel_mean",
    "epoch_order",
    "load",
    "steps_per_epoch",
]


def load(
    name: str,
    split: str = "train",
    *,
    root: str | Path | None = None,
    size: int | None = None,
    count: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Return one split of the data set called `name`.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    split : str
        ``"train"`` or ``"test"``.
    root : path or None
        Folder of ``cifar10`` and ``image_folder``; the others take none.
    size : int or None
        Rows and columns of an image; None is the data set's own (``image_folder``: 32).
        ``cifar10`` has 32 and no other.
    count, seed : int
        Number of images and seed of ``shapes``; `count` cuts no other data set.
    progress : callable or None
        ``progress(done, total)`` while ``image_folder`` checks its files.

    Raises
    ------
    DatasetError
        If the name is unknown, an argument does not belong to the data set, or its files are
        missing or damaged.
    ImportError
        If a package that reads it is absent; the text names the extra.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DatasetError(
            f"load: unknown data set {name!r}, expected one of {', '.join(NAMES)}{hint}"
        )
    on_disk = name in ("cifar10", "image_folder")
    if on_disk and root is None:
        raise DatasetError(f"load: {name} needs root, the folder it is in")
    if not on_disk and root is not None:
        raise DatasetError(f"load: {name} takes no root, got {str(root)!r}")
    if count is not None and name != "shapes":
        raise DatasetError(f"load: {name} takes no count, got {count}")
    # One module per data set, imported when it is asked for: each may need a package of its own.
    if name == "digits":
        from pyinception.data.digits import digits

        return digits(split, size=28 if size is None else size)
    if name == "shapes":
        from pyinception.data.shapes import Shapes

        return Shapes(split, count=count, seed=seed, size=32 if size is None else size)
    assert root is not None
    if name == "cifar10":
        from pyinception.data.cifar10 import cifar10

        if size not in (None, 32):
            raise DatasetError(f"load: cifar10 has images of 32 x 32, got size {size}")
        return cifar10(root, split)
    from pyinception.data.image_folder import ImageFolder

    edge = 32 if size is None else size
    return ImageFolder(root, split, size=(edge, edge), progress=progress)
