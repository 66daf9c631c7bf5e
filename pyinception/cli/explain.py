"""``pyinception explain``: which kernel runs a shape, and why the others decline."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit

if TYPE_CHECKING:
    from pyinception.spec import Spec


class Kind(StrEnum):
    """What is to be explained."""

    conv = "conv"
    reduce_conv = "reduce_conv"
    module = "module"


FORMS = {
    Kind.conv: ("N,H,W,C,K,R", "conv2, 3a/1x1"),
    Kind.reduce_conv: ("N,H,W,C,Cr,K,R", "3a/3x3"),
    Kind.module: ("N,H,W,C,1x1,3x3 reduce,3x3,5x5 reduce,5x5,pool proj", "3a"),
}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain")(explain)


def explain(
    kind: Annotated[Kind, typer.Argument(help="What to run.")],
    what: Annotated[str, typer.Argument(help="A layer of GoogLeNet (3a, 3a/3x3) or a shape.")],
    batch: Annotated[int, typer.Option(help="Images, for a named layer.", min=0)] = 1,
    stride: Annotated[int, typer.Option(help="Of a conv given as a shape.", min=1)] = 1,
    padding: Annotated[int, typer.Option(help="Of a conv given as a shape.", min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    measure: Annotated[bool, typer.Option("--measure", help="Time forward here as well.")] = False,
    threads: output.Threads = 0,
    backend: output.Backend = None,
    algorithm: output.Algorithm = None,
    json: AsJson = False,
) -> None:
    """Which kernel runs a conv, reduce_conv or module, and why the table's other rows decline.

    Kernel, tile, FLOPs, least bytes; with --measure the expected and the measured time.
    Shapes: conv N,H,W,C,K,R; reduce_conv N,H,W,C,Cr,K,R; module N,H,W,C and six widths. With
    --backend emulated a reduce_conv is run once as well, and its memory traffic shown by line.
    """
    import pyinception as pyi

    if dtype not in ("float32", "float64"):
        raise ValueError(f"explain: dtype is {dtype!r}, expected float32 or float64")
    spec = spec_of(kind, what, batch, stride, padding)
    with pyi.using(backend=backend, algorithm=algorithm, threads=threads or None):
        explanation = pyi.explain(spec, dtype=dtype, measure=measure)
    text, value = str(explanation), explanation.as_dict()
    if backend == "emulated" and kind is Kind.reduce_conv:
        value["counters"] = rows = counters(spec)
        text += "\n" + traffic(rows)
    emit(text, value, json)


def counters(spec: Any) -> list[dict[str, Any]]:
    """What each line of the kernel's source asks of memory in one forward call on the emulator.

    ``units`` are wavefronts of shared memory or 32-byte sectors of global memory, ``ideal`` those
    of the distinct bytes, ``share`` the line's part of the units of its memory.
    """
    import numpy as np

    import pyinception as pyi
    from pyinception import emulator

    stages: Any = spec.stages  # of a BranchSpec: two convolutions
    reduce, conv = stages
    rng = np.random.default_rng(0)
    operands = [
        rng.standard_normal(shape, np.float32)
        for shape in (reduce.x_shape, reduce.w_shape, (reduce.K,), conv.w_shape, (conv.K,))
    ]
    with emulator.counting() as counted, emulator.using(checked=True):
        pyi.reduce_conv2d(*operands, stride=conv.stride, padding=conv.padding, backend="emulated")
    lines = [line for line in emulator.by_line(counted) if line.kind != "executed"]
    total: dict[str, int] = {}
    for line in lines:
        total[line.kind.split()[0]] = total.get(line.kind.split()[0], 0) + line.units
    return [
        {
            "kernel": line.kernel, "line": line.where.rpartition("/")[2], "kind": line.kind,
            "bytes a lane": line.width, "instructions": line.instructions, "units": line.units,
            "ideal": line.ideal, "share": round(line.units / total[line.kind.split()[0]], 4),
        }
        for line in lines
    ]  # fmt: skip


def traffic(rows: list[dict[str, Any]]) -> str:
    """The rows of `counters` as a table, those of at least 1 %."""
    heads = ["line", "kind", "bytes a lane", "instructions", "units", "ideal", "share"]
    shown = [row for row in rows if row["share"] >= 0.01]
    cells = [[f"{row[h]:.1%}" if h == "share" else str(row[h]) for h in heads] for row in shown]
    return (
        "counted, one call: wavefronts of shared memory, 32-byte sectors of global memory\n"
        + output.table(heads, cells)
    )


def spec_of(kind: Kind, what: str, batch: int, stride: int, padding: int) -> Spec:
    """The spec that a layer's name or a list of numbers means.

    Raises
    ------
    ValueError
        If it is neither; the message shows the form and some names.
    """
    from pyinception.bench import shapes
    from pyinception.spec import ConvSpec, InceptionSpec

    if "," not in what:
        known = {
            Kind.conv: shapes.CONVS,
            Kind.reduce_conv: shapes.BRANCHES,
            Kind.module: tuple(shapes.MODULES),
        }[kind]
        if what not in known:
            form, names = FORMS[kind]
            text = f"{kind.value} is {what!r}, expected a layer such as {names}, or {form}"
            raise ValueError(f"explain: {text}")
        if kind is Kind.conv:
            return shapes.conv(what, batch)
        return (
            shapes.branch(what, batch) if kind is Kind.reduce_conv else shapes.module(what, batch)
        )
    form = FORMS[kind][0]
    try:
        numbers = [int(part) for part in what.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != form.count(",") + 1 or min(numbers) < 1:
        text = f"{kind.value} is {what!r}, expected positive integers {form}"
        raise ValueError(f"explain: {text}")
    if kind is Kind.conv:
        N, H, W, C, K, R = numbers
        window = (stride, stride), (padding, padding)
        return ConvSpec(N, H, W, C, K, R, R, *window, relu=True, function="explain")
    if kind is Kind.reduce_conv:
        return shapes.reduce_conv(*numbers)
    return InceptionSpec.of_widths(numbers[:4], numbers[4:], "explain")
