"""Pictures of a run: curves, the first layer's filters, feature maps by branch.

    pixel of a filter = 1/2 + w / (2 max |w|),   pixel of a map = y / max y over its branch

Drawn with matplotlib's Agg canvas and no pyplot, so no window system and no global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import require
from pyinception.module import Module
from pyinception.train.inside import branches_of, first_filters, outputs_of
from pyinception.train.run_folder import write_whole

DPI = 110
NAMED = 40  # classes that a confusion still names
MAPS = 8  # feature maps shown of each branch
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d6a9f")
GROUND = (0.72, 0.83, 0.93)  # a blue that no grey filter can be taken for
Floats = NDArray[np.floating[Any]]


def new_figure(width: float, height: float) -> Any:
    """An empty figure, inches across and high."""
    figure = require("matplotlib.figure", "train", "curves and pictures")
    return figure.Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Replace ``path`` by the figure as a PNG."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=DPI)
    write_whole(path, memory.getvalue())


def draw_curves(
    path: Path, epochs: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]] = ()
) -> None:
    """Loss and accuracy of both splits by epoch, the learning rate below them.

    Parameters
    ----------
    epochs : lines of metrics.jsonl of kind "epoch".
    scores : of `baselines`; the best nearest-neighbour and the regression become dotted lines.
    """
    if not epochs:
        return
    figure = new_figure(9, 4)
    loss, accuracy = figure.subplots(1, 2)
    x = [line["epoch"] + 1 for line in epochs]
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        scale = 100 if name == "accuracy" else 1
        for colour, key, label in (
            (COLOURS[0], name, "train"),
            (COLOURS[1], f"test_{name}", "test"),
        ):
            y = [scale * line[key] for line in epochs]
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    loss.set_ylabel("cross entropy (nats)")
    accuracy.set_ylabel("accuracy (%)")
    rate = loss.twinx()
    rate.plot(x, [line["lr"] for line in epochs], color="0.6", linestyle="--", linewidth=1)
    rate.set_ylabel("learning rate (dashed)", color="0.5")
    rate.set_ylim(bottom=0)
    near = [s for s in scores if "neighbours" in s["name"]]
    shown = [max(near, key=lambda s: s["accuracy"])] if near else []
    shown += [s for s in scores if "neighbours" not in s["name"]]
    for colour, score in zip(COLOURS[2:], shown, strict=False):
        value = 100 * score["accuracy"]
        label = f"{score['name']} {value:.1f}"
        accuracy.axhline(value, color=colour, linestyle=":", label=label)
    accuracy.legend(fontsize=8)
    loss.legend(fontsize=8)
    loss.set_title("loss")
    accuracy.set_title(f"accuracy, last {100 * epochs[-1]['test_accuracy']:.1f} % on test")
    save_figure(figure, path)


def filter_tiles(w: Floats) -> Floats:
    """(K, R, S, C) -> (K, R, S, 3) in [0, 1]; in colour if C is 3, else the mean over it."""
    peak = np.abs(w).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * w / np.maximum(peak, 1e-12)
    if tiles.shape[3] != 3:
        tiles = tiles.mean(axis=3, keepdims=True).repeat(3, axis=3)
    return tiles


def strongest(maps: Floats) -> NDArray[np.intp]:
    """The `MAPS` channels of (P, Q, K) with the largest sums, largest first."""
    return np.argsort(-maps.sum(axis=(0, 1)), kind="stable")[:MAPS]


def visible(image: Floats) -> Floats:
    """(H, W, C) of any range -> (H, W, 1 or 3) in [0, 1]."""
    shown = image - image.min()
    shown = shown / max(float(shown.max()), 1e-12)
    return shown if shown.shape[2] == 3 else shown.mean(axis=2, keepdims=True)


def draw_filters(path: Path, net: Module) -> None:
    """The first layer's filters, each scaled by itself; in colour if it has three channels."""
    w = first_filters(net)
    if w is None:
        return
    tiles = filter_tiles(w)
    columns = int(np.ceil(np.sqrt(len(tiles) * 1.5)))
    picture = mosaic(tiles, columns)
    figure = new_figure(8, 8 * picture.shape[0] / picture.shape[1] + 0.4)
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    k, r, s, c = w.shape
    axes.set_title(f"{k} filters of the first layer, {r} x {s} x {c}", fontsize=9)
    save_figure(figure, path)


def draw_confusion(path: Path, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Share of each class (a row) that was taken for each class (a column).

    Parameters
    ----------
    counts : (K, K), as `Evaluation.confusion` gives them.
    """
    total = counts.sum(axis=1, keepdims=True)
    share = 100 * counts / np.maximum(total, 1)
    size = min(4 + 0.25 * len(classes), 14)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(image, label="% of the class")
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        for k, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[k, j] > 60 else "black"
            axes.text(j, k, str(counts[k, j]), ha="center", va="center", fontsize=7, color=colour)
    axes.set_title(f"{int(np.trace(counts))} of {int(counts.sum())} right", fontsize=9)
    save_figure(figure, path)


def mosaic(tiles: Floats, columns: int) -> Floats:
    """(n, h, w, 3) tiles in rows of ``columns``, one pixel of `GROUND` around each."""
    n, h, w, _ = tiles.shape
    rows = -(-n // columns)
    picture = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, 3), GROUND, np.float32)
    for i, tile in enumerate(tiles):
        top, left = 1 + (i // columns) * (h + 1), 1 + (i % columns) * (w + 1)
        picture[top : top + h, left : left + w] = tile
    return picture


def draw_features(path: Path, net: Module, image: Floats) -> None:
    """The strongest maps of each branch of the first module, for one image (1, H, W, C)."""
    found = branches_of(net)
    if not found:
        return
    name, rows = next(iter(found.items()))
    y = outputs_of(net, image, [name])[name][0]
    figure = new_figure(1.1 * (MAPS + 1), 1.25 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), MAPS + 1, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(visible(image[0]), cmap="gray")
    grid[0, 0].set_title("input", fontsize=8)
    for row, (label, channels) in zip(grid, rows, strict=True):
        maps = y[:, :, channels]
        order = strongest(maps)
        peak = max(float(maps.max()), 1e-12)
        for axes, channel in zip(row[1:], order, strict=False):
            axes.imshow(maps[:, :, channel], cmap="gray", vmin=0, vmax=peak)
            axes.set_title(f"{label}  {channels.start + channel}", fontsize=7)
    figure.suptitle(f"{name}: strongest {MAPS} maps of each branch", fontsize=9)
    save_figure(figure, path)
