"""``pyinception ladder``: one convolution from loops in Python to the fused kernel, timed here."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit

BAR = 20


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("ladder")(ladder)


def ladder(
    chart: Annotated[
        str, typer.Option(help="Chart to draw, .png or .svg; empty for none.")
    ] = "ladder.png",
    json: AsJson = False,
) -> None:
    """Time every rung of the reading path on this machine, under a minute.

    Bars are logarithmic: four # are a factor of ten.
    """
    from pyinception.bench import ladder as rungs

    found = rungs.run_ladder()
    if chart:
        rungs.draw(found, chart)
    least = min(rung.gflops for rung in found.rungs)
    rows = []
    for rung in found.rungs:
        share = f"{rung.gflops / found.peak_gflops:.1%}"
        numbers = [_time(rung.seconds), f"{rung.gflops:.3g}", share, f"{rung.error:.0e}"]
        rows.append([f"{rung.name}: {rung.what}", bar(rung.gflops, least), *numbers, rung.read])
    heads = ["rung", "", "time", "GFLOP/s", "of the peak", "error", "read"]
    text = [f"{found.shape}, one thread, {found.environment['cpu']}", ""]
    text += [output.table(heads, rows), "", f"FMA peak: {found.peak_gflops:.1f} GFLOP/s"]
    if found.environment["blas_threads"] != "1":
        text.append(
            "the two rungs of NumPy on every core: pip install threadpoolctl for one thread"
        )
    if chart:
        text.append(f"chart: {chart}")
    emit("\n".join(text), found.as_dict() | {"chart": chart or None}, json)


def bar(rate: float, least: float) -> str:
    """``rate`` in blocks, one for ``least`` and four more for every factor of ten above it."""
    blocks = 1 + round(4 * math.log10(rate / least))
    return ("#" * blocks).ljust(BAR)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
