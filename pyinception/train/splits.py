"""The two splits of a recipe's data set."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyinception import data
from pyinception.data.dataset import check_indices
from pyinception.data.pictures import Options, pictures_of
from pyinception.train.baselines import LARGEST
from pyinception.train.progress import Counting, Reporter, Silent
from pyinception.train.recipe import Recipe, RecipeError


class First:
    """images(i) = images(i) of another data set, for i < count."""

    def __init__(self, whole: data.Dataset, count: int) -> None:
        self.name, self.split = whole.name, whole.split
        self.classes, self.shape = whole.classes, whole.shape
        self.labels = whole.labels[:count]
        if hasattr(whole, "diameters"):
            self.diameters = whole.diameters[:count]
        self.whole = whole

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Return the images at `indices`: (n, H, W, C) float32 in [0, 1]."""
        return self.whole.images(check_indices(f"{self.name}.images", indices, len(self)))

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return image `index` as it was stored, and its label."""
        (chosen,) = check_indices(f"{self.name}.read", [index], len(self))
        return self.whole.read(int(chosen))


def load_split(recipe: Recipe, split: str, report: Reporter | None = None) -> data.Dataset:
    """The images of ``split`` ("train" or "test") that the recipe uses.

    ``count`` takes the first ones; of pictures in files the same share of every class
    (`data.Pictures.thin`).

    Raises
    ------
    data.DatasetError
        As `data.load`; RecipeError if there are fewer images than the recipe wants.
    """
    tell = Counting(report or Silent(), f"checking {split} files", "file")
    options: Options = {"progress": tell}
    if recipe.data in data.PICTURES:
        options["bad"] = recipe.bad_images
        if split == "train" and recipe.crop_area < 1:
            options["cache_bytes"] = 0  # each crop is cut from the file
    count = recipe.count if split == "train" else recipe.test_count
    generated = recipe.data == "shapes"  # has as many as asked for
    with tell:
        dataset = data.load(
            recipe.data,
            split,
            root=recipe.root or None,
            size=recipe.size or None,
            count=count if generated and count else None,
            **options,
        )
    for text in getattr(dataset, "skipped", ()):
        (report or Silent()).line(f"left out of {split}: {text}")
    if count > len(dataset):
        name = "count" if split == "train" else "test_count"
        text = f"{recipe.data}/{split} has {len(dataset)} images"
        raise RecipeError(f"recipe: {name} is {count}, but {text}")
    if not 0 < count < len(dataset):
        return dataset
    if isinstance(dataset, data.Pictures):
        dataset.thin(count)
        return dataset
    return First(dataset, count)


def fingerprint(dataset: data.Dataset) -> str:
    """SHA-256 over classes, labels and names of pictures: the same, the same images."""
    about = {"classes": dataset.classes, "images": len(dataset)}
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(np.ascontiguousarray(dataset.labels).tobytes())
    pictures = pictures_of(dataset)
    for index in range(len(dataset) if pictures is not None else 0):
        assert pictures is not None
        digest.update(pictures.where(index).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def check_sets(recipe: Recipe, sets: tuple[data.Dataset, data.Dataset], workers: int) -> None:
    """Refuse what does not fit together, before anything is written."""
    train, test = sets
    if train.shape != test.shape:
        raise data.DatasetError(f"train: shapes differ, {train.shape} and {test.shape}")
    if train.classes != test.classes:
        raise data.DatasetError(f"train: the two splits of {train.name} have other classes")
    if recipe.crop > min(train.shape[:2]):
        text = f"crop is {recipe.crop}, {train.name} has {train.shape[0]} x {train.shape[1]} pixels"
        raise RecipeError(f"recipe: {text}")
    if recipe.mean and len(recipe.mean) != train.shape[2]:
        text = f"mean has {len(recipe.mean)} values, {train.name} {train.shape[2]} channels"
        raise RecipeError(f"recipe: {text}")
    if workers and pictures_of(train) is None:
        text = f"{train.name} lies in memory, workers decode files of pictures"
        raise ValueError(f"train: workers is {workers}, but {text}")


def fit_in_memory(sets: tuple[data.Dataset, data.Dataset]) -> bool:
    """Whether nearest neighbours can look at all pixels at once, in reasonable time."""
    decoded = all((p := pictures_of(images)) is None or p.cached for images in sets)
    numbers = len(sets[0]) * math.prod(sets[0].shape)
    return decoded and len(sets[0]) <= LARGEST and numbers <= LARGEST * 32 * 32 * 3


def example(dataset: data.Dataset, recipe: Recipe) -> NDArray[np.float32]:
    """The first image that can be read, normalised, (1, H, W, C)."""
    normalise = recipe.augment().without_chance()
    found = data.batches(
        dataset, 8, seed=0, epoch=0, shuffle=False, augment=normalise, bad=recipe.bad_images
    )
    return next(batch.images[:1] for batch in found if len(batch.labels))
