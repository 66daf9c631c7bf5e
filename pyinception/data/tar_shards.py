"""Pictures in uncompressed tar files, as WebDataset lays them out.

    ROOT/train-*.tar, ROOT/test-*.tar (or val)    or    ROOT/train/*.tar, ROOT/test/*.tar (or val)
    inside:  000123.jpg, 000123.cls, 000124.jpg, 000124.cls, ...

A sample is the run of members with one key, the name up to the first dot of its last part; its
picture and its ``.cls`` (a decimal class number) are used, other members are not.
``ROOT/classes.txt`` may name the classes, one a line; else they are called "0", "1", ...
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

import numpy as np

from pyinception.data.dataset import DatasetError, check_split
from pyinception.data.pictures import SUFFIXES, Locator, Options, Pictures
from pyinception.data.tar_index import Member, members

PREFIXES = {"train": ("train",), "test": ("test", "val")}
CLASSES = "classes.txt"
MAX_CLASSES = 10**5  # names of more would take more memory than a small shard may cost
MAX_CLASS_BYTES = 20  # of a .cls member


class TarShards(Pictures):
    """images(i) = picture i / 255, cut and scaled as `picture.read_picture` says.

    Only the headers are read when the data set is opened; a picture's bytes are read where the
    index says that they lie, when it is asked for.

    Parameters
    ----------
    root : path
        See the head of the module.
    split, size, check, bad, max_pixels, cache_bytes, progress
        As in `Pictures`.

    Raises
    ------
    DatasetError
        If there is no shard, one is damaged, a sample lacks its picture or its class, or a class
        is no number or out of range: the shard and the member are named.
    """

    name = "tar"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        size: tuple[int, int] = (32, 32),
        **options: Unpack[Options],
    ) -> None:
        check_split(self.name, split)
        self.root = Path(root)
        self._shards = shards(self.root, split)
        self._keys: list[str] = []
        self._places = array("q")  # (shard, offset, length) of every picture
        labels = array("q")
        for number, path in enumerate(self._shards):
            for key, picture, label in samples(path):
                self._keys.append(key)
                self._places.extend((number, picture.offset, picture.length))
                labels.append(label)
        if not labels:
            raise DatasetError(f"tar: no sample in the {len(self._shards)} shards of {self.root}")
        classes = self._classes(split, max(labels))
        super().__init__(
            self.root, split, size, np.array(labels, dtype=np.int64), classes, **options
        )

    def _classes(self, split: str, largest: int) -> list[str]:
        path = self.root / CLASSES
        if path.is_file():
            text = path.read_bytes()[: 64 * MAX_CLASSES].decode(errors="replace")
            classes = [line.strip() for line in text.splitlines() if line.strip()]
            if len(set(classes)) != len(classes):
                raise DatasetError(f"tar: {path} names a class twice")
            if largest >= len(classes):
                raise DatasetError(
                    f"tar: {path} names {len(classes)} classes, a .cls says {largest}"
                )
            return classes
        # Both splits must count the same classes.
        other = "test" if split == "train" else "train"
        for shard in shards(self.root, other):
            largest = max(itertools.chain([largest], (label for _, _, label in samples(shard))))
        return [str(k) for k in range(largest + 1)]

    def _locate(self, source: int) -> Locator:
        shard, offset, length = self._places[3 * source : 3 * source + 3]
        return str(self._shards[shard]), offset, length

    def _where(self, source: int) -> str:
        shard = self._shards[self._places[3 * source]]
        return f"{shard.relative_to(self.root)}: {self._keys[source]}"


def shards(root: Path, split: str) -> list[Path]:
    """The tar files of a split in sorted order; raises DatasetError if there is none."""
    if not root.is_dir():
        raise DatasetError(f"tar: {root} is not a folder")
    for prefix in PREFIXES[split]:
        found = sorted(root.glob(f"{prefix}*.tar")) or sorted(root.glob(f"{prefix}/*.tar"))
        if found:
            return found
    names = " or ".join(f"{prefix}*.tar, {prefix}/*.tar" for prefix in PREFIXES[split])
    raise DatasetError(f"tar: no {names} in {root}")


def samples(path: Path) -> Iterable[tuple[str, Member, int]]:
    """Yield (key, picture, label) of every sample in a shard."""
    with open(path, "rb") as file:
        for key, run in itertools.groupby(members(path), key=lambda member: _key(member.name)):
            picture = label = None
            for member in run:
                ending = member.name[len(key) :].lower()
                if ending == ".cls":
                    if label is not None:
                        raise DatasetError(f"tar: {path}: {key!r} has two .cls")
                    label = _label(path, member, file.fileno())
                elif ending in SUFFIXES:
                    if picture is not None:
                        raise DatasetError(f"tar: {path}: {key!r} has two pictures")
                    picture = member
            if picture is None and label is None:
                continue  # a note, an index: no sample
            if picture is None or label is None:
                lacking = "picture" if picture is None else ".cls"
                raise DatasetError(f"tar: {path}: {key!r} has no {lacking} beside it")
            yield key, picture, label


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _label(path: Path, member: Member, handle: int) -> int:
    text = b""
    if member.length <= MAX_CLASS_BYTES:
        text = os.pread(handle, member.length, member.offset).strip()
    if not text.isdigit() or int(text) >= MAX_CLASSES:
        raise DatasetError(
            f"tar: {path}: {member.name!r} holds {text[:20]!r} ({member.length} bytes), expected "
            f"a class number below {MAX_CLASSES:,}"
        )
    return int(text)
