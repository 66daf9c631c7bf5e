"""A picture of a study: accuracy over multiply-adds, or parameters over multiply-adds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pyinception.data.dataset import require
from pyinception.study.experiment import Outcome
from pyinception.train.run_folder import write_whole

COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d6a9f")


def draw(path: str | Path, outcome: Outcome) -> None:
    """Write an SVG: a dot a seed and a line at the mean, or a dot a network where none was trained.

    The same outcome gives the same bytes. Needs matplotlib (extra ``train``).
    """
    matplotlib = require("matplotlib", "train", "pictures of studies")
    module = require("matplotlib.figure", "train", "pictures of studies")
    settings = {"svg.hashsalt": outcome.study, "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = module.Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        (_draw_accuracies if outcome.seeds else _draw_counts)(axes, outcome.rows)
        axes.grid(alpha=0.3)
        memory = io.BytesIO()
        figure.savefig(memory, format="svg", metadata={"Date": None, "Creator": None})
    write_whole(Path(path), memory.getvalue())


def _draw_accuracies(axes: Any, rows: list[dict[str, Any]]) -> None:
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


def _draw_counts(axes: Any, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        x, y = row["multiply_adds"] / 1e9, row["parameters"] / 1e6
        axes.plot([x], [y], "o", color=COLOURS[place > 0])
        axes.annotate(row["network"], (x, y), (4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("multiply-adds of one image (G)")
    axes.set_ylabel("parameters (M)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
