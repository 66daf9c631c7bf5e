"""The figures of the reading path, each a function of shapes, kernels or stored results.

`docs/make_docs.py` writes them beside this file; `tests/test_docs_made.py` draws them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svg import Drawing

from pyinception.bench import shapes
from pyinception.models import googlenet
from pyinception.spec import ConvSpec
from pyinception.tracing import specs

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"


def stored(name: str) -> Any:
    """A file of numbers beside this one."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------- memory, ladder


def memory() -> Drawing:
    """Which of x one output reads: nine pixels, three runs of memory."""
    d = Drawing(760, 250, "The nine pixels that one output reads, on the map and in memory")
    cell, left, top = 26, 30, 50
    d.text(left, 30, "7 x 7 of the map's pixels", bold=True)
    colours = ("blue", "orange", "green")
    for h in range(7):
        for w in range(7):
            inside = 2 <= h <= 4 and 2 <= w <= 4
            colour = colours[h - 2] if inside else "faint"
            d.rect(
                left + w * cell, top + h * cell, cell - 2, cell - 2, colour, 1 if inside else 0.6
            )
    x0, y = 270, 70
    d.text(x0, 30, "memory: a pixel is 96 floats, a row of pixels 28 x 96", bold=True)
    for r in range(3):
        d.rect(x0, y, 450, 22, "faint", 0.6)
        d.rect(x0 + 64, y, 72, 22, colours[r])
        d.text(x0 + 144, y + 16, f"window row r = {r}: 3 x 96 floats side by side", size=12)
        y += 48
    d.text(x0, y + 8, "A filter row is one run of 288 floats; three runs make an output.", size=12)
    return d


def ladder() -> Drawing:
    """The rungs of `pyinception ladder`, stored, on a logarithmic scale."""
    found = stored("ladder.json")
    rungs, peak = found["rungs"], found["peak_gflops"]
    d = Drawing(760, 70 + 30 * len(rungs) + 30, "GFLOP/s of every rung")
    d.text(
        20, 26, f"{found['shape']}: GFLOP/s, one thread of {found['environment']['cpu']}", bold=True
    )
    left, scale = 170, 100.0
    low = math.floor(math.log10(min(rung["gflops"] for rung in rungs)))

    def at(rate: float) -> float:
        return left + scale * (math.log10(rate) - low)

    bottom = 46 + 30 * len(rungs)
    for power in range(low, 4):
        d.path([(at(10.0**power), 40), (at(10.0**power), bottom)])
        d.text(at(10.0**power), bottom + 16, f"{10.0**power:g}", "middle", 12)
    for i, rung in enumerate(rungs):
        y = 46 + 30 * i
        d.rect(left, y, at(rung["gflops"]) - left, 20, "blue")
        d.text(left - 8, y + 15, rung["name"], "end")
        end = at(rung["gflops"])
        end = max(end, at(peak)) if rung["gflops"] > 0.6 * peak else end  # not across the line
        d.text(end + 6, y + 15, f"{rung['gflops']:.3g}", size=12)
    d.path([(at(peak), 40), (at(peak), bottom)], "red", 1.5)
    d.text(at(peak), bottom + 32, f"FMA peak {peak:.0f}", "middle", 12)
    return d


# --------------------------------------------------------------------------------- CPU kernels


def register_tile() -> Drawing:
    """14 pixels x 2 vectors of sums, and what is loaded for one term."""
    d = Drawing(760, 348, "The register tile: 28 sums stay in registers")
    left, top, cell, wide = 190, 88, 16, 180
    d.text(20, 28, "One term of the sum, 14 x 32 outputs (x86-64-v4)", bold=True)
    for j in range(2):
        x = left + j * (wide + 10)
        d.rect(x, top - 26, wide, 16, "orange")
        d.text(x + wide / 2, top - 31, f"16 filters of channel c, vector {j}", "middle", 12)
        for i in range(14):
            d.rect(x, top + i * (cell + 1), wide, cell, "blue", 0.85)
    for i in range(14):
        d.rect(left - 46, top + i * (cell + 1), cell, cell, "green")
    d.text(left - 56, top + 120, "x[pixel, c]", "end", 12)
    d.text(left - 56, top + 136, "14 pixels", "end", 12)
    x = left + 2 * wide + 34
    words = ("2 vectors loaded", "14 numbers broadcast", "28 multiply-adds of 16 floats", "",
             "registers: 28 sums", "+ 2 filters + 1 broadcast", "= 31 of 32")  # fmt: skip
    for i, line in enumerate(words):
        d.text(x, top + 20 + 20 * i, line, size=12)
    return d


def winograd() -> Drawing:
    """Tiles of 6 x 6 inputs overlap, their 4 x 4 outputs do not."""
    d = Drawing(760, 270, "Winograd F(4x4, 3x3): inputs, products, outputs of a tile")
    cell, top = 22, 62

    def grid(x: float, count: int, colour: str, title: str, below: str) -> None:
        d.text(x + count * cell / 2, 30, title, "middle", 13, True)
        for i in range(count):
            for j in range(count):
                d.rect(x + j * cell, top + i * cell, cell - 2, cell - 2, colour, 0.85)
        d.text(x + count * cell / 2, top + 6 * cell + 22, below, "middle", 12)

    grid(30, 6, "green", "6 x 6 inputs d", "B^T d B: additions")
    grid(310, 6, "blue", "36 products a channel", "summed over channels: the register tile")
    grid(620, 4, "orange", "4 x 4 outputs", "A^T m A: additions")
    d.arrow(180, 128, 295, 128)
    d.arrow(460, 128, 605, 128)
    d.text(380, 240, "Directly the 16 outputs take 16 x 9 = 144 products a channel.", "middle", 12)
    return d


def halo() -> Drawing:
    """Rows of the first of two tiles of the fused kernel, 3a's 3x3 branch."""
    spec = shapes.branch("3a/3x3")
    rows, channels = spec.x_shape[1], spec.stages[0].K
    half = rows // 2
    d = Drawing(760, 330, "A tile of the fused branch: rows of x, of the reduced map, of y")
    d.text(20, 26, f"The first of two tiles: {half} rows of y from {half + 1} rows of x", bold=True)
    top, row = 70, 8
    parts = ((40, 160, f"x: {spec.x_shape[3]} channels", "green", half + 1),
             (310, 100, f"r: {channels} channels", "blue", half + 1),
             (520, 120, f"y: {spec.K} channels", "orange", half))  # fmt: skip
    for x, wide, title, colour, used in parts:
        d.text(x, 58, title)
        for i in range(rows):
            mine = i < used
            d.rect(
                x, top + i * row, wide, row - 2, colour if mine else "faint", 0.9 if mine else 0.5
            )
    y = top + 7 * row
    for x0, x1, words in ((206, 304, "1x1"), (416, 514, "3x3")):
        d.arrow(x0, y, x1, y)
        d.text((x0 + x1) / 2, y - 6, words, "middle", 12)
    size = (half + 1) * (rows + 2) * channels * 4
    d.text(310, top + rows * row + 16, f"in scratch, {size:,} bytes, never in memory", size=12)
    d.text(650, top + half * row - 6, f"row {half - 1} of y reads", size=12)
    d.text(650, top + half * row + 10, f"row {half} of r", size=12)
    return d


# ---------------------------------------------------------------------------------------- CUDA


def banks() -> Drawing:
    """Where column 0 of an 8 x 8 corner lies, before and after the swizzle."""
    d = Drawing(760, 316, "Shared memory: a column in one bank, and spread by c ^ p")
    cell, top = 26, 76
    for left, title, swizzled in (
        (40, "c: one bank", False),
        (420, "c ^ p: every bank once", True),
    ):
        d.text(left, 30, title, bold=True)
        d.text(left, 52, "banks 0 to 7 of 32; a row is a pixel p", size=12)
        for p in range(8):
            for bank in range(8):
                channel = bank ^ p if swizzled else bank
                wanted = channel == 0
                d.rect(left + bank * cell, top + p * cell, cell - 2, cell - 2,
                       "red" if wanted else "faint", 1 if wanted else 0.6)  # fmt: skip
                d.text(left + bank * cell + 12, top + p * cell + 17, str(channel), "middle", 11)
    d.text(
        40, top + 8 * cell + 18, "red: channel 0, which the warp reads of all its pixels", size=12
    )
    return d


# -------------------------------------------------------------------------------------- engine


def tape() -> Drawing:
    """y = x * x + x: forward leaves nodes, backward walks them."""
    d = Drawing(760, 210, "The tape of y = x * x + x")
    d.text(20, 28, "y = x * x + x: tensors (blue), ops (orange), gradients (red)", bold=True)
    boxes = (
        ("x = 3", 60, "blue"), ("mul", 220, "orange"), ("x * x = 9", 340, "blue"),
        ("add", 520, "orange"), ("y = 12", 640, "blue"),
    )  # fmt: skip
    for words, x, colour in boxes:
        d.rect(x - 36, 92, 92, 34, colour, 0.35)
        d.text(x + 10, 114, words, "middle")
    for x0, x1 in ((116, 184), (276, 304), (396, 484), (576, 604)):
        d.arrow(x0, 106, x1, 106)
    d.path([(70, 92), (70, 60), (530, 60)], "ink")
    d.arrow(530, 60, 530, 91)
    d.text(650, 160, "1", "middle")
    d.text(440, 160, "1", "middle")
    d.text(230, 160, "x + x = 6", "middle")
    d.text(70, 160, "6 + 1 = 7", "middle")
    for x0, x1 in ((636, 456), (424, 280), (190, 112)):
        d.arrow(x0, 156, x1, 156, "red")
    return d


def network() -> Drawing:
    """Multiply-adds of GoogLeNet by row of its table."""
    rows: dict[str, int] = {}
    for _, _, spec in specs(googlenet(), (1, 224, 224, 3)):
        rows[_row(spec)] = rows.get(_row(spec), 0) + spec.macs
    rows = {name: macs for name, macs in rows.items() if macs}
    d = Drawing(760, 66 + 22 * len(rows), "GoogLeNet: multiply-adds of each row")
    d.text(20, 26, "Multiply-adds of one image, millions", bold=True)
    most = max(rows.values())
    for i, (name, macs) in enumerate(rows.items()):
        y = 44 + 22 * i
        d.text(130, y + 13, name, "end")
        d.rect(140, y, 480 * macs / most, 16, "orange" if name[0] in "345" else "blue")
        d.text(148 + 480 * macs / most, y + 13, f"{macs / 1e6:.0f}", size=12)
    return d


def _row(spec: Any) -> str:
    """The row of the table that a spec comes from, by its shape."""
    if isinstance(spec, ConvSpec):
        return next(name for name in shapes.STEM if shapes.conv(name).w_shape == spec.w_shape)
    for name in shapes.MODULES:
        if getattr(spec, "branches", None) == shapes.module(name).branches:
            return name
    return "fc" if spec.macs else "other"


def training() -> Drawing:
    """Loss and accuracy of the stored run, by step and by epoch."""
    found = stored("training.json")
    steps, epochs = found["steps"], found["epochs"]
    d = Drawing(760, 300, "A run of eight epochs on digits: loss and accuracy")
    left, top, wide, high = 60, 50, 290, 200
    for k, title in ((0, "loss of each step"), (1, "accuracy after each epoch")):
        x0 = left + k * 360
        d.text(x0, 30, title, bold=True)
        d.path([(x0, top), (x0, top + high), (x0 + wide, top + high)], "ink")
    most = max(steps)
    line = [(left + wide * i / (len(steps) - 1), top + high * (1 - v / most))
            for i, v in enumerate(steps)]  # fmt: skip
    d.path(line, "blue", 1.2)
    d.text(left - 6, top + 8, f"{most:.1f}", "end", 12)
    d.text(left - 6, top + high, "0", "end", 12)
    d.text(left + wide, top + high + 18, f"step {len(steps)}", "end", 12)
    x0 = left + 360
    for key, colour in (("accuracy", "blue"), ("test_accuracy", "orange")):
        d.path([(x0 + wide * i / (len(epochs) - 1),
                 top + high * (1 - e[key]))
                for i, e in enumerate(epochs)], colour, 1.8)  # fmt: skip
    d.text(x0 - 6, top + 8, "100 %", "end", 12)
    d.text(x0 - 6, top + high, "0", "end", 12)
    d.text(x0 + wide, top + high + 18, f"epoch {len(epochs)}", "end", 12)
    d.legend(x0 + 60, top + high + 36, {"blue": "training images", "orange": "test images"})
    return d


def fusion() -> Drawing:
    """What fusing a module saves in bytes, and in time, as measured."""
    runs = {batch: json.loads((RESULTS / name).read_text(encoding="utf-8"))
            for batch, name in ((1, "module.json"), (8, "module_batch8.json"))}  # fmt: skip
    d = Drawing(760, 330, "Unfused over fused: bytes and time of the nine modules")
    d.text(20, 26, "Unfused over fused, the nine modules: 1 means nothing gained", bold=True)
    left, bottom, high = 60, 270, 200
    for tick in range(6):
        y = bottom - high * tick / 5
        d.path([(left, y), (740, y)])
        d.text(left - 8, y + 4, str(tick), "end", 12)
    for i, name in enumerate(shapes.MODULES):
        x = left + 14 + 75 * i
        d.text(x + 26, bottom + 18, name, "middle")
        for k, batch in enumerate(runs):
            row = next(r for r in runs[batch]["rows"] if r["name"] == name)["columns"]
            bars = (("bytes", "grey"), ("median_us", "orange" if batch == 1 else "blue"))
            for m, (key, colour) in enumerate(bars):
                ratio = row["unfused"][key] / row["fused"][key]
                tall = high * ratio / 5
                d.rect(x + 28 * k + 12 * m, bottom - tall, 11, tall, colour)
    d.legend(left, 312, {"grey": "bytes, batch 1 and 8", "orange": "time, batch 1, two threads",
                         "blue": "time, batch 8, two threads"})  # fmt: skip
    return d


FIGURES: dict[str, Callable[[], Drawing]] = {
    function.__name__: function
    for function in (memory, ladder, register_tile, winograd, halo, banks, tape, network, training,
                     fusion)
}  # fmt: skip
