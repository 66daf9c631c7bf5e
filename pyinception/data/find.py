"""Which data set a person means: a name, ``KIND:PATH``, or a folder that tells by what it holds."""

from __future__ import annotations

import difflib
from pathlib import Path

from pyinception.data import cifar, imagenet, mnist, tar_shards
from pyinception.data.dataset import DatasetError

WITHOUT_FILES = ("digits", "shapes")
ON_DISK = ("cifar10", "cifar100", "mnist", "image_folder", "imagenet", "tar")
NAMES = (*WITHOUT_FILES, *ON_DISK)


def find(text: str) -> tuple[str, str]:
    """(name, root) of what ``--data`` says: "digits", "tar:/data/cats" or "/data/cats".

    A name alone gives root ""; a path alone is looked into (`kind_of`).

    Raises
    ------
    DatasetError
        If it is neither a known name nor an existing folder.
    """
    kind, colon, path = text.partition(":")
    if colon and path and "/" not in kind:
        check_name(kind)
        if kind in WITHOUT_FILES:
            raise DatasetError(f"load: {kind} takes no folder, got {path!r}")
        return kind, path
    if text not in NAMES and Path(text).is_dir():
        return kind_of(Path(text)), text
    if "/" in text:
        raise DatasetError(f"load: {text} is not a folder")
    return check_name(text), ""


def check_name(name: object) -> str:
    """Return `name` if it is one of `NAMES`, else raise DatasetError with the nearest one."""
    if isinstance(name, str) and name in NAMES:
        return name
    close = difflib.get_close_matches(str(name), NAMES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DatasetError(f"load: unknown data set {name!r}, expected one of {', '.join(NAMES)}{hint}")


def kind_of(root: Path) -> str:
    """The name of the data set that a folder holds, by its files.

    Raises
    ------
    DatasetError
        If it holds none of the known ones, or CIFAR's python version, which is a pickle.
    """

    def holds(archive: cifar.Archive) -> bool:
        names = {name for files in archive.files.values() for name in files}
        return any(
            (root / part / name).is_file() for part in ("", archive.folder) for name in names
        )

    if holds(cifar.CIFAR10):
        return "cifar10"
    # train.bin alone could be anything; the names of the classes come with it.
    if any((root / part / cifar.NAMES100).is_file() for part in ("", cifar.CIFAR100.folder)):
        return "cifar100"
    if any(path for p in mnist.PREFIXES.values() for path in root.glob(f"{p}-images?idx3-ubyte*")):
        return "mnist"
    if (root / imagenet.MAPPING).is_file():
        return "imagenet"
    for prefix in (prefix for names in tar_shards.PREFIXES.values() for prefix in names):
        if any(root.glob(f"{prefix}*.tar")) or any(root.glob(f"{prefix}/*.tar")):
            return "tar"
    for archive in (cifar.CIFAR10, cifar.CIFAR100):
        if any((root / name).exists() for name in archive.python_files):
            raise DatasetError(
                f"load: {root} holds {archive.name}'s python version, a pickle, which is never "
                "opened: take the binary version"
            )
    if any(path.is_dir() and path.name[0] != "." for path in root.iterdir()):
        return "image_folder"
    raise DatasetError(
        f"load: {root} holds no data set: no {cifar.CIFAR10.files['test'][0]}, "
        f"{cifar.NAMES100}, *-idx3-ubyte, {imagenet.MAPPING}, *.tar or folders of pictures"
    )
