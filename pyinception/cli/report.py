"""``pyinception report [RUN]`` and ``pyinception compare RUN RUN``: pages of what runs left."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("report")(report)
    app.command("compare")(compare)


def report(
    run: Annotated[
        str | None, typer.Argument(help="Name of a run in --runs, or its folder [the newest].")
    ] = None,
    out: Annotated[str | None, typer.Option(help="File to write [report.html of the run].")] = None,
    runs: output.Runs = "runs",
    root: Annotated[str | None, typer.Option(help="Folder of the data, if they moved.")] = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained page of a run, finished, interrupted or under way."""
    from pyinception.train.report import write_report
    from pyinception.train.run_folder import find_run

    path = write_report(find_run(run, runs), path=out, root=root)
    size = path.stat().st_size
    emit(f"{path}: {size / 1e3:.0f} kB", {"report": str(path), "bytes": size}, json)


def compare(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Names of runs in --runs, or folders.")
    ],
    out: Annotated[str, typer.Option(help="Page to write; empty for none.")] = "compare.html",
    runs: output.Runs = "runs",
    json: AsJson = False,
) -> None:
    """Set runs side by side: entries that differ, final figures, curves over each other."""
    from pyinception.train import compare as comparing
    from pyinception.train.run_folder import find_run

    found = comparing.compare_runs([find_run(name, runs) for name in run])
    rows = [
        [name, *(comparing.shown(name, value) for value in values)]
        for name, values in found.figures.items()
    ]
    entries = [[name, *map(str, values)] for name, values in found.entries.items()]
    text = [output.table(["", *found.names], rows), ""]
    text.append(output.table(["entry", *found.names], entries) if entries else "same entries")
    value: dict[str, Any] = found.as_dict() | {"page": out or None}
    if out:
        comparing.write_comparison(found, out)
        text.append(f"\npage: {out}")
    emit("\n".join(text), value, json)
