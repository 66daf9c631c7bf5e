"""``pyinception look CHECKPOINT IMAGE...``: single pictures, seen from inside a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("look")(look)


def look(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint of train, or a run: its newest one.")
    ],
    images: Annotated[list[str], typer.Argument(help="Image files.", metavar="IMAGE...")],
    out: Annotated[str, typer.Option(help="Page to write; empty for none.")] = "look.html",
    runs: output.Runs = "runs",
    invert: Annotated[
        bool, typer.Option("--invert", help="Dark on light, trained on light on dark.")
    ] = False,
    threads: output.Threads = 0,
    json: AsJson = False,
) -> None:
    """Show what a network makes of pictures: classes, filters, the maps of every branch."""
    import pyinception as pyi
    from pyinception.train import inspection as looking
    from pyinception.train.evaluation import load_trained

    path = checkpoint
    if not Path(checkpoint).is_file():
        path = output.checkpoint_path(checkpoint, runs, "last")
    trained = load_trained(path)
    with pyi.using(threads=threads or None):
        found = looking.look(trained, images, invert=invert)
        if out:
            looking.write_look(trained, found, out)
    text = []
    for each in found:
        best = each.as_dict()["classes"]
        shown = "  ".join(f"{row['class']} {row['probability']:.1%}" for row in best)
        rows = [
            [f"{b.module} {b.branch}", f"{b.rms:.3g}", f"{b.dead:.0%}", str(b.channels[:3])[1:-1]]
            for b in each.branches
        ]
        heads = ["branch", "rms", "dead", "strongest channels"]
        text += [f"{each.prediction.path}: {shown}", output.table(heads, rows) if rows else "", ""]
    text += [f"page: {out}"] if out else []
    value = {"checkpoint": path, "page": out or None, "images": [each.as_dict() for each in found]}
    emit("\n".join(text).rstrip(), value, json)
