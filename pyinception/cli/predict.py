"""``pyinception predict IMAGE...``: what a trained network sees in image files."""

from __future__ import annotations

from typing import Annotated

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("predict")(predict)


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files.", metavar="IMAGE...")],
    run: Annotated[
        str | None, typer.Option(help="Name of a run in --runs, or its folder [the newest].")
    ] = None,
    checkpoint: output.Checkpoint = "last",
    runs: output.Runs = "runs",
    top: Annotated[int, typer.Option(help="Classes shown for each image.", min=1)] = 3,
    invert: Annotated[
        bool, typer.Option("--invert", help="Dark on light, trained on light on dark.")
    ] = False,
    threads: output.Threads = 0,
    json: AsJson = False,
) -> None:
    """Name the most likely classes of each image; all files are read before any is judged."""
    import pyinception as pyi
    from pyinception.train.evaluation import load_trained
    from pyinception.train.evaluation import predict as look

    trained = load_trained(output.checkpoint_path(run, runs, checkpoint))
    with pyi.using(threads=threads or None):
        found = look(trained, images, invert=invert)
    value, lines = [], []
    for result in found:
        best = list(zip(result.classes, result.probabilities, strict=True))[:top]
        classes = [{"class": name, "probability": p} for name, p in best]
        value.append({"image": result.path, "classes": classes})
        shown = "  ".join(f"{name} {p:.1%}" for name, p in best)
        lines.append(f"{result.path}: {shown}")
    emit("\n".join(lines), value, json)
