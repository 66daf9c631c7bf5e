"""``pyinception ladder``: one convolution from loops in Python to the fused kernel, timed here."""

from __future__ import annotations

from typing import Annotated

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("ladder")(ladder)


def ladder(
    chart: Annotated[str, typer.Option(help="PNG to draw; empty for none.")] = "ladder.png",
    json: AsJson = False,
) -> None:
    """Time every rung of the reading path on this machine, under a minute."""
    from pyinception.bench import ladder as rungs

    found = rungs.run_ladder()
    if chart:
        rungs.draw(found, chart)
    rows = []
    for rung in found.rungs:
        share = f"{rung.gflops / found.peak_gflops:.1%}"
        numbers = [_time(rung.seconds), f"{rung.gflops:.3g}", share, f"{rung.error:.0e}"]
        rows.append([f"{rung.name}: {rung.what}", *numbers, rung.read])
    heads = ["rung", "time", "GFLOP/s", "of the peak", "error", "read"]
    text = [f"{found.shape}, one thread, {found.environment['cpu']}", ""]
    text += [output.table(heads, rows), "", f"FMA peak: {found.peak_gflops:.1f} GFLOP/s"]
    if chart:
        text.append(f"chart: {chart}")
    emit("\n".join(text), found.as_dict() | {"chart": chart or None}, json)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
