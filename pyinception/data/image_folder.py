"""A folder of pictures, one sub-folder per class.

    ROOT/train/CLASS/*.jpg, ROOT/test/CLASS/*.jpg       or       ROOT/CLASS/*.jpg

Without ``train`` and ``test`` (or ``val``) folders, a file is in the test split if the SHA-256
of "CLASS/FILE" is below 20 % of its range: the split called ``hash-20`` does not move when files
are added. Classes are the folders' names in sorted order; label k is the k-th.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

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
TEST_FOLDERS = ("test", "val")
TEST_SHARE = 0.2
LISTED = 10  # faulty files named in one error
CACHE_BYTES = 2**30


class ImageFolder:
    """images(i) = picture i / 255, cut and scaled as `picture.read_picture` says.

    Every file is decoded once when the data set is opened, so that damage shows before training
    and not during it. The bytes are kept if they all fit in `cache_bytes`; else files are read
    again when they are asked for.

    Parameters
    ----------
    root : path
        See the head of the module for the two layouts.
    split : str
        ``"train"`` or ``"test"``.
    size : (int, int)
        H, W of the images.
    max_pixels : int
        Largest picture accepted, in pixels before scaling.
    cache_bytes : int
        Memory for decoded pictures.
    progress : callable or None
        ``progress(done, total)``, called after each file of the first pass.

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
        max_pixels: int = MAX_PIXELS,
        cache_bytes: int = CACHE_BYTES,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.split = check_split("image_folder", split)
        if min(size) < 1:
            raise DatasetError(f"image_folder: size is {size}, expected at least (1, 1)")
        self.shape = (int(size[0]), int(size[1]), 3)
        self._max_pixels = max_pixels
        self.ignored: list[Path] = []
        files = self._files(Path(root))
        self.classes = sorted(files)
        self.paths = [path for name in self.classes for path in files[name]]
        labels = [k for k, name in enumerate(self.classes) for _ in files[name]]
        self.labels = np.asarray(labels, dtype=np.int64)
        self._cache = self._first_pass(Path(root), cache_bytes, progress)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Return the pictures at `indices`: (n, H, W, 3) float32 k/255 in [0, 1].

        Raises
        ------
        DatasetError
            If a file that was whole when the data set was opened no longer is.
        """
        chosen = check_indices("image_folder.images", indices, len(self))
        if self._cache is not None:
            pixels = self._cache[chosen]
        else:
            pixels = np.empty((len(chosen), *self.shape), dtype=np.uint8)
            for n, index in enumerate(chosen):
                try:
                    pixels[n] = self._read(self.paths[index])
                except PictureError as error:
                    raise DatasetError(f"image_folder: {self.paths[index]}: {error}") from error
        return pixels.astype(np.float32) / np.float32(255)

    def _read(self, path: Path) -> NDArray[np.uint8]:
        return read_picture(path, self.shape[:2], max_pixels=self._max_pixels)

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

    def _first_pass(
        self, root: Path, cache_bytes: int, progress: Callable[[int, int], None] | None
    ) -> NDArray[np.uint8] | None:
        """Decode every file once; raise one error for all faulty ones."""
        shape = (len(self), *self.shape)
        keep = int(np.prod(shape)) <= cache_bytes
        cache = np.empty(shape, dtype=np.uint8) if keep else None
        faults = []
        for n, path in enumerate(self.paths):
            try:
                pixels = self._read(path)
                if cache is not None:
                    cache[n] = pixels
            except PictureError as error:
                faults.append(f"  {path.relative_to(root)}: {error}")
            if progress is not None:
                progress(n + 1, len(self))
        if faults:
            lines = faults[:LISTED]
            if len(faults) > LISTED:
                lines.append(f"  and {len(faults) - LISTED} more")
            raise DatasetError(
                f"image_folder: {len(faults)} of {len(self)} files in {root} cannot be read:\n"
                + "\n".join(lines)
            )
        return cache


def in_test_split(class_name: str, file_name: str) -> bool:
    """Return whether SHA-256("CLASS/FILE") / 2^256 < 0.2: the split ``hash-20``."""
    digest = hashlib.sha256(f"{class_name}/{file_name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64
