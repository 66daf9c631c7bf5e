"""Several crops of each picture, several networks, one verdict.

p(class | picture) = mean over networks of mean over crops of softmax(network(crop)), in float64

Source: Szegedy et al. 2015, section 7, where the largest over crops in place of their mean
was worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyinception import checkpoint, convert, data
from pyinception.data.crops import COUNTS, check_extents, cut
from pyinception.data.picture import PictureError
from pyinception.data.pictures import pictures_of
from pyinception.module import Module
from pyinception.tensor import no_grad
from pyinception.train import networks
from pyinception.train.evaluation import LUMA, Evaluation, load_trained, softmax
from pyinception.train.progress import Reporter, Silent
from pyinception.train.recipe import Recipe

CHUNK = 36  # crops a network sees at a time


@dataclass(frozen=True)
class Member:
    """A network with what its images need; `recipe` and `classes` are None where it was converted.

    ``prepare`` takes (n, size, size, channels) bytes.
    """

    net: Module
    size: int
    channels: int
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    outputs: int
    classes: list[str] | None = None
    recipe: Recipe | None = None


def read_member(path: str | Path) -> Member:
    """The network of a checkpoint of `train`, or of a file of `pyinception convert`.

    Raises
    ------
    FileNotFoundError, checkpoint.CheckpointError, convert.ConvertError
        If it is neither.
    """
    record = checkpoint.load(path).record
    if isinstance(record, dict) and "preprocessing" in record:
        return of_converted(convert.read(path))
    trained = load_trained(path)
    augment = trained.recipe.augment().without_chance()
    height, width, channels = augment.shape(trained.shape)
    if height != width:
        raise ValueError(f"read_member: {path} takes {height} x {width}, crops are squares")

    def prepare(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = np.divide(pixels, np.float32(255), dtype=np.float32)
        return augment(images, np.arange(len(images)), seed=0, epoch=0)

    classes = trained.classes
    return Member(trained.net, height, channels, prepare, len(classes), classes, trained.recipe)


def of_converted(found: convert.Converted) -> Member:
    """A network of `convert.read`, by its own preprocessing."""
    how = found.preprocessing
    return Member(found.net.eval(), how.crop, 3, found.normalise, found.classes)


def class_probabilities(
    members: Sequence[Member], pixels: Sequence[NDArray[np.uint8]], count: int
) -> NDArray[np.float64]:
    """p of each picture, (n, classes) float64; `pixels` are (H, W, C) bytes of any extents."""
    total: NDArray[np.float64] | None = None
    for member in members:
        shown = (_coloured(picture, member.channels) for picture in pixels)
        images = np.concatenate([cut(picture, member.size, count) for picture in shown])
        parts = []
        for first in range(0, len(images), CHUNK):
            with no_grad():
                batch = member.prepare(images[first : first + CHUNK])
                logits = member.net(networks.placed(member.net, batch))
            parts.append(softmax(networks.finite_scores(logits)))
        p = np.concatenate(parts).reshape(len(pixels), count, -1).mean(axis=1)
        total = p if total is None else total + p
    assert total is not None
    return total / len(members)


def _coloured(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Grey to three channels, or colour to one, where a network wants that."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.rint(pixels @ LUMA)[..., None].astype(np.uint8)


def evaluate_crops(
    members: Sequence[Member],
    dataset: data.Dataset,
    count: int,
    *,
    bad: str = "stop",
    report: Reporter | None = None,
) -> Evaluation:
    """The members' common verdict on every picture of a data set, in its own order.

    Parameters
    ----------
    count : crops of each picture: 1, 10 or 144.
    bad : a picture that cannot be read, or is too thin to be scaled: "stop", or "skip" counts it
        as wrong.

    Raises
    ------
    ValueError
        If there is no member, `count` is none of these, or a member knows other classes.
    FloatingPointError
        If a member's result is not finite.
    data.DatasetError
        Naming a bad picture, where that stops.
    """
    if not members:
        raise ValueError("evaluate_crops: members is empty, expected at least one network")
    if count not in COUNTS:
        raise ValueError(f"evaluate_crops: count is {count}, expected 1, 10 or 144")
    for member in members:
        if member.outputs != len(dataset.classes) or member.classes not in (None, dataset.classes):
            text = f"a network knows {member.outputs} classes, {dataset.name} has other ones"
            raise ValueError(f"evaluate_crops: {text} ({len(dataset.classes)})")
    report = report or Silent()
    sizes = {member.size for member in members}
    odds = np.full((len(dataset), len(dataset.classes)), np.nan)
    what = f"evaluating on {dataset.split}, {len(members)} networks x {count} crops"
    report.start(what, len(dataset))
    try:
        for chosen, pixels in _groups(dataset, sizes, count, bad, report):
            if chosen:
                odds[chosen] = class_probabilities(members, pixels, count)
            report.advance(len(chosen))
    finally:
        report.stop()
    return Evaluation.of_probabilities(dataset, odds)


def _groups(
    dataset: data.Dataset, sizes: set[int], count: int, bad: str, report: Reporter
) -> Iterator[tuple[list[int], list[NDArray[np.uint8]]]]:
    """(indices, pictures as they were stored) of some that can be read, and cut to these sizes."""
    most, pictures = max(1, CHUNK // count), pictures_of(dataset)
    chosen: list[int] = []
    pixels: list[NDArray[np.uint8]] = []
    for index in range(len(dataset)):
        try:
            read = dataset.read(index)[0]
            for size in sizes:
                check_extents(read.shape[0], read.shape[1], size, count)
            pixels.append(read)
            chosen.append(index)
        except (data.DatasetError, PictureError) as error:
            text = str(error)
            if isinstance(error, PictureError):
                where = pictures.where(index) if pictures is not None else f"image {index}"
                text = f"{dataset.name}: {where}: {error}"
            if bad == "stop":
                raise data.DatasetError(text) from error
            report.line(f"left out: {text}")
        if len(chosen) == most or index + 1 == len(dataset):
            yield chosen, pixels
            chosen, pixels = [], []
