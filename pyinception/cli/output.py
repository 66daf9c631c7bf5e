"""What the verbs share: writing results, progress, switches as options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    """The file that a run's name (None: the newest), --runs and --checkpoint mean.

    A path in --checkpoint is a run's own: BadParameter if a run is named too.
    """
    from pyinception.train.run_folder import find_run

    if checkpoint in ("last", "best"):
        folder = find_run(run, runs)
        return str(folder.last if checkpoint == "last" else folder.best)
    if run is not None:
        text = f"{checkpoint!r} and the run {run!r} exclude each other; with a run: last or best"
        raise typer.BadParameter(text, param_hint="--checkpoint")
    if not Path(checkpoint).is_file():
        text = f"--checkpoint: there is no file {checkpoint!r}; expected last, best or a path"
        raise FileNotFoundError(text)
    return checkpoint


@contextmanager
def reading(argument: str) -> Iterator[None]:
    """Name the option or argument whose file cannot be read inside."""
    try:
        yield
    except OSError as error:
        text = f"cannot read {error.filename}: {error.strerror or error}"
        raise OSError(f"{argument}: {text}") from error
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def given(context: typer.Context, *names: str) -> str | None:
    """The first of these parameters that stands on the command line, as an option; else None."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            return next(each.opts[0] for each in context.command.params if each.name == name)
    return None


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
