"""How well a trained network does, and what it says about single pictures.

accuracy = mean_n [argmax_k logits_nk = label_n],   loss = mean_n -log softmax(logits_n)[label_n]
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception import checkpoint, data, losses
from pyinception.data.picture import PictureError, read_picture
from pyinception.module import Module
from pyinception.train import networks
from pyinception.train.progress import Reporter, Silent
from pyinception.train.recipe import Recipe, RecipeError, resolve
from pyinception.train.update import weights_to_judge

# Rec. 601 luma: what a colour picture looks like to a network of one channel.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
FIVE = 5
MISTAKES = 24  # the worst ones that an evaluation keeps
SIZE_EDGES = (0, 9, 13, 19, np.inf)  # pixels across, for data sets that know their objects' sizes


@dataclass(frozen=True)
class Mistake:
    """Image ``index`` taken for class ``prediction``: its softmax there and at the true class."""

    index: int
    label: int
    prediction: int
    probability: float
    of_label: float


@dataclass(frozen=True)
class Evaluation:
    """Results on one split: `predictions` (N,) int64, mean loss, accuracy in [0, 1].

    `top5` is the share of images whose class is among the five most likely ones; `mistakes` are
    those of `evaluate` with the least probability of the true class.

    A picture that could not be read has prediction -1: it counts as wrong, and is neither in the
    loss nor in the confusion.
    """

    dataset: data.Dataset
    predictions: NDArray[np.int64]
    loss: float
    top5: float
    mistakes: tuple[Mistake, ...] = ()

    @classmethod
    def of_probabilities(cls, dataset: data.Dataset, odds: NDArray[np.float64]) -> Evaluation:
        """The results of p (N, classes); a row of NaN is a picture that could not be read.

        Raises
        ------
        data.DatasetError
            If none could.
        """
        read = ~np.isnan(odds[:, 0])
        if not read.any():
            raise data.DatasetError(f"evaluate: no picture of {dataset.name} could be read")
        predictions = np.full(len(odds), -1, np.int64)
        predictions[read] = np.argmax(odds[read], axis=1)
        right = odds[read, dataset.labels[read]]
        loss = float(np.mean(-np.log(np.maximum(right, np.finfo(np.float64).tiny))))
        hits = _among_five(odds[read], dataset.labels[read])
        return cls(dataset, predictions, loss, hits / len(odds))

    @property
    def accuracy(self) -> float:
        """Share of images whose most likely class is their label."""
        return float(np.mean(self.predictions == self.dataset.labels))

    def confusion(self) -> NDArray[np.int64]:
        """counts[k, j] = images of class k taken for class j, (K, K)."""
        size = len(self.dataset.classes)
        counts = np.zeros((size, size), np.int64)
        read = self.predictions >= 0
        np.add.at(counts, (self.dataset.labels[read], self.predictions[read]), 1)
        return counts

    def judged(self) -> dict[str, Any]:
        """What a run folder keeps of it: [class, taken for, images] triples, and the mistakes."""
        counts = self.confusion()
        pairs = [[int(k), int(j), int(counts[k, j])] for k, j in zip(*np.nonzero(counts))]
        return {
            "data": self.dataset.name,
            "split": self.dataset.split,
            "images": len(self.dataset),
            "accuracy": self.accuracy,
            "loss": self.loss,
            "classes": self.dataset.classes,
            "confusion": pairs,
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
        }

    def by_size(self) -> list[dict[str, Any]]:
        """Accuracy by the object's diameter, where the data set has one; else empty."""
        diameters = getattr(self.dataset, "diameters", None)
        if diameters is None:
            return []
        rows = []
        hit = self.predictions == self.dataset.labels
        for low, high in itertools.pairwise(SIZE_EDGES):
            inside = (diameters >= low) & (diameters < high)
            if inside.any():
                label = f"{low} - {high} pixels" if np.isfinite(high) else f"from {low} pixels"
                share = float(np.mean(hit[inside]))
                rows.append({"size": label, "images": int(inside.sum()), "accuracy": share})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = self.confusion()
        total = counts.sum(axis=1)
        recall = {
            name: float(counts[k, k] / total[k]) if total[k] else None
            for k, name in enumerate(self.dataset.classes)
        }
        return {
            "data": self.dataset.name,
            "split": self.dataset.split,
            "images": len(self.dataset),
            "unread": int(np.sum(self.predictions < 0)),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top5": self.top5,
            "accuracy_by_class": recall,
            "accuracy_by_size": self.by_size(),
            "confusion": counts.tolist(),
        }


def evaluate(
    net: Module,
    dataset: data.Dataset,
    augment: data.Augment,
    *,
    batch_size: int = 128,
    bad: str = "stop",
    workers: data.Workers | None = None,
    report: Reporter | None = None,
) -> Evaluation:
    """Run ``net`` in evaluation mode over a data set in its own order; the net's mode is kept.

    Parameters
    ----------
    augment : the training augmentation; only its part without chance is applied.
    bad, workers : as in `data.batches`.

    Raises
    ------
    FloatingPointError
        If the network's result is not finite: it has no accuracy.
    data.DatasetError
        If not one picture could be read.
    """
    report = report or Silent()
    training, net_sum, hits = net.training, 0.0, 0
    predictions = np.full(len(dataset), -1, np.int64)
    mistakes: list[Mistake] = []
    net.eval()
    report.start(f"evaluating on {dataset.split}", len(dataset))
    try:
        for batch in data.batches(
            dataset,
            batch_size,
            seed=0,
            epoch=0,
            shuffle=False,
            augment=augment.without_chance(),
            bad=bad,
            workers=workers,
        ):
            for text in batch.skipped:
                report.line(f"left out: {text}")
            if not len(batch.labels):
                continue
            logits = net(networks.placed(net, batch.images))
            scores = networks.finite_scores(logits)
            predictions[batch.indices] = np.argmax(scores, axis=1)
            hits += _among_five(scores, batch.labels)
            mistakes = _worst([*mistakes, *_mistakes(batch, scores)])
            net_sum += losses.cross_entropy(logits, batch.labels).item() * len(batch.labels)
            report.advance(len(batch.labels))
    finally:
        report.stop()
        net.train(training)
    read = int(np.sum(predictions >= 0))
    if not read:
        raise data.DatasetError(f"{dataset.name}: not one picture could be read")
    loss = net_sum / read
    return Evaluation(dataset, predictions, loss, hits / len(dataset), tuple(mistakes))


def _mistakes(batch: data.Batch, logits: NDArray[np.float32]) -> list[Mistake]:
    """The worst wrong answers of a batch."""
    answers = np.argmax(logits, axis=1)
    wrong = np.flatnonzero(answers != batch.labels)
    odds, labels = softmax(logits[wrong]), batch.labels[wrong]
    rows = np.arange(len(wrong))
    columns = batch.indices[wrong], labels, answers[wrong]
    chances = odds[rows, answers[wrong]], odds[rows, labels]
    order = np.argsort(chances[1], kind="stable")[:MISTAKES]
    return [
        Mistake(*(int(c[n]) for c in columns), *(float(chance[n]) for chance in chances))
        for n in order
    ]


def _worst(mistakes: list[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda each: (each.of_label, each.index))[:MISTAKES]


def _among_five(scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> int:
    """Rows whose label is among the five highest scores; of equal ones the first counts higher."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :FIVE]
    return int(np.sum(best == labels[:, None]))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """exp(x_k) / sum_j exp(x_j) of each row, in float64."""
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


@dataclass(frozen=True)
class Trained:
    """A network from a checkpoint of `train`, with what it was trained on.

    ``shape`` is that of the data set's images, from which the recipe may cut a crop.
    """

    net: Module
    recipe: Recipe
    classes: list[str]
    shape: tuple[int, int, int]
    record: dict[str, Any]


def load_trained(path: str | Path) -> Trained:
    """The network of a checkpoint that `train` wrote, in evaluation mode.

    Where the recipe keeps an average of the weights, these are the weights.

    Raises
    ------
    FileNotFoundError, checkpoint.CheckpointError
        If there is no such file, it is damaged, or `train` did not write it.
    """
    loaded = checkpoint.load(path)
    record = loaded.record
    try:
        if not isinstance(record, dict) or "recipe" not in record:
            raise ValueError("it has no recipe")
        # The recipe of a run folder, in whose folder of checkpoints this file is.
        recipe = resolve(record["recipe"]).located(Path(path).absolute().parent.parent)
        classes = [str(name) for name in record["classes"]]
        height, width, channels = (int(extent) for extent in record["shape"])
        shape = recipe.augment().shape((height, width, channels))
        net = networks.build(recipe.model, len(classes), shape, recipe.seed, aux=recipe.aux)
        net.load_state_dict(weights_to_judge(loaded))
    except (KeyError, TypeError, RecipeError, ValueError) as error:
        text = f"is no checkpoint of a training run ({error})"
        raise checkpoint.CheckpointError(f"load_trained: {path} {text}") from None
    net.eval()
    return Trained(net, recipe, classes, (height, width, channels), record)


@dataclass(frozen=True)
class Prediction:
    """One picture: its classes from the most to the least likely, with softmax probabilities."""

    path: str
    classes: list[str]
    probabilities: list[float]


def predict(
    trained: Trained, paths: Sequence[str | Path], *, invert: bool = False
) -> list[Prediction]:
    """p = softmax(net(picture)), for image files; all are read before the first is judged.

    Parameters and errors as of `read_images`.
    """
    return judge_images(trained, paths, read_images(trained, paths, invert=invert))


def read_images(
    trained: Trained, paths: Sequence[str | Path], *, invert: bool = False
) -> NDArray[np.float32]:
    """Image files as the network takes them, (N, H, W, C).

    Parameters
    ----------
    paths : files that `data.picture.read_picture` reads.
    invert : 1 - pixels, for dark ink on paper where the training images are light on dark.

    Raises
    ------
    PictureError
        Naming every file that is no whole image, each with its reason.
    """
    height, width, channels = trained.shape
    pictures, faults = [], []
    for path in paths:
        try:
            pictures.append(read_picture(Path(path), (height, width)))
        except PictureError as error:
            faults.append(f"{path}: {error}")
    if faults:
        raise PictureError("predict: " + "; ".join(faults))
    images = np.stack(pictures).astype(np.float32) / np.float32(255)
    if channels == 1:
        images = (images @ LUMA)[..., None]
    if invert:
        images = 1 - images
    augment = trained.recipe.augment().without_chance()
    return augment(images, np.arange(len(images)), seed=0, epoch=0)


def judge_images(
    trained: Trained, paths: Sequence[str | Path], images: NDArray[np.float32]
) -> list[Prediction]:
    """What the network says of images that `read_images` read."""
    logits = trained.net(networks.placed(trained.net, images))
    odds = softmax(networks.finite_scores(logits))
    results = []
    for path, row in zip(paths, odds, strict=True):
        order = np.argsort(-row, kind="stable")
        names = [trained.classes[k] for k in order]
        results.append(Prediction(str(path), names, [float(row[k]) for k in order]))
    return results
