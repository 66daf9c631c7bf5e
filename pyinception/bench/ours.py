"""Our side of a comparison: the same problem fused and unfused, prepared as `Session` prepares it.

Weights are packed beforehand and the launches recorded; what is timed is running them. Fused and
unfused use one algorithm, one CPU level and hence one register tile. Unfused is what a library
without the fused op does: one convolution after the other through a map in memory, and for a
module seven kernels and a concatenation that copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import pyinception as pyi
from pyinception import dispatch
from pyinception.backend import Array, Target, core
from pyinception.bench.problems import Problem, aligned, branches, convolutions
from pyinception.bench.timing import Call
from pyinception.prepack import Packed, prepack
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, PoolSpec


@dataclass(eq=False)
class Variant:
    """One way to compute a problem: a call to time and the array it writes."""

    call: Call
    output: Array
    bytes: int  # least memory traffic of this way

    def poison(self) -> None:
        """Fill the output with NaN: what is not written cannot pass."""
        self.output.fill(np.nan)


@dataclass(eq=False)
class Ours:
    """Every variant of one problem, and what is common to them."""

    kernel: str
    variants: dict[str, Variant]  # "fused", "unfused", "call" (the public function)
    pack: Call


def prepare(problem: Problem, algorithm: str, level: str, threads: int) -> Ours:
    """Pack the weights, record the launches; nothing is timed here.

    Parameters
    ----------
    algorithm, level, threads : as in `config`; every variant uses the same.
    """
    spec, target = problem.spec, Target("host", "float32", level)
    op = {ConvSpec: "conv", BranchSpec: "reduce_conv", InceptionSpec: "inception"}[type(spec)]
    asked = None if algorithm == "auto" else algorithm
    plan = dispatch.choose(op, "fprop", spec, target, backend="cpu", algorithm=asked)
    filters = problem.weights[::2]
    packed = [prepack(w, f) for w, f in zip(filters, plan.formats, strict=False)]
    parts: list[Any] = list(problem.weights)
    parts[::2] = packed or filters
    how = plan.row.algorithm, level, threads

    variants = {"fused": _fused(problem, parts, how)}
    if not isinstance(spec, ConvSpec):
        variants["unfused"] = _unfused(problem, parts, how)
    variants["call"] = _public(problem, parts, asked)

    def pack() -> None:
        for w, p in zip(filters, packed, strict=False):
            prepack(w, p.format, out=p.data)

    return Ours(_describe(op, *how), variants, pack)


def _describe(op: str, algorithm: str, level: str, threads: int) -> str:
    level = level or core().host_level()
    name = f"{op}_plain" if algorithm == "plain" else "conv" if op == "inception" else op
    tiles = {row["name"]: row for row in core().kernels() if row["level"] == level}
    tile = tiles.get(name)
    size = f" {tile['MR']}x{tile['NR']}" if tile and algorithm != "plain" else ""
    return f"{op}/{algorithm} {level}{size}"


def _data(part: Any) -> Any:
    return part.data if isinstance(part, Packed) else part


def _recorded(record: Callable[[], None], threads: int) -> Call:
    with core().record() as launches:
        record()
    return partial(launches.run, threads)


def _fused(problem: Problem, parts: list[Any], how: tuple[str, str, int]) -> Variant:
    spec, x, y = problem.spec, problem.x, aligned(problem.spec.y_shape)
    arrays = [_data(part) for part in parts]

    def record() -> None:
        if isinstance(spec, ConvSpec):
            window = spec.kernel, spec.stride, spec.padding
            core().conv_fprop(x, *arrays, y, *window, spec.relu, *how)
        elif isinstance(spec, BranchSpec):
            last = convolutions(spec)[1]
            window = last.kernel, last.stride, last.padding
            core().reduce_conv_fprop(x, *arrays, y, None, *window, *how)
        else:
            core().inception_fprop(x, tuple(arrays), y, None, *how)

    return Variant(_recorded(record, how[2]), y, spec.bytes)


def _unfused(problem: Problem, parts: list[Any], how: tuple[str, str, int]) -> Variant:
    """Stage by stage, every map in memory of its own; several branches are then copied together."""
    assert not isinstance(problem.spec, ConvSpec)
    chains = branches(problem.spec)
    arrays = iter([_data(part) for part in parts])
    ends: list[Array] = []

    def record() -> None:
        for chain in chains:
            value = problem.x
            for stage in chain:
                y = aligned(stage.y_shape)
                window = stage.kernel, stage.stride, stage.padding
                if isinstance(stage, PoolSpec):
                    core().max_pool_fprop(value, y, None, *window, *how)
                else:
                    w, b = next(arrays), next(arrays)
                    core().conv_fprop(value, w, b, y, *window, stage.relu, *how)
                value = y
            ends.append(value)

    run = _recorded(record, how[2])
    if len(ends) == 1:
        return Variant(run, ends[0], problem.spec.bytes_unfused)
    output = aligned(problem.spec.y_shape)

    def call() -> None:
        run()
        np.concatenate(ends, axis=-1, out=output)

    return Variant(call, output, problem.spec.bytes_unfused)


def _public(problem: Problem, parts: list[Any], algorithm: str | None) -> Variant:
    """The public function as a user calls it: every check, packed weights, ``out=``."""
    spec, x, y = problem.spec, problem.x, aligned(problem.spec.y_shape)
    how: dict[str, Any] = {"out": y, "backend": "cpu", "algorithm": algorithm}
    call: Call
    if isinstance(spec, ConvSpec):
        how |= {"stride": spec.stride, "padding": spec.padding, "relu": spec.relu}
        w, b = parts
        call = partial(pyi.conv2d, x, w, b, **how)
    elif isinstance(spec, BranchSpec):
        last = convolutions(spec)[1]
        how |= {"stride": last.stride, "padding": last.padding}
        wr, br, w, b = parts
        call = partial(pyi.reduce_conv2d, x, wr, br, w, b, **how)
    else:
        call = partial(pyi.inception, x, tuple(parts), **how)
    return Variant(call, y, spec.bytes)
