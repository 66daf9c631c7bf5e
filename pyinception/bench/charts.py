"""Charts of stored reports: bars a layer, a heat map layer x batch, the roofline."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pyinception.bench.report import Report

OURS, EDGE = "#204a78", "#b04030"
RIVALS = ("#7f9fbf", "#c9a26b", "#8fae8b", "#a890b8", "#b0b0b0", "#c98b8b")  # by order of columns


def draw(reports: Sequence[Report], kind: str, path: str | Path) -> None:
    """Write one chart of ``reports`` to ``path``, PNG or SVG by its ending.

    Parameters
    ----------
    reports : of `run_conv`, `run_reduce_conv`, `run_module` or `run_net`.
    kind : "bars": time of every competitor over ours, a group a row, of the first report;
        "heat": fastest rival's time over ours, rows x batches, of all reports;
        "roofline": GFLOP/s of our rows over their FLOPs a byte, of all reports.

    Raises
    ------
    ValueError
        For an unknown kind, no report, or one without times.
    """
    from pyinception.data.dataset import require
    from pyinception.train.run_folder import write_whole

    if kind not in KINDS:
        raise ValueError(f"chart: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if not any(True for report in reports for _ in timed(report)):
        raise ValueError("chart: reports have no row with a time of ours")
    require("matplotlib", "train", "a chart")
    from matplotlib.figure import Figure

    figure: Any = Figure((9, 5), layout="constrained")
    KINDS[kind](figure, reports)
    memory, name = io.BytesIO(), Path(path)
    figure.savefig(memory, format=name.suffix.lstrip(".").lower() or "png", dpi=150)
    write_whole(name, memory.getvalue())


def timed(report: Report) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, our cell) of every row whose result was right."""
    for row in report.rows:
        ours = row.get("columns", {}).get("fused", {})
        if "median_us" in ours:
            yield row, ours


def speedups(row: dict[str, Any]) -> dict[str, float]:
    """Rival -> its time over ours, rivals without a time left out."""
    cells = row["columns"]
    ours = cells["fused"]["median_us"]
    left = ("fused", "call", "unfused")
    rivals = {name: cell for name, cell in cells.items() if name not in left}
    return {n: c["median_us"] / ours for n, c in rivals.items() if "median_us" in c}


def _title(report: Report) -> str:
    about = report.environment
    return f"{about['cpu']}, threads: {about['threads']}, algorithm: {report.settings['algorithm']}"


def _bars(figure: Any, reports: Sequence[Report]) -> None:
    report = reports[0]
    rows = list(timed(report))
    names = [row["name"] for row, _ in rows]
    ratios = [speedups(row) for row, _ in rows]
    rivals = list(dict.fromkeys(name for found in ratios for name in found))
    axes = figure.subplots()
    width = 0.8 / max(len(rivals), 1)
    for i, rival in enumerate(rivals):
        at = [place - 0.4 + width * (i + 0.5) for place in range(len(names))]
        heights = [found.get(rival, 0.0) for found in ratios]
        axes.bar(at, heights, width, label=rival, color=RIVALS[i % len(RIVALS)])
    axes.axhline(1, color=EDGE, linewidth=1)
    axes.set_xticks(range(len(names)), names, rotation=60 if len(names) > 10 else 0, size=8)
    axes.set_ylabel("time over ours (above 1: ours is faster)")
    axes.set_title(f"{report.kind}, batch {report.settings['batch']}: {_title(report)}", size=9)
    if rivals:
        axes.legend(fontsize=8)


def _heat(figure: Any, reports: Sequence[Report]) -> None:
    cells: dict[str, dict[int, float]] = {}
    for report in reports:
        for row, _ in timed(report):
            if found := speedups(row):
                batch = int(report.settings["batch"])
                cells.setdefault(row["name"], {})[batch] = min(found.values())
    if not cells:
        raise ValueError("chart: reports have no rival's time to compare with")
    batches = sorted({batch for of_row in cells.values() for batch in of_row})
    nan = float("nan")
    grid = [[of_row.get(batch, nan) for batch in batches] for of_row in cells.values()]
    axes = figure.subplots()
    # 1.0 in the middle of the colours: red is where a rival wins.
    picture = axes.imshow(grid, cmap="RdBu", vmin=0, vmax=2, aspect="auto")
    axes.set_xticks(range(len(batches)), [f"batch {batch}" for batch in batches])
    axes.set_yticks(range(len(cells)), list(cells), size=8)
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            if value == value:
                colour = "white" if abs(value - 1) > 0.6 else "black"
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", size=8, color=colour)
    axes.set_title(f"fastest rival's time over ours: {_title(reports[0])}", size=9)
    figure.colorbar(picture, ax=axes, extend="max")


def _roofline(figure: Any, reports: Sequence[Report]) -> None:
    axes = figure.subplots()
    points = [
        (2 * row["macs"] / ours["bytes"], ours["gflops"], row["name"], report)
        for report in reports
        for row, ours in timed(report)
    ]
    peak = max(report.settings["peak_gflops"] for report in reports)
    copies = [report.settings[key] for report in reports if (key := "copy_gb_s") in report.settings]
    ends = min(p[0] for p in points) / 2, max(p[0] for p in points) * 2
    axes.axhline(peak, color=EDGE, linewidth=1, label=f"FMA peak {peak:.0f} GFLOP/s")
    if copies:
        slope = max(copies)
        edge = [ends[0], min(ends[1], peak / slope)]
        text = f"copying memory, {slope:.0f} GB/s"
        if edge[0] < edge[1]:
            axes.plot(edge, [slope * x for x in edge], color=EDGE, linestyle="--", label=text)
    batches = sorted({int(report.settings["batch"]) for report in reports})
    colours = dict(zip(batches, (OURS, *RIVALS), strict=False))
    for batch in batches:
        chosen = [p for p in points if p[3].settings["batch"] == batch]
        axes.scatter(*zip(*[p[:2] for p in chosen], strict=True), s=18, c=colours.get(batch, OURS),
                     label=f"ours, batch {batch}")  # fmt: skip
    for x, y, name, _ in points:
        axes.annotate(name, (x, y), xytext=(3, 3), textcoords="offset points", size=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(min(peak, *(p[1] for p in points)) / 3, 1.5 * max(peak, *(p[1] for p in points)))
    axes.set_xlabel("FLOPs a byte of least traffic")
    axes.set_ylabel("nominal GFLOP/s (Winograd counts as direct)")
    axes.set_title(_title(reports[0]), size=9)
    axes.legend(fontsize=8)


KINDS: dict[str, Callable[[Any, Sequence[Report]], None]] = {
    "bars": _bars,
    "heat": _heat,
    "roofline": _roofline,
}
