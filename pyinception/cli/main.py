"""``pyinception VERB``: the verbs, and how they end.

==== =====================================================================
exit when
==== =====================================================================
0    it was done
1    it could not be done: one message on stderr says why
2    the command line itself was wrong
130  Ctrl-C (training saved itself first); 143 after SIGTERM
==== =====================================================================

A message has at most three lines. ``--debug``, anywhere on the line, adds the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from inspect import getdoc
from typing import Annotated, Any

import typer

from pyinception.cli import (
    bench,
    convert,
    demo,
    doctor,
    evaluate,
    explain,
    ladder,
    look,
    predict,
    report,
    study,
    train,
)
from pyinception.cli.output import Explained

INTERRUPTED = 130
LINES = 3

app = typer.Typer(
    name="pyinception",
    help="Convolution kernels for Inception modules: check, time, train, look inside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VERBS = (
    doctor, demo, train, report, look, evaluate, predict, explain, ladder, study, convert,
)  # fmt: skip
for verb in VERBS:
    verb.register(app)
app.add_typer(bench.app, name="bench")
for command in (*app.registered_commands, *bench.app.registered_commands):
    # Whole in the list of verbs, where a help text of its own is cut at the line's end.
    command.short_help = (getdoc(command.callback) or "").partition("\n\n")[0]


def _version(wanted: bool) -> None:
    if wanted:
        from pyinception import __version__

        typer.echo(f"pyinception {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, anywhere on the line.")
    ] = False,
) -> None:
    """Convolution kernels for Inception modules: check, time, train, look inside."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        result = app(given, prog_name="pyinception", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
        if code == INTERRUPTED and not isinstance(result, Explained):  # typer caught the Ctrl-C
            _say(["interrupted"])
        return int(code)
    except SystemExit as ended:  # a reader that closed the pipe, as typer reports it
        return _quiet_end(ended.code if isinstance(ended.code, int) else 1)
    except BrokenPipeError:
        return _quiet_end(1)
    except KeyboardInterrupt:
        _say(["interrupted"])
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _failed(error)


def _failed(error: Exception) -> int:
    """Say what went wrong in at most three lines; the exit code tells whose fault it was."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the command line
        context: Any = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # the help itself, and no message
            typer.echo(error.format_message(), err=True)
            return int(error.exit_code)
        path = context.command_path if context is not None else "pyinception"
        text = " ".join(error.format_message().split())  # choices stand in lines of their own
        text = text.replace("Value error, ", "")  # typer's own, before a checker's
        _say([f"error: {text}", f"help: {path} --help"])
        return int(error.exit_code)
    text = str(error) or type(error).__name__
    if isinstance(error, KeyError | IndexError | AttributeError | AssertionError):
        text = f"{type(error).__name__}: {text} (a defect of pyinception; --debug shows where)"
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}; try a smaller batch or image size"
    _say([f"error: {text}", *getattr(error, "__notes__", [])])
    return 1


def _say(texts: list[str]) -> None:
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"... and {len(lines) - LINES + 1} lines more (--debug)"]
    typer.echo("\n".join(lines), err=True)


def _quiet_end(code: int) -> int:
    # Nobody reads any more; without this the interpreter complains once again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
