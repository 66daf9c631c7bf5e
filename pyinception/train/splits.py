"""The two splits of a recipe's data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyinception import data
from pyinception.data.dataset import check_indices
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

    Raises
    ------
    data.DatasetError
        As `data.load`; RecipeError if there are fewer images than the recipe wants.
    """
    count = recipe.count if split == "train" else recipe.test_count
    generated = recipe.data == "shapes"  # has as many as asked for
    with Counting(report or Silent(), f"checking {split} files", "file") as tell:
        dataset = data.load(
            recipe.data,
            split,
            root=recipe.root or None,
            size=recipe.size or None,
            count=count if generated and count else None,
            progress=tell,
        )
    if count > len(dataset):
        name = "count" if split == "train" else "test_count"
        text = f"{recipe.data}/{split} has {len(dataset)} images"
        raise RecipeError(f"recipe: {name} is {count}, but {text}")
    return First(dataset, count) if 0 < count < len(dataset) else dataset
