"""``pyinception bench``: our kernels against themselves unfused, and against what is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import Algorithm, AsJson

if TYPE_CHECKING:
    from pyinception.bench.report import Report

app = typer.Typer(
    help="Time kernels, error beside the time; slower rows stay.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Names = Annotated[
    list[str] | None, typer.Argument(help='Layers such as "3a" or "3a/3x3" [all].', metavar="NAME")
]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Own shape N,H,W,C,Cr,K,R; may be repeated.")
]
Batch = Annotated[int, typer.Option(help="Images, for named layers.", min=1)]
Count = Annotated[int, typer.Option("--threads", help="Threads of every competitor.", min=1)]
Rounds = Annotated[int, typer.Option(help="Samples of each competitor, in turns.", min=1)]
Rivals = Annotated[bool, typer.Option(help="Also torch and OpenVINO, where installed.")]
Rival = Annotated[
    list[str] | None, typer.Option(help="This one alone, such as onnxruntime; may be repeated.")
]
Save = Annotated[str | None, typer.Option(help="Also write the JSON to this file.")]


Kernel = Annotated[
    str | None, typer.Option(help="A CUDA kernel of your own, FILE.cu:ENTRY, beside ours.")
]
Where = Annotated[str, typer.Option(help="With --kernel: auto, cuda or emulated.")]


@app.callback(invoke_without_command=True)
def quick(
    context: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="Net and three modules within a minute, no verb.")
    ] = False,
    backend: Annotated[str, typer.Option(help="With --quick: auto, cuda, cpu, emulated.")] = "auto",
    save: Save = None,
    json: AsJson = False,
) -> None:
    """Time kernels, error beside the time; slower rows stay."""
    if not quick:
        if option := output.given(context, "save", "json", "backend"):
            text = "belongs to --quick, or behind a verb"
            raise typer.BadParameter(text, param_hint=option)
        return
    if context.invoked_subcommand is not None:
        raise typer.BadParameter("stands alone, without a verb", param_hint="--quick")
    import pyinception as pyi
    from pyinception import bench

    with pyi.using(backend=backend):
        raise typer.Exit(_finish(bench.run_quick(_progress()), save, json))


@app.command("reduce_conv")
def reduce_conv(
    context: typer.Context,
    names: Names = None,
    shape: Shapes = None,
    batch: Batch = 1,
    threads: Count = 1,
    rounds: Rounds = 15,
    rivals: Rivals = True,
    rival: Rival = None,
    algorithm: Algorithm = None,
    kernel: Kernel = None,
    backend: Where = "auto",
    save: Save = None,
    json: AsJson = False,
) -> int:
    """The fused branch 1x1 -> RxR against the same two convolutions unfused, and rivals."""
    from pyinception import bench

    if kernel is None and (option := output.given(context, "backend")):
        raise typer.BadParameter("is for a --kernel of your own", param_hint=option)
    if kernel is not None:
        unheard = output.given(context, "threads", "rivals", "rival", "algorithm")
        if unheard:
            raise typer.BadParameter("says nothing beside --kernel", param_hint=unheard)
        own: dict[str, Any] = {"shapes": shape or (), "batch": batch, "rounds": rounds}
        own |= {"backend": backend, "progress": _progress()}
        return _finish(bench.run_own_kernel(kernel, names or "all", **own), save, json)
    how: dict[str, Any] = {"batch": batch, "threads": threads, "rounds": rounds}
    how["rivals"] = tuple(rival) if rival else rivals
    report = bench.run_reduce_conv(
        names or "all", shapes=shape or (), algorithm=algorithm, progress=_progress(), **how
    )
    return _finish(report, save, json)


@app.command("module")
def module(
    names: Names = None,
    batch: Batch = 1,
    threads: Count = 1,
    rounds: Rounds = 15,
    rivals: Rivals = True,
    rival: Rival = None,
    algorithm: Algorithm = None,
    save: Save = None,
    json: AsJson = False,
) -> int:
    """GoogLeNet's modules: one fused call against seven kernels and a concatenation, and rivals."""
    from pyinception import bench

    how: dict[str, Any] = {"batch": batch, "threads": threads, "rounds": rounds}
    how["rivals"] = tuple(rival) if rival else rivals
    report = bench.run_module(names or "all", algorithm=algorithm, progress=_progress(), **how)
    return _finish(report, save, json)


@app.command("conv")
def conv(
    names: Names = None,
    batch: Batch = 1,
    threads: Count = 1,
    rounds: Rounds = 15,
    rivals: Rivals = True,
    rival: Rival = None,
    algorithm: Algorithm = None,
    save: Save = None,
    json: AsJson = False,
) -> int:
    """Single convolutions with bias and ReLU, against rivals."""
    from pyinception import bench

    how: dict[str, Any] = {"batch": batch, "threads": threads, "rounds": rounds}
    how["rivals"] = tuple(rival) if rival else rivals
    report = bench.run_conv(names or "all", algorithm=algorithm, progress=_progress(), **how)
    return _finish(report, save, json)


@app.command("net")
def net(
    model: Annotated[str, typer.Option(help="Such as googlenet or inception_v3.")] = "googlenet",
    batch: Batch = 1,
    threads: Count = 2,
    rounds: Rounds = 15,
    rivals: Rivals = True,
    rival: Rival = None,
    algorithm: Algorithm = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, on every side.")] = "float32",
    mode: Annotated[str, typer.Option(help="Ours: auto, latency or throughput.")] = "auto",
    save: Save = None,
    json: AsJson = False,
) -> int:
    """A network, forward, against the same network in other libraries."""
    from pyinception import bench

    how: dict[str, Any] = {"batch": batch, "threads": threads, "rounds": rounds}
    how["rivals"] = tuple(rival) if rival else rivals
    how |= {"dtype": dtype, "algorithm": algorithm, "mode": mode}
    report = bench.run_net(model=model, progress=_progress(), **how)
    return _finish(report, save, json)


@app.command("compare")
def compare(
    before: Annotated[str, typer.Argument(help="JSON of a run.", metavar="A.JSON")],
    after: Annotated[str, typer.Argument(help="JSON of a later run.", metavar="B.JSON")],
    json: AsJson = False,
) -> int:
    """What became of A's times in B: faster, slower or the same, beyond the noise."""
    import warnings

    from pyinception import bench

    reports = []
    for argument, path in (("A.JSON", before), ("B.JSON", after)):
        with output.reading(argument):
            reports.append(bench.report.load(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table's notes say the same
        report = bench.compare(*reports)
    return _finish(report, None, json)


@app.command("chart")
def chart(
    reports: Annotated[list[Path], typer.Argument(help="JSON of runs.", metavar="REPORT.JSON")],
    kind: Annotated[str, typer.Option(help="bars, heat (layer x batch) or roofline.")] = "bars",
    save: Annotated[str, typer.Option(help="Picture to write, PNG or SVG.")] = "bench.png",
) -> int:
    """A picture of stored runs."""
    from pyinception.bench.charts import draw
    from pyinception.bench.report import load

    found = []
    for path in reports:
        with output.reading("REPORT.JSON"):
            found.append(load(path))
    draw(found, kind, save)
    typer.echo(save)
    return 0


def _progress() -> Callable[[str], None] | None:
    """Name what is being timed, on a terminal only: the next line overwrites it."""
    if not sys.stderr.isatty():
        return None

    def tell(name: str) -> None:
        typer.echo(f"\r\x1b[Ktiming {name}", err=True, nl=False)

    return tell


def _finish(report: Report, save: str | None, as_json: bool) -> int:
    """Write the report; a wrong result anywhere is exit code 1."""
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)
    if save is not None:
        from pyinception.train.run_folder import write_whole

        write_whole(Path(save), (report.to_json() + "\n").encode())
    typer.echo(report.to_json() if as_json else report.table())
    return 1 if report.failed else 0
