"""ImageNet (ILSVRC 2012 classification) as people have it on disk, or a part of it.

    ROOT/train/n01440764/*.JPEG
    ROOT/val/*.JPEG                  and a list of labels, or val/n01440764/*.JPEG
    ROOT/LOC_synset_mapping.txt      "n01440764 tench, Tinca tinca": label k is line k

``ROOT/ILSVRC/Data/CLS-LOC`` may stand before ``train`` and ``val``. The list of labels is
``LOC_val_solution.csv`` ("ILSVRC2012_val_00000001,n01751748 ...") or ``val.txt``
("ILSVRC2012_val_00000001.JPEG 65", labels from 0), beside the mapping or in ``val``. The
development kit's list of bare numbers counts classes in an order of its own and is not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Unpack

import numpy as np

from pyinception.data.dataset import DatasetError, check_split
from pyinception.data.pictures import SUFFIXES, Locator, Options, Pictures

MAPPING = "LOC_synset_mapping.txt"
SOLUTION, LABELS = "LOC_val_solution.csv", "val.txt"
INNER = Path("ILSVRC", "Data", "CLS-LOC")
MAX_LIST = 2**26  # bytes of a list; that of 1.2 million names has 40 MB
_SYNSET = re.compile(r"n\d{8}$")


class ImageNet(Pictures):
    """images(i) = picture i / 255, cut and scaled as `picture.read_picture` says.

    Parameters
    ----------
    root : path
        See the head of the module.
    split : str
        ``"train"``, or ``"test"``: the validation images.
    size, check, bad, max_pixels, cache_bytes, progress
        As in `Pictures`.

    Attributes
    ----------
    classes : list of str
        Synset and first word, such as "n01440764 tench": words alone occur twice.

    Raises
    ------
    DatasetError
        If a folder, the mapping or the list of labels is missing, or they do not fit each other:
        the file and the line are named.
    """

    name = "imagenet"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        size: tuple[int, int] = (224, 224),
        **options: Unpack[Options],
    ) -> None:
        check_split(self.name, split)
        self.root = Path(root)
        mapping = read_mapping(self.root / MAPPING)
        folder = next(
            (
                found
                for base in (self.root / INNER, self.root)
                if (found := base / ("train" if split == "train" else "val")).is_dir()
            ),
            None,
        )
        if folder is None:
            raise DatasetError(f"imagenet: {self.root} has no {split} folder (train, val)")
        synsets = list(mapping)
        if split == "train" or any((folder / synset).is_dir() for synset in synsets):
            names, labels = _by_folder(folder, synsets)
        else:
            names, labels = _by_list(self.root, folder, synsets)
        self._folder, self._names = folder, names
        classes = [f"{synset} {words}" for synset, words in mapping.items()]
        super().__init__(self.root, split, size, np.array(labels, np.int64), classes, **options)

    def _locate(self, source: int) -> Locator:
        return f"{self._folder}/{self._names[source]}", 0, -1

    def _where(self, source: int) -> str:
        return f"{self._folder.name}/{self._names[source]}"


def read_mapping(path: Path) -> dict[str, str]:
    """Synset -> its first word, in the order of the lines of a synset mapping.

    Raises
    ------
    DatasetError
        If the file is missing, or a line is no synset with words, or occurs twice.
    """
    mapping: dict[str, str] = {}
    for number, line in _lines(path):
        synset, _, words = line.partition(" ")
        if not _SYNSET.match(synset) or not words.strip():
            text = f"line {number} is {line[:60]!r}, expected 'n01440764 tench, ...'"
            raise DatasetError(f"imagenet: {path}: {text}")
        if synset in mapping:
            raise DatasetError(f"imagenet: {path}: line {number} names {synset} again")
        mapping[synset] = words.split(",")[0].strip()
    if not mapping:
        raise DatasetError(f"imagenet: {path} names no synset")
    return mapping


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not empty."""
    if not path.is_file():
        raise DatasetError(f"imagenet: {path} is missing")
    if path.stat().st_size > MAX_LIST:
        raise DatasetError(f"imagenet: {path} has more than {MAX_LIST:,} bytes")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"imagenet: {path} is no text: {error}") from None
    return [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]


def _pictures(folder: Path) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )


def _by_folder(folder: Path, synsets: list[str]) -> tuple[list[str], list[int]]:
    present = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
    for what, wrong in (
        ("no folder of the synset", [synset for synset in synsets if synset not in present]),
        ("a folder that the mapping does not name:", sorted(present - set(synsets))),
    ):
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise DatasetError(f"imagenet: {folder} has {what} {wrong[0]}{more}")
    names, labels = [], []
    for label, synset in enumerate(synsets):
        found = _pictures(folder / synset)
        if not found:
            raise DatasetError(f"imagenet: {folder / synset} holds no image")
        names += [f"{synset}/{name}" for name in found]
        labels += [label] * len(found)
    return names, labels


def _by_list(root: Path, folder: Path, synsets: list[str]) -> tuple[list[str], list[int]]:
    """Names and labels of a flat folder; list and folder must agree on every file."""
    paths = [base / name for name in (SOLUTION, LABELS) for base in (root, folder)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        text = f"has no folder per synset, and {root} no {SOLUTION} or {LABELS}"
        raise DatasetError(f"imagenet: {folder} {text} to tell the labels")
    known = {synset: label for label, synset in enumerate(synsets)}
    listed: dict[str, int] = {}
    for number, line in _lines(path):
        if path.name == SOLUTION:
            if number == 1 and line.startswith("ImageId"):
                continue
            stem, _, rest = line.partition(",")
            name, label = f"{stem}.JPEG", known.get(rest.split(" ")[0], -1)
        else:
            name, _, rest = line.rpartition(" ")
            label = int(rest) if rest.isascii() and rest.isdigit() and len(rest) < 9 else -1
        if not name or not 0 <= label < len(synsets):
            text = f"line {number} is {line[:60]!r}: no label of the {len(synsets)} synsets"
            raise DatasetError(f"imagenet: {path}: {text}")
        if name in listed:
            raise DatasetError(f"imagenet: {path}: line {number} names {name} again")
        listed[name] = label
    names = _pictures(folder)
    for what, wrong in (
        (f"holds no image that {path} lists:", sorted(listed.keys() - set(names))),
        (f"holds an image that {path} does not list:", sorted(set(names) - listed.keys())),
    ):
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise DatasetError(f"imagenet: {folder} {what} {wrong[0]}{more}")
    if not names:
        raise DatasetError(f"imagenet: {folder} holds no image")
    return names, [listed[name] for name in names]
