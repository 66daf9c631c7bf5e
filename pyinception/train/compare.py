"""Runs side by side: what was asked differently, and what came of it.

Everything is read from the run folders; no network is built and no data set is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pyinception.train import page
from pyinception.train.chart import Series, lines, smoothed
from pyinception.train.progress import clock
from pyinception.train.recipe import read_toml, resolve
from pyinception.train.run_folder import RunError, RunFolder, write_whole

CURVES = (  # key of an epoch's line, title, factor
    ("test_accuracy", "Test accuracy, %", 100.0),
    ("test_loss", "Test loss, nats", 1.0),
    ("loss", "Training loss, nats", 1.0),
    ("images_per_second", "Images a second", 1.0),
)


@dataclass(frozen=True)
class Comparison:
    """Runs by name: entries that differ, final figures, and the lines of every epoch."""

    names: list[str]
    entries: dict[str, list[Any]]
    figures: dict[str, list[float | int | None]]
    epochs: list[list[dict[str, Any]]]
    steps: list[list[dict[str, Any]]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the single steps."""
        return {
            "runs": self.names,
            "entries": self.entries,
            "figures": self.figures,
            "epochs": self.epochs,
        }


def compare_runs(folders: Sequence[RunFolder | str | Path]) -> Comparison:
    """Set runs side by side.

    Raises
    ------
    RunError
        If one of them is no run folder; ValueError for fewer than two.
    """
    if len(folders) < 2:
        raise ValueError(f"compare: {len(folders)} run is given, expected at least 2")
    runs = [each if isinstance(each, RunFolder) else RunFolder(each) for each in folders]
    for run in runs:
        if not run.config.is_file():
            raise RunError(f"compare: {run.path} is no run folder (it has no config.toml)")
    recipes = [resolve(read_toml(run.config)).located(run.path).as_dict() for run in runs]
    differing = [
        name for name in recipes[0] if any(each[name] != recipes[0][name] for each in recipes)
    ]
    epochs, steps = [run.metrics() for run in runs], [run.metrics("step") for run in runs]
    return Comparison(
        names=_distinct([run.path.absolute() for run in runs]),
        entries={name: [each[name] for each in recipes] for name in differing},
        figures=_transposed([_figures(e, s) for e, s in zip(epochs, steps, strict=True)]),
        epochs=epochs,
        steps=steps,
    )


def _distinct(paths: Sequence[Path]) -> list[str]:
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _figures(epochs: list[dict[str, Any]], steps: list[dict[str, Any]]) -> dict[str, Any]:
    last = epochs[-1] if epochs else {}
    shares = [line["roofline"] for line in steps if line.get("roofline") is not None]
    seconds = sum(line["seconds"] for line in epochs)
    return {
        "epochs": len(epochs),
        "steps": steps[-1]["step"] if steps else 0,
        "test accuracy": last.get("test_accuracy"),
        "best test accuracy": max((line["test_accuracy"] for line in epochs), default=None),
        "test loss": last.get("test_loss"),
        "training loss": last.get("loss"),
        "seconds": round(seconds, 3),
        "images a second": last.get("images_per_second"),
        "of the roofline": round(sum(shares) / len(shares), 4) if shares else None,
    }


def _transposed(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def shown(name: str, value: float | int | None) -> str:
    """One of the figures in words."""
    if value is None:
        return "-"
    if "accuracy" in name or "roofline" in name:
        return f"{value:.2%}"
    if name == "seconds":
        return clock(value)
    return f"{value:.4f}" if "loss" in name else f"{value:g}"


def write_comparison(found: Comparison, path: str | Path) -> Path:
    """Write a comparison as one self-contained page; returns its path."""
    right = range(1, len(found.names) + 1)
    rows = [
        [escape(name), *(escape(shown(name, value)) for value in values)]
        for name, values in found.figures.items()
    ]
    figures = page.card("At the end", page.table(["", *found.names], rows, right=right))
    entries = [
        [escape(name), *(escape(str(value)) for value in values)]
        for name, values in found.entries.items()
    ]
    asked = page.card("Entries that differ", page.table(["", *found.names], entries) or "none")
    legend = list(enumerate(found.names))
    cards = [page.card("Training loss by step, nats", _by_step(found), legend)]
    for key, title, factor in CURVES:
        series = []
        for k, (name, epochs) in enumerate(zip(found.names, found.epochs, strict=True)):
            x = [line["epoch"] + 1 for line in epochs]
            y = [factor * line[key] for line in epochs]
            series += [Series(name, x, y, colour=k), Series(name, x, y, "dots", k)]
        cards.append(page.card(title, lines(series, name=title, x_label="epoch"), legend))
    title = ", ".join(found.names)
    html = f"<h1>{escape(title)}</h1>"
    html += page.section("Figures", "", page.grid(figures, asked, kind="wide"))
    html += page.section("Curves", "", page.grid(*cards))
    target = Path(path)
    write_whole(target, page.page(f"{title}: compared", html))
    return target


def _by_step(found: Comparison) -> str:
    series = []
    for k, (name, steps) in enumerate(zip(found.names, found.steps, strict=True)):
        y = smoothed([line["loss"] for line in steps], max(1, len(steps) // 40))
        series.append(Series(name, [float(line["step"]) for line in steps], y, colour=k))
    return lines(series, name="training loss by step")
