"""How an epoch is walked.

    batch b of epoch e = augment(images[order_e[b B : (b + 1) B]]),  order_e = permutation(seed, e)

The order of an epoch and every random choice made on an image are functions of
(seed, epoch, index, purpose), so a run may stop after any step and resume there, and who
decodes the pictures - this process or `workers.Workers` - changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyinception import rng
from pyinception.data.augment import Augment
from pyinception.data.dataset import Dataset, DatasetError
from pyinception.data.decode import Request, prepare
from pyinception.data.picture import resample
from pyinception.data.pictures import BAD, Pictures, pictures_of
from pyinception.data.workers import Workers
from pyinception.extents import integer

Augmentation = Callable[..., NDArray[np.float32]]


class Batch(NamedTuple):
    """One step's data: `images` (B, H, W, C) float32, `labels` (B,) int64.

    `skipped` tells which pictures could not be read and are not among `indices`.
    """

    step: int
    indices: NDArray[np.int64]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    skipped: tuple[str, ...] = ()


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool = True) -> NDArray[np.int64]:
    """order = permutation of 0..count-1 drawn from (seed, epoch), or 0..count-1.

    Returns
    -------
    (count,) int64
    """
    if not shuffle:
        return np.arange(count, dtype=np.int64)
    return rng.generator(seed, epoch, 0, "order").permutation(count).astype(np.int64)


def steps_per_epoch(count: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return ceil(count / batch_size), or its floor if the last short batch is dropped."""
    batch_size = integer("steps_per_epoch", "batch_size", batch_size, 1)
    return count // batch_size if drop_last else -(-count // batch_size)


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    augment: Augmentation | None = None,
    start: int = 0,
    drop_last: bool = False,
    bad: str = "stop",
    workers: Workers | None = None,
) -> Iterator[Batch]:
    """Yield batch b = (b, i, augment(images[i]), labels[i]) with i = order[b B : (b + 1) B].

    Parameters
    ----------
    dataset : Dataset
        Where images and labels come from.
    batch_size : int
        B. The last batch of an epoch may be shorter.
    seed, epoch : int
        Fix the order and every augmentation.
    shuffle : bool
        False walks 0, 1, 2, ...
    augment : callable or None
        ``augment(images, indices, seed=..., epoch=...) -> images``, see `augment.Augment`.
    start : int
        First step to yield: what follows is the same as without it.
    drop_last : bool
        Leave a short last batch out.
    bad : str
        What a picture that cannot be read does: ``"stop"`` raises, ``"skip"`` leaves it out of
        its batch, which names it.
    workers : Workers or None
        Processes that decode and augment ahead, for `Pictures` that are not in memory.

    Yields
    ------
    Batch

    Raises
    ------
    ValueError
        If `batch_size` is below 1, `start` lies outside the epoch, or `workers` cannot run
        `augment`.
    DatasetError
        If a picture cannot be read (``"stop"``), or none of a batch can.
    WorkerError
        If a worker process ended; it is named, and what it was reading.
    """
    count = len(dataset)
    steps = steps_per_epoch(count, batch_size, drop_last=drop_last)
    if not 0 <= start <= steps:
        raise ValueError(f"batches: start is {start}, expected a step in [0, {steps}]")
    if bad not in BAD:
        raise ValueError(f"batches: bad is {bad!r}, expected one of {', '.join(BAD)}")
    order = epoch_order(count, seed=seed, epoch=epoch, shuffle=shuffle)
    parts = [order[b * batch_size : (b + 1) * batch_size] for b in range(start, steps)]
    pictures = pictures_of(dataset)
    sampled = isinstance(augment, Augment) and augment.area < 1
    if pictures is not None and pictures.cached and not sampled:
        pictures = None  # decoded already
    if workers is not None and pictures is not None:
        if not (augment is None or isinstance(augment, Augment)):
            raise ValueError(f"batches: workers run an Augment, got augment {augment!r}")
        chance = augment or Augment()
        requests = (_request(pictures, part, chance, seed, epoch) for part in parts)
        shape = chance.shape(pictures.shape)
        found = workers.run(requests, batch_size, shape, pictures.where)
        return _walk(found, dataset, pictures, parts, start, bad)
    here = (_assemble(dataset, pictures, part, augment, seed, epoch) for part in parts)
    return _walk(here, dataset, pictures, parts, start, bad)


def _walk(
    found: Iterable[tuple[NDArray[np.float32], Sequence[str]]],
    dataset: Dataset,
    pictures: Pictures | None,
    parts: list[NDArray[np.int64]],
    start: int,
    bad: str,
) -> Iterator[Batch]:
    # A generator of its own, so that `batches` checks its arguments when it is called.
    for step, (part, (images, reasons)) in enumerate(zip(parts, found, strict=True), start):
        if not any(reasons):
            yield Batch(step, part, images, dataset.labels[part])
            continue
        assert pictures is not None
        names = [
            f"{pictures.where(int(index))}: {reason}"
            for index, reason in zip(part, reasons, strict=True)
            if reason
        ]
        if bad == "stop":
            more = f" (and {len(names) - 1} more in this batch)" if len(names) > 1 else ""
            raise DatasetError(f"{dataset.name}: {names[0]}{more}")
        part = part[[not reason for reason in reasons]]
        yield Batch(step, part, images, dataset.labels[part], tuple(names))


def _assemble(
    dataset: Dataset,
    pictures: Pictures | None,
    part: NDArray[np.int64],
    augment: Augmentation | None,
    seed: int,
    epoch: int,
) -> tuple[NDArray[np.float32], Sequence[str]]:
    """The augmented images of one batch that could be read, and why the others could not."""
    own = augment if isinstance(augment, Augment) else Augment()
    reasons: Sequence[str] = ()
    if pictures is not None:
        images = np.empty((len(part), *own.shape(dataset.shape)), np.float32)
        reasons = prepare(_request(pictures, part, own, seed, epoch), images)
        part = part[[not reason for reason in reasons]]
        images = images[: len(part)]
        if augment is own or augment is None:
            return images, reasons
    elif own.area < 1:
        size = own.scaled(dataset.shape[:2])
        images = np.empty((len(part), *size, dataset.shape[2]), np.float32)
        for n, index in enumerate(part):
            where = {"seed": seed, "epoch": epoch, "index": int(index)}
            pixels, _ = dataset.read(int(index))
            height, width = pixels.shape[:2]
            box = own.box(width, height, **where)
            images[n] = resample(pixels, size, box, own.filter(**where))
        images /= np.float32(255)
    else:
        images = dataset.images(part)
    if augment is not None and len(part):
        images = augment(images, part, seed=seed, epoch=epoch)
    return images, reasons


def _request(
    pictures: Pictures, part: NDArray[np.int64], augment: Augment, seed: int, epoch: int
) -> Request:
    indices = [int(index) for index in part]
    locators = [pictures.locate(index) for index in indices]
    size = pictures.shape[:2]
    return Request(locators, indices, augment, seed, epoch, size, pictures.max_pixels)
