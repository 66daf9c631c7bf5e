"""Data sets by name: ``load("digits", "train")``, ``load("tar", root=folder)``.

=============  =====================================================  ==============  ========
name           what                                                   H, W, C         from
=============  =====================================================  ==============  ========
digits         handwritten digits that ship with scikit-learn         28, 28, 1       library
shapes         generated objects of widely varying size, with boxes   32, 32, 3       nothing
cifar10        CIFAR-10, binary version                               32, 32, 3       a folder
cifar100       CIFAR-100, binary version                              32, 32, 3       a folder
mnist          MNIST and sets in its format, idx or idx.gz            28, 28, 1       a folder
image_folder   any pictures, one sub-folder per class                 as asked        a folder
imagenet       ImageNet or a part of it, with its synset mapping      as asked        a folder
tar            pictures in tar shards, as WebDataset lays them out    as asked        a folder
=============  =====================================================  ==============  ========

`find` takes what a person types ("mnist:/data/mnist", or the folder alone) apart into name and
root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from pyinception.data.augment import Augment, channel_mean
from pyinception.data.batches import Batch, batches, epoch_order, steps_per_epoch
from pyinception.data.dataset import ArrayDataset, Dataset, DatasetError
from pyinception.data.find import NAMES, ON_DISK, check_name, find
from pyinception.data.pictures import Options, Pictures
from pyinception.data.workers import WorkerError, Workers

__all__ = [
    "NAMES",
    "PICTURES",
    "ArrayDataset",
    "Augment",
    "Batch",
    "Dataset",
    "DatasetError",
    "Pictures",
    "WorkerError",
    "Workers",
    "batches",
    "channel_mean",
    "epoch_order",
    "find",
    "load",
    "steps_per_epoch",
]

PICTURES = ("image_folder", "imagenet", "tar")
FIXED = {"cifar10": 32, "cifar100": 32, "mnist": 28}


def load(
    name: str,
    split: str = "train",
    *,
    root: str | Path | None = None,
    size: int | None = None,
    count: int | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Dataset:
    """Return one split of the data set called `name`.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    split : str
        ``"train"`` or ``"test"``.
    root : path or None
        Folder of the data sets on disk; ``digits`` and ``shapes`` take none.
    size : int or None
        Rows and columns of an image; None is the data set's own (``image_folder`` and ``tar``:
        32, ``imagenet``: 224). CIFAR has 32 and MNIST 28, and no other.
    count, seed : int
        Number of images and seed of ``shapes``; `count` cuts no other data set.
    options
        ``check``, ``bad``, ``max_pixels``, ``cache_bytes`` and ``progress`` of `Pictures`, for
        ``image_folder``, ``imagenet`` and ``tar``; the others take none and ignore ``progress``.

    Raises
    ------
    DatasetError
        If the name is unknown, an argument does not belong to the data set, or its files are
        missing or damaged.
    ImportError
        If a package that reads it is absent; the text names the extra.
    """
    check_name(name)
    if name in ON_DISK and root is None:
        raise DatasetError(f"load: {name} needs root, the folder it is in")
    if name not in ON_DISK and root is not None:
        raise DatasetError(f"load: {name} takes no root, got {str(root)!r}")
    if count is not None and name != "shapes":
        raise DatasetError(f"load: {name} takes no count, got {count}")
    if size not in (None, FIXED.get(name, size)):
        raise DatasetError(
            f"load: {name} has images of {FIXED[name]} x {FIXED[name]}, got size {size}"
        )
    if name not in PICTURES and (other := options.keys() - {"progress"}):
        raise DatasetError(f"load: {name} takes no {sorted(other)[0]}")
    # One module per data set, imported when it is asked for: each may need a package of its own.
    if name == "digits":
        from pyinception.data.digits import digits

        return digits(split, size=28 if size is None else size)
    if name == "shapes":
        from pyinception.data.shapes import Shapes

        return Shapes(split, count=count, seed=seed, size=32 if size is None else size)
    assert root is not None
    if name in ("cifar10", "cifar100"):
        from pyinception.data import cifar

        return (cifar.cifar10 if name == "cifar10" else cifar.cifar100)(root, split)
    if name == "mnist":
        from pyinception.data.mnist import mnist

        return mnist(root, split)
    from pyinception.data.image_folder import ImageFolder
    from pyinception.data.imagenet import ImageNet
    from pyinception.data.tar_shards import TarShards

    kinds: dict[str, type[ImageFolder] | type[ImageNet] | type[TarShards]]
    kinds = {"image_folder": ImageFolder, "imagenet": ImageNet, "tar": TarShards}
    edge = size or (224 if name == "imagenet" else 32)
    return kinds[name](root, split, size=(edge, edge), **options)
