"""Two classifiers without a network, on the same split: what a trained network has to beat.

    nearest neighbours   class of a test image = vote of the k nearest training images (pixels, L2)
    logistic regression  argmax_c (w_c x + b_c), minimising log loss + |w|^2 / (2 C)

Both see the pixels as numbers in [0, 1], without the order that a convolution knows. `digits` is
used at its own 8 x 8 pixels, where nearest neighbours do best.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception import data
from pyinception.data.dataset import require
from pyinception.train.progress import Reporter, Silent

NEIGHBOURS = (1, 3, 5)
SUBSET = 2000  # training images of the regression: L-BFGS walks all of them at each iteration
ITERATIONS = 60
# With 64 pixels the penalty hurts; with 3,072 it is what keeps the regression from learning the
# training images by heart.
PENALTY = {"digits": 10.0}
DEFAULT_PENALTY = 1e-2
LARGEST = 20_000  # images; beyond it nearest neighbours take minutes


def score_baselines(
    train: data.Dataset, test: data.Dataset, seed: int = 0, report: Reporter | None = None
) -> list[dict[str, Any]]:
    """Accuracy of nearest neighbours (k = 1, 3, 5) and of logistic regression.

    Parameters
    ----------
    train, test : the two splits that the network uses.
    seed : chooses the regression's subset.
    report : told of progress; silent by default.

    Returns
    -------
    list of dict
        ``name``, ``accuracy`` in [0, 1], ``seconds``, ``train_images``, ``how`` (in words).

    Raises
    ------
    ImportError
        If scikit-learn is absent (extra ``train``).
    """
    neighbours = require("sklearn.neighbors", "train", "the baselines")
    linear = require("sklearn.linear_model", "train", "the baselines")
    if train.name == "digits":
        train, test = (_own_pixels(split) for split in (train, test))
    x, z = _rows(train), _rows(test)
    scores = []
    report = report or Silent()
    report.start("baselines", len(NEIGHBOURS) + 1, "classifier")
    for k in NEIGHBOURS:
        if k > len(x):
            continue
        start = time.perf_counter()
        model = neighbours.KNeighborsClassifier(k, algorithm="brute").fit(x, train.labels)
        hits = np.mean(model.predict(z) == test.labels)
        scores.append(_line(f"{k}-nearest neighbours", hits, start, len(x), _pixels(train)))
        report.advance(1)
    chosen = np.arange(len(x))
    if len(x) > SUBSET:
        chosen = data.epoch_order(len(x), seed=seed, epoch=0)[:SUBSET]
    if len(np.unique(train.labels[chosen])) > 1:
        start = time.perf_counter()
        penalty = PENALTY.get(train.name, DEFAULT_PENALTY)
        model = linear.LogisticRegression(C=penalty, max_iter=ITERATIONS)
        mean = x.mean(axis=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stopping early is what ITERATIONS asks for
            model.fit(x[chosen] - mean, train.labels[chosen])
        hits = np.mean(model.predict(z - mean) == test.labels)
        how = f"{_pixels(train)}, C = {penalty:g}, at most {ITERATIONS} iterations of L-BFGS"
        if len(chosen) < len(x):
            how += f", {len(chosen)} of {len(x)} training images"
        scores.append(_line("logistic regression", hits, start, len(chosen), how))
    report.stop()
    return scores


def _line(name: str, accuracy: Any, start: float, count: int, how: str) -> dict[str, Any]:
    seconds = round(time.perf_counter() - start, 3)
    return {
        "name": name,
        "accuracy": float(accuracy),
        "seconds": seconds,
        "train_images": count,
        "how": how,
    }


def _own_pixels(split: data.Dataset) -> data.Dataset:
    own = data.load("digits", split.split, size=8)
    pixels = own.images(np.arange(len(split)))  # the same images: `First` of these
    return data.ArrayDataset("digits", own.split, pixels, own.labels[: len(split)], own.classes)


def _rows(split: data.Dataset) -> NDArray[np.float32]:
    return split.images(np.arange(len(split))).reshape(len(split), -1)


def _pixels(split: data.Dataset) -> str:
    height, width, channels = split.shape
    return f"pixels {height} x {width}" + (f" x {channels}" if channels > 1 else "")
