"""What one layer runs and how long it takes, beside what the machine allows.

    expected = max(multiply-adds made / FMA peak, a copy that moves as many bytes)

Measured is the forward call as a `Session` makes it: weights packed, launches recorded, its maps in
one arena and so as warm in cache as they fit. The peak is sampled in turns with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, get_args

import numpy as np

from pyinception import backend, config, extents, reports
from pyinception.bench import problems
from pyinception.bench.timing import Peak, interleave
from pyinception.extents import FLOAT_BYTES
from pyinception.layers import Conv2d, Inception, ReduceConv2d
from pyinception.module import Module
from pyinception.reports import Explanation, Time
from pyinception.session import Session
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, Spec
from pyinception.tracing import specs


class Explanations(list[Explanation]):
    """The explanations of a layer's calls, in order."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"calls": [explanation.as_dict() for explanation in self]}

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def explain(
    what: Spec | Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    dtype: str = "float32",
    memory: str = "host",
    measure: bool | None = None,
    rounds: int = 9,
) -> Explanation | Explanations:
    """Kernel, tile, FLOPs, bytes and the table's reasons; for a layer expected and measured time.

    Parameters
    ----------
    what : a spec, or a layer or network, which is traced for ``input_shape``.
    input_shape : (N, H, W, C) or (N, C), of a layer.
    dtype, memory : of a spec's arrays: "float32" or "float64", "host" or "cuda".
    measure : whether to time forward as well; None measures a layer and not a spec. Specs of
        convolutions, fused branches and GoogLeNet's modules can be measured.
    rounds : samples of each call and of the peak, taken in turns.

    Returns
    -------
    An `Explanation` for a spec, for a layer one for each call that it makes in evaluation;
    ``print`` either, or take ``as_dict()``.

    Raises
    ------
    TypeError
        ``what`` is neither; or a layer has no ``input_shape``, or a spec has one.
    ValueError
        A spec that is no layer is to be measured, or not in float32 on the host.
    """
    if not isinstance(what, (Module, *get_args(Spec))):
        raise TypeError(f"explain: what is a {type(what).__name__}, expected a spec or a layer")
    if isinstance(what, Module) != (input_shape is not None):
        kind = type(what).__name__
        wanted = "an input_shape with a layer and none with a spec"
        raise TypeError(f"explain: {kind} with input_shape = {input_shape}, expected {wanted}")
    if not isinstance(what, Module):
        found = reports.explain(what, dtype=dtype, memory=memory)
        if not measure:
            return found
        if (dtype, memory) != ("float32", "host"):
            text = f"dtype is {dtype!r}, memory {memory!r}, expected float32 on the host"
            raise ValueError(f"explain: {text} where a spec is measured")
        return replace(found, time=times(*layer_of(what), rounds)[0])
    input_shape = extents.input_shape("explain", input_shape, "N H W C", "N C")
    calls = [spec for _, _, spec in specs(what, input_shape)]
    explained = Explanations(reports.explain(spec, dtype=dtype, memory=memory) for spec in calls)
    if measure is False:
        return explained
    measured = times(what, input_shape, rounds)
    return Explanations(replace(e, time=t) for e, t in zip(explained, measured, strict=True))


def layer_of(spec: Any) -> tuple[Module, tuple[int, ...]]:
    """A layer that makes one call of ``spec``, and its input's shape; ValueError if none does."""
    layer: Module | None = None
    if isinstance(spec, ConvSpec):
        window = spec.kernel, spec.stride, spec.padding
        layer = Conv2d(spec.C, spec.K, *window, relu=spec.relu, bias=0.1 if spec.bias else False)
    elif isinstance(spec, BranchSpec) and spec.is_reduce_conv:
        first, last = problems.convolutions(spec)
        layer = ReduceConv2d(first.C, first.K, last.K, last.kernel, last.stride, last.padding)
    elif isinstance(spec, InceptionSpec) and spec.is_googlenet:
        n1, r3, n3, r5, n5, proj = (conv.K for conv in problems.convolutions(spec))
        layer = Inception(spec.x_shape[3], n1, r3, n3, r5, n5, proj)
    if layer is None:
        text = f"{type(spec).__name__} is not measured by itself; give its layer and input_shape"
        raise ValueError(f"explain: {text}")
    return layer, tuple(spec.x_shape)


def times(layer: Module, input_shape: tuple[int, ...], rounds: int = 9) -> list[Time]:
    """The time of every call that ``layer`` makes for ``input_shape``, in order."""
    if input_shape[0] < 1:
        raise ValueError(f"explain: input_shape is {input_shape}, expected at least one image")
    session = Session(layer, input_shape, mode="latency")  # its steps are walked by the team
    groups = input_shape[0] // session.group  # a large batch goes through in groups
    draw = np.random.default_rng(0)
    session(draw.standard_normal(input_shape, np.float32))
    steps = [(plan, call) for plan, call in session.steps() if plan is not None]
    threads = config.get("threads") or backend.core().default_threads()
    peak = Peak(threads, config.get("cpu_level"))
    found = []
    for plan, call in steps:
        copy = _copy(plan.spec.bytes)
        calls: dict[str, Callable[[], Any]] = {"call": call, "copy": copy, "peak": peak}
        taken = interleave(calls, rounds=rounds)
        made, timed = groups * macs_made(plan), taken["call"]
        us = [1e6 * groups * t for t in (taken["copy"].median, timed.median, timed.p20, timed.p80)]
        found.append(Time(threads, made, peak.best, 2e-3 * made / peak.best, *us))
    return found


def macs_made(plan: Any) -> int:
    """Multiply-adds that the kernel of a plan makes: fewer at the border, and by Winograd."""
    convs = reports.convolutions(plan.spec)
    if not convs:
        return int(plan.spec.macs)
    level = plan.target.level or backend.core().host_level()
    total = 0
    for conv in convs:
        if plan.row.backend == "cpu" and reports.takes_winograd(conv, plan.row.algorithm, level):
            points = _points(conv.P, conv.R, conv.stride) * _points(conv.Q, conv.S, conv.stride)
            total += conv.N * conv.C * conv.K * points
        else:
            total += problems.macs_inside(conv)
    return total


def _points(extent: int, taps: int, stride: tuple[int, int]) -> int:
    """Products of Winograd along one axis: tiles of four outputs take taps + 3 each.

    Without taps there is no tile. A stride of 2 has half the taps, four, and two phases.
    """
    if taps == 1:
        return extent
    taps, phases = (taps, 1) if stride == (1, 1) else (4, 2)
    return phases * ceil(extent / 4) * (taps + 3)


def _copy(moved: int) -> Callable[[], Any]:
    """A copy that reads and writes ``moved`` bytes in all."""
    source, target = (problems.aligned((max(moved // (2 * FLOAT_BYTES), 1),)) for _ in range(2))
    source.fill(1.0)
    return lambda: np.copyto(target, source)
