"""A picture of a study: every seed's accuracy, or bars of parameters and multiply-adds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pyinception.data.dataset import require
from pyinception.study.experiment import Outcome
from pyinception.train.run_folder import write_whole

COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d6a9f")


def draw(path: str | Path, outcome: Outcome) -> None:
    """Write an SVG: a dot a seed and a line at the mean, or bars where none was trained.

    The same outcome gives the same bytes. Needs matplotlib (extra ``train``).
    """
    matplotlib = require("matplotlib", "train", "pictures of studies")
    module = require("matplotlib.figure", "train", "pictures of studies")
    settings = {"svg.hashsalt": outcome.study, "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = module.Figure(figsize=(5.6, 3.2), layout="constrained")
        (_draw_accuracies if outcome.seeds else _draw_counts)(figure, outcome.rows)
        memory = io.BytesIO()
        figure.savefig(memory, format="svg", metadata={"Date": None, "Creator": None})
    write_whole(Path(path), memory.getvalue())


def _draw_accuracies(figure: Any, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    labels = []
    for place, row in enumerate(rows):
        shares = [100 * a for a in row["accuracies"]]
        colour = COLOURS[place % len(COLOURS)]
        axes.plot([place] * len(shares), shares, "o", color=colour, alpha=0.7, markersize=5)
        axes.hlines(100 * row["mean"], place - 0.25, place + 0.25, color=colour)
        labels.append(f"{row['network']}\n{row['multiply_adds'] / 1e6:.2f} M multiply-adds")
    axes.set_xticks(range(len(rows)), labels)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("test accuracy (%), a dot a seed")
    axes.grid(alpha=0.3, axis="y")


def _draw_counts(figure: Any, rows: list[dict[str, Any]]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    names = [row["network"] for row in rows]
    colours = [COLOURS[place > 0] for place in range(len(rows))]
    for axes, kind, unit, label in (
        (left, "parameters", 1e6, "parameters (M)"),
        (right, "multiply_adds", 1e9, "multiply-adds (G)"),
    ):
        axes.barh(names, [row[kind] / unit for row in rows], color=colours)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, axis="x")
    left.invert_yaxis()
