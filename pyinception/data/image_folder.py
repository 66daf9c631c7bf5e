"""A folder of pictures, one sub-folder per class.

    ROOT/train/CLASS/*.jpg, ROOT/test/CLASS/*.jpg       or       ROOT/CLASS/*.jpg

Without ``train`` and ``test`` (or ``val``) folders, a file is in the test split if the SHA-256
of "CLASS/FILE" is below 20 % of its range: the split called ``hash-20`` does not move when files
are added. Classes are the folders' names in sorted order; label k is the k-th.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Unpack

import numpy as np

from pyinception.data.dataset import DatasetError, check_split
from pyinception.data.pictures import SUFFIXES, Locator, Options, Pictures, check_size

TEST_FOLDERS = ("test", "val")
TEST_SHARE = 0.2


class ImageFolder(Pictures):
    """images(i) = picture i / 255, cut and scaled as `picture.read_picture` says.

    Parameters
    ----------
    root : path
        See the head of the module for the two layouts.
    split, size, check, bad, max_pixels, cache_bytes, progress
        As in `Pictures`; here every file is checked by default.

    Attributes
    ----------
    paths : list of Path
        File of every image, in the order of the indices.
    ignored : list of Path
        Files left out because their suffix is not that of an image.

    Raises
    ------
    DatasetError
        If the folder is missing or empty, a class is empty or lacks in one split, or files
        cannot be read: up to ten are named, each with its reason.
    """

    name = "image_folder"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        size: tuple[int, int] = (32, 32),
        **options: Unpack[Options],
    ) -> None:
        self.split = check_split(self.name, split)
        check_size(self.name, size)
        self.root = Path(root)
        self.ignored: list[Path] = []
        files = self._files(self.root)
        classes = sorted(files)
        self._paths = [path for name in classes for path in files[name]]
        labels = [k for k, name in enumerate(classes) for _ in files[name]]
        options.setdefault("check", True)
        super().__init__(self.root, split, size, np.asarray(labels, np.int64), classes, **options)

    @property
    def paths(self) -> list[Path]:
        """File of every image, in the order of the indices."""
        return [self._paths[source] for source in self._source]

    def _locate(self, source: int) -> Locator:
        return str(self._paths[source]), 0, -1

    def _where(self, source: int) -> str:
        return str(self._paths[source].relative_to(self.root))

    def _files(self, root: Path) -> dict[str, list[Path]]:
        """Return the files of this split by class, after every check on the folders."""
        if not root.is_dir():
            raise DatasetError(f"image_folder: {root} is not a folder")
        train = root / "train"
        test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
        if train.is_dir() and test is not None:
            found = self._classes(train), self._classes(test)
            for here, there, folder in ((*found, test), (*found[::-1], train)):
                if lacking := sorted(set(here) - set(there)):
                    raise DatasetError(f"image_folder: {folder} lacks the classes {lacking}")
            return found[0 if self.split == "train" else 1]
        if train.is_dir() or test is not None:
            raise DatasetError(
                f"image_folder: {root} has one of train and test (or val), expected both or none"
            )
        return self._by_hash(self._classes(root), root)

    def _classes(self, folder: Path) -> dict[str, list[Path]]:
        """Return {class: sorted files}; refuse an empty folder and an empty class."""
        names = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != "."]
        if not names:
            raise DatasetError(
                f"image_folder: {folder} is empty, expected one sub-folder per class"
            )
        classes = {}
        for sub in names:
            files = sorted(p for p in sub.iterdir() if p.is_file() and p.name[0] != ".")
            other = [p for p in files if p.suffix.lower() not in SUFFIXES]
            self.ignored.extend(other)
            classes[sub.name] = [p for p in files if p.suffix.lower() in SUFFIXES]
            if not classes[sub.name]:
                raise DatasetError(
                    f"image_folder: class folder {sub} holds no image "
                    f"({len(other)} other files; suffixes read: {' '.join(sorted(SUFFIXES))})"
                )
        return classes

    def _by_hash(self, classes: dict[str, list[Path]], root: Path) -> dict[str, list[Path]]:
        chosen = {
            name: [p for p in files if in_test_split(name, p.name) == (self.split == "test")]
            for name, files in classes.items()
        }
        # A class that cannot be tested is a pity; one that cannot be trained is an error.
        empty = [name for name, files in chosen.items() if not files]
        if (empty and self.split == "train") or len(empty) == len(classes):
            raise DatasetError(
                f"image_folder: {root} has no image of {', '.join(empty)} in the {self.split} "
                "split (hash-20): add images, or make train and test folders"
            )
        return chosen


def in_test_split(class_name: str, file_name: str) -> bool:
    """Return whether SHA-256("CLASS/FILE") / 2^256 < 0.2: the split ``hash-20``."""
    digest = hashlib.sha256(f"{class_name}/{file_name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64
