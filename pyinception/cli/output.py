"""What the verbs share: writing results, progress, switches as options."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pyinception.train.progress import Reporter

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Threads = Annotated[int, typer.Option(help="Threads; 0 lets the machine decide.", min=0)]
Backend = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda, emulated or reference.", show_default="auto")
]
Algorithm = Annotated[
    str | None, typer.Option(help="auto, direct, winograd or plain.", show_default="auto")
]
Runs = Annotated[str, typer.Option(help="Folder that holds the run folders.")]
Checkpoint = Annotated[str, typer.Option(help="last, best, or the path of a checkpoint.")]


class Explained(int):
    """An exit code whose reason the verb has told already."""


def emit(text: str, value: Any, as_json: bool) -> None:
    """Write ``value`` as JSON or ``text`` to stdout."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False) if as_json else text)


def reporter(as_json: bool) -> Reporter:
    """Progress on stdout; with JSON there, a bar on stderr if that is a terminal, else nothing."""
    from pyinception.train import progress

    if not as_json:
        return progress.reporter()
    return progress.reporter(sys.stderr) if sys.stderr.isatty() else progress.Silent()


def checkpoint_path(run: str | None, runs: str, checkpoint: str) -> str:
    """The file that a run's name (None: the newest), --runs and --checkpoint mean."""
    from pyinception.train.run_folder import find_run

    if checkpoint not in ("last", "best"):
        return checkpoint
    folder = find_run(run, runs)
    return str(folder.last if checkpoint == "last" else folder.best)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Aligned columns, the first one to the left and the others to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    written = []
    for line in lines:
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        written.append("  ".join(cells).rstrip())
    return "\n".join(written)
