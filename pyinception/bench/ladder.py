"""The ladder: one convolution of GoogLeNet, from loops in Python to the fused kernel.

Every rung computes (or, for loops, begins to compute) the 3x3 branch of module 3a and is checked
against float64. Rates are nominal multiply-adds, two operations each, over the median of samples
taken in turns on one thread; what a rung computes less than the others scales its operations too.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import config
from pyinception.backend import Array, reference
from pyinception.bench import problems, shapes
from pyinception.bench.ours import prepare
from pyinception.bench.report import environment
from pyinception.bench.timing import Call, Peak, interleave, once

NAME = "3a/3x3"
ROUNDS = 9
LOOP_CHANNELS = 2  # output channels of one row that the loops compute: the whole takes a minute


@dataclass(frozen=True)
class Rung:
    """One way to compute it: ``gflops`` nominal, ``error`` max|y - float64| / max|float64|."""

    name: str
    what: str
    read: str
    seconds: float
    gflops: float
    error: float


@dataclass(frozen=True)
class Ladder:
    """All rungs, the FMA peak of the same minute, machine and shape."""

    rungs: list[Rung]
    peak_gflops: float
    environment: dict[str, Any]
    shape: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def loops(x: Array, w: Array, b: Array, row: int, channels: int) -> list[list[float]]:
    """y[row, :, :channels] of a 3x3 convolution with padding 1 and ReLU, one number at a time."""
    height, width, depth = x.shape
    image, filters = x.tolist(), w.tolist()
    y = [[0.0] * channels for _ in range(width)]
    for q in range(width):
        for k in range(channels):
            total = float(b[k])
            for r in range(3):
                for s in range(3):
                    i, j = row + r - 1, q + s - 1
                    if 0 <= i < height and 0 <= j < width:
                        pixel, tap = image[i][j], filters[k][r][s]
                        for c in range(depth):
                            total += pixel[c] * tap[c]
            y[q][k] = max(total, 0.0)
    return y


def im2col(x: Array, w: Array, b: Array) -> Array:
    """The same as one matrix product: every pixel's 3x3 neighbourhood copied into a row."""
    n, height, width, depth = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, 9 * depth)
    y = rows @ w.reshape(len(w), -1).T + b
    return np.maximum(y, 0, out=y).reshape(n, height, width, len(w))


@contextmanager
def _one_blas_thread() -> Iterator[str]:
    """NumPy's products on one thread, where threadpoolctl is there to say so; yields how many."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield os.environ.get("OPENBLAS_NUM_THREADS", "all")
        return
    with threadpool_limits(1, "blas"):
        yield "1"


def run_ladder(progress: Callable[[str], None] | None = None) -> Ladder:
    """Time every rung on this machine, one thread; under a minute.

    Raises
    ------
    RuntimeError
        A rung's result is wrong.
    """
    tell = progress or (lambda _: None)
    branch = problems.make(NAME, shapes.branch(NAME))
    conv = problems.make("3a/conv3x3", problems.convolutions(branch.spec)[1])
    level = config.get("cpu_level")
    x, (w, b) = conv.x, conv.weights
    rows: list[tuple[str, str, str, Call, float, Callable[[], float]]] = []

    def of_array(call: Callable[[], Any]) -> Callable[[], float]:
        return lambda: conv.error(np.asarray(call()))[0]

    row = conv.spec.y_shape[1] // 2
    share = 2 * conv.spec.macs * LOOP_CHANNELS / (conv.spec.y_shape[1] * conv.spec.y_shape[3])

    here = "pyinception/bench/ladder.py"

    def begin() -> Any:
        return loops(x[0], w, b, row, LOOP_CHANNELS)

    def begun() -> float:
        expected = conv.expected[0, row, :, :LOOP_CHANNELS]
        return float(np.abs(np.array(begin()) - expected).max() / np.abs(expected).max())

    rows.append(("loops", "six loops in Python", here, begin, share, begun))
    for name, what, read, call in (
        ("reference", "NumPy, one product a tap", "kernels/reference.py",
         lambda: reference().conv2d_fprop(x, w, b, padding=(1, 1), relu=True)),
        ("im2col", "NumPy, one product by BLAS", here,
         lambda: im2col(x, w, b)),
    ):  # fmt: skip
        rows.append((name, what, read, call, 2 * conv.spec.macs, of_array(call)))
    ways = (
        ("plain", "plain", conv, "fused", "the same loops, compiled by Numba",
         "kernels/cpu/conv_plain.py"),
        ("register tile", "direct", conv, "fused", "14x32 sums stay in registers",
         "kernels/cpu/register_tile.py"),
        ("Winograd", "winograd", conv, "fused", "F(4x4, 3x3): a quarter of the products",
         "kernels/cpu/winograd.py"),
        ("branch, unfused", "direct", branch, "unfused", "1x1, then 3x3, the map in memory",
         "csrc/core/reduce_conv.cpp"),
        ("branch, fused", "direct", branch, "fused", "1x1 and 3x3 in one pass",
         "kernels/cpu/conv.py"),
        ("fused, Winograd", "auto", branch, "fused", "the reduced map transformed at once",
         "kernels/cpu/winograd.py"),
    )  # fmt: skip
    for name, algorithm, problem, column, what, read in ways:
        tell(name)
        variant = prepare(problem, algorithm, level, 1).variants[column]

        def judged(problem: Any = problem, variant: Any = variant) -> float:
            variant.poison()
            variant.call()
            return float(problem.error(variant.output)[0])

        rows.append((name, what, read, variant.call, 2 * problem.spec.macs, judged))
    errors = {name: judge() for name, _, _, _, _, judge in rows}
    if wrong := {name: e for name, e in errors.items() if not e <= 1e-4}:
        raise RuntimeError(f"ladder: wrong results, relative errors {wrong}")
    peak = Peak(1, level)
    tell("timing")
    fast: dict[str, Call] = {name: call for name, _, _, call, _, _ in rows if name != "loops"}
    with config.using(threads=1), _one_blas_thread() as blas:
        times = interleave(fast | {"peak": peak}, rounds=ROUNDS)
    seconds = {name: times[name].median for name in fast}
    seconds["loops"] = min(once(begin) for _ in range(3))
    rungs = [
        Rung(name, what, read, seconds[name], 1e-9 * flops / seconds[name], errors[name])
        for name, what, read, _, flops, _ in rows
    ]
    about = environment(1, level)
    about["blas_threads"] = blas
    n, h, width, c = conv.spec.x_shape
    text = f"{n} x {h} x {width} x {c} -> {conv.spec.y_shape[3]}, 3x3"
    return Ladder(rungs, peak.best, about, text)


def draw(ladder: Ladder, path: str | os.PathLike[str]) -> None:
    """The rungs as bars on a logarithmic scale, the FMA peak as a line; PNG or SVG by ``path``."""
    from pyinception.data.dataset import require
    from pyinception.train.run_folder import write_whole

    require("matplotlib", "train", "a chart")
    from matplotlib.figure import Figure

    figure = Figure((8, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [rung.name for rung in ladder.rungs]
    rates = [rung.gflops for rung in ladder.rungs]
    bars = axes.barh(names, rates, color="#4878a8")
    axes.bar_label(bars, [f"{rate:.3g}" for rate in rates], padding=3)
    axes.axvline(ladder.peak_gflops, color="#b04030", linewidth=1)
    axes.set_title(f"{ladder.shape}: GFLOP/s, one thread of {ladder.environment['cpu']}", size=9)
    axes.set_xlabel(f"nominal GFLOP/s; line: FMA peak {ladder.peak_gflops:.3g}")
    axes.set_xscale("log")
    axes.set_xlim(right=ladder.peak_gflops * 8)
    axes.invert_yaxis()
    memory = io.BytesIO()
    figure.savefig(memory, format=Path(path).suffix[1:] or "png", dpi=150)
    write_whole(Path(path), memory.getvalue())
