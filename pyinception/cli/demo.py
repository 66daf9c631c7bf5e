"""``pyinception demo``: the main things in two minutes, with a table, a curve and a picture.

1. the fused kernels against the NumPy reference in float64, forward and backward;
2. GoogLeNet's nine modules, fused against unfused and against what is installed;
3. a few steps of a network of modules with reduces, then a small Inception, on real digits.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pyinception.cli import output

TOLERANCE = 2e-5  # relative, of what algorithm="auto" may do to one op in float32
CHECKED = (  # x (N, H, W, C), Cr, K, R: layers of GoogLeNet, and one shape that fits no tile
    ("5a/3x3", (1, 7, 7, 832), 160, 320, 3),
    ("4a/5x5", (1, 14, 14, 480), 16, 48, 5),
    ("odd", (2, 9, 11, 21), 13, 19, 3),
)
MODULES = (  # x (N, H, W, C), widths (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj)
    ("4a", (1, 14, 14, 480), (192, 96, 208, 16, 48, 64)),
    ("odd", (2, 9, 7, 21), (6, 7, 19, 5, 10, 13)),
)
TINY = {"data": "digits", "model": "tiny_inception", "size": 16, "epochs": 3}
SMALL = {"data": "digits", "model": "small_inception", "size": 16, "epochs": 4, "gamma": 0.5}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[str, typer.Option(help="Folder for table, curve and picture.")] = "demo",
    threads: Annotated[int, typer.Option(help="Threads of every competitor.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Samples of each competitor.", min=1)] = 5,
    rivals: Annotated[bool, typer.Option(help="Also torch and OpenVINO, if installed.")] = True,
    json: output.AsJson = False,
) -> int:
    """Check the kernels, time the nine modules, train two networks: about two minutes."""
    from pyinception.backend import core

    core()  # without it there is nothing to show; the error has cause and remedy
    begun = time.perf_counter()
    report = output.reporter(json)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)

    rows = check_reduce_conv() + check_modules()
    text = checks_table(rows)
    report.line("Fused kernels against the NumPy reference in float64\n\n" + text + "\n")

    from pyinception import bench

    timed = bench.run_module("all", threads=threads, rounds=rounds, rivals=rivals)
    report.line(f"GoogLeNet's modules, batch 1\n\n{timed.table()}\n")
    _write(folder / "table.txt", f"{text}\n\n{timed.table()}\n".encode())

    report.line("A network of two modules with reduces: its first steps")
    tiny = _train(TINY, report, folder, {"features.png": "picture.png"})
    report.line("\nA small Inception from scratch, on 1,297 handwritten digits")
    small = _train(SMALL, report, folder, {"curves.png": "curve.png"}, with_baselines=True)
    seconds = time.perf_counter() - begun
    best = max(score["accuracy"] for score in small["baselines"])
    wrong = [row for row in rows if not row["ok"]]
    value: dict[str, Any] = {
        "checks": rows,
        "modules": timed.as_dict(),
        "tiny": tiny,
        "small": small,
        "seconds": round(seconds, 1),
    }
    text = (
        f"\n{small['test_accuracy']:.1%} of the test digits are right (best of the baselines: "
        f"{best:.1%}), after {seconds:.0f} s in all\n"
        f"{folder}/table.txt, {folder}/curve.png and {folder}/picture.png are yours to keep"
    )
    output.emit(text, value, json)
    return 1 if wrong or timed.failed else 0


def check_reduce_conv() -> list[dict[str, Any]]:
    """The fused branch, forward and backward, against float64."""
    import numpy as np

    import pyinception as pyi
    from pyinception.kernels import reference

    rows = []
    for name, shape, reduced, channels, side in CHECKED:
        pad = (side // 2, side // 2)
        shapes = (
            (reduced, 1, 1, shape[3]),
            (reduced,),
            (channels, side, side, reduced),
            (channels,),
        )
        x, *weights = random_arrays(name, shape, shapes)
        start = time.perf_counter()
        y, r = pyi.reduce_conv2d(x, *weights, return_reduced=True)
        wanted, _ = reference.reduce_conv_fprop(*as_float64(x, *weights), padding=pad)
        rows.append(_row("reduce_conv", "forward", name, shape, [y], [wanted], start))
        start = time.perf_counter()
        gy = random_arrays(name + "/gy", y.shape, ())[0]
        wr, _, w, _ = weights
        found = pyi.reduce_conv2d_backward(gy, x, wr, w, r=r, y=y)
        # The reference's own masks would differ where a sum is within rounding of zero.
        exact = reference.reduce_conv_backward(
            *as_float64(gy, x, wr, w, r, y), stride=(1, 1), padding=pad
        )
        rows.append(_row("reduce_conv", "backward", name, shape, found, exact, start))
        once = pyi.reduce_conv2d(x, *weights)
        rows[-2]["same_bits"] = bool(np.array_equal(once, y))
    return rows


def check_modules() -> list[dict[str, Any]]:
    """The whole module, forward and backward, against float64."""
    import numpy as np

    import pyinception as pyi
    from pyinception.kernels import reference
    from pyinception.ops.inception import weight_shapes

    rows = []
    for name, shape, widths in MODULES:
        x, *weights = random_arrays(name, shape, weight_shapes(shape[3], widths))
        start = time.perf_counter()
        y, saved = pyi.inception(x, tuple(weights), return_saved=True)
        exact = as_float64(*weights)
        wanted, _ = reference.inception_fprop(x.astype(np.float64), exact)
        rows.append(_row("module", "forward", name, shape, [y], [wanted], start))
        start = time.perf_counter()
        gy = random_arrays(name + "/gy", y.shape, ())[0]
        gx, grads = pyi.inception_backward(gy, x, tuple(weights), y=y, saved=saved)
        r3, r5, pooled, argmax = saved
        kept = (*as_float64(r3, r5, pooled), argmax)
        gx64, grads64 = reference.inception_backward(
            *as_float64(gy, x), exact, *as_float64(y), kept
        )
        found = [gx, *grads]
        rows.append(_row("module", "backward", name, shape, found, [gx64, *grads64], start))
        rows[-2]["same_bits"] = bool(np.array_equal(pyi.inception(x, tuple(weights)), y))
    return rows


def random_arrays(name: str, shape: Any, others: Any) -> list[Any]:
    """Float32 arrays of ``shape`` and ``others``: maps in [-1, 1], filters by xavier's rule."""
    from math import prod

    from pyinception import rng

    arrays = [rng.uniform(shape, -1, 1, seed=0, purpose=f"demo/{name}/x")]
    for i, extents in enumerate(others):
        limit = (3 / prod(extents[1:])) ** 0.5 if len(extents) > 1 else 0.2
        purpose = f"demo/{name}/{i}"
        arrays.append(rng.uniform(tuple(extents), -limit, limit, seed=0, purpose=purpose))
    return arrays


def as_float64(*arrays: Any) -> tuple[Any, ...]:
    """The arrays in float64."""
    return tuple(array.astype("float64") for array in arrays)


def _row(
    op: str, way: str, name: str, shape: Any, found: Any, exact: Any, start: float
) -> dict[str, Any]:
    """The largest error of several arrays, each relative to its own largest value."""
    import numpy as np

    error = max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, exact, strict=True)
    )
    row = {"op": op, "direction": way, "name": name, "shape": list(shape), "error": error}
    return row | {"ok": error <= TOLERANCE, "seconds": round(time.perf_counter() - start, 3)}


def checks_table(rows: list[dict[str, Any]]) -> str:
    """The checks as text."""
    lines = []
    for row in rows:
        bits = {True: "same", False: "differ", None: "-"}[row.get("same_bits")]
        shape = " x ".join(str(extent) for extent in row["shape"])
        verdict = "ok" if row["ok"] else "WRONG"
        name = f"{row['op']} {row['name']}"
        lines.append([name, row["direction"], shape, f"{row['error']:.1e}", bits, verdict])
    heads = ["op", "direction", "x (N, H, W, C)", "largest error", "fused / saving", ""]
    return output.table(heads, lines)


def _train(
    entries: Any, report: Any, folder: Path, keep: dict[str, str], with_baselines: bool = False
) -> dict[str, Any]:
    """Train in a folder that is thrown away, and keep some of its pictures."""
    from pyinception.train.loop import train

    with tempfile.TemporaryDirectory(prefix="pyinception-demo-") as scratch:
        run = Path(scratch) / "run"
        outcome = train(entries, run, report=report, with_baselines=with_baselines)
        for source, target in keep.items():
            shutil.copyfile(run / source, folder / target)
    if outcome.signal:
        raise KeyboardInterrupt
    return outcome.as_dict() | {"folder": None}


def _write(path: Path, content: bytes) -> None:
    from pyinception.train.run_folder import write_whole

    write_whole(path, content)
