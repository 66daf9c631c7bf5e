"""What fusion buys: GoogLeNet's 18 branches and nine modules, fused beside the same work unfused.

Both ways take one algorithm, one CPU level and so one register tile. Forward: recorded launches
over packed weights (`bench.ours`). Training: forward with what backward needs, then every gradient,
by the public functions with ``out`` left to them. *MB moved* is the least traffic counted from the
shapes, *MB held* the maps that exist at once beside x and the weights' gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from statistics import geometric_mean
from typing import Any

import numpy as np
from figures_record import Figure

import pyinception as pyi
from pyinception.bench import ours, problems, shapes
from pyinception.bench.timing import interleave
from pyinception.spec import BranchSpec, PoolSpec

THREADS, ROUNDS = 2, 7
Arrays = list[Any]


def fusion(quick: bool = False) -> Figure:
    """Rows: shape, batch, algorithm, direction; ratios are fused over unfused."""
    figure = Figure("fusion", "fused over unfused, same tile and algorithm: shown whatever it says")
    names = [("module", "5a"), ("branch", "5a/5x5")] if quick else [
        *(("branch", name) for name in shapes.BRANCHES),
        *(("module", name) for name in shapes.MODULES),
    ]  # fmt: skip
    gained: dict[str, list[float]] = {}
    with pyi.using(threads=THREADS):
        for algorithm in ("direct", "auto"):
            for kind, name in names:
                spec = getattr(shapes, kind)(name, 1)
                row = _row(problems.make(name, spec), algorithm, 2 if quick else ROUNDS)
                figure.add(name=name, algorithm=algorithm, **row)
                for way in ("forward", "training"):
                    gained.setdefault(f"{kind}, {algorithm}, {way}", []).append(row[way])
    for what, ratios in gained.items():
        figure.notes.append(f"{what}: fused takes {geometric_mean(ratios):.3f} of the time")
    return figure


def _row(problem: problems.Problem, algorithm: str, rounds: int) -> dict[str, Any]:
    variants = ours.prepare(problem, algorithm, "", THREADS).variants
    both = {name: variants[name] for name in ("fused", "unfused")}
    times = interleave({name: v.call for name, v in both.items()}, rounds=rounds)
    row = {f"{name} us": 1e6 * timing.median for name, timing in times.items()}
    row["forward"] = times["fused"].median / times["unfused"].median
    row |= {f"{name} MB moved": v.bytes / 1e6 for name, v in both.items()}
    held = _held(problem.spec)
    row |= {f"{name} MB held": size / 1e6 for name, size in zip(both, held, strict=True)}
    fused, unfused = _training(problem, None if algorithm == "auto" else algorithm)
    for mine, other in zip(fused(), unfused(), strict=True):
        scale = float(np.abs(other).max())
        assert float(np.abs(mine - other).max()) <= 1e-4 * scale, problem.name
    steps = interleave({"fused": fused, "unfused": unfused}, rounds=rounds)
    row |= {f"{name} step us": 1e6 * timing.median for name, timing in steps.items()}
    row["training"] = steps["fused"].median / steps["unfused"].median
    return row


def _held(spec: Any) -> tuple[int, int]:
    """Bytes of the maps written, fused and unfused: the result, and every map between."""
    result = 4 * prod(spec.y_shape)
    chains = [spec] if isinstance(spec, BranchSpec) else spec.branches
    stages = sum(4 * prod(stage.y_shape) for chain in chains for stage in chain.stages)
    # A module's ends are copied into one map; a branch's last stage is the result itself.
    return result, stages + (0 if isinstance(spec, BranchSpec) else result)


def _training(
    problem: problems.Problem, algorithm: str | None
) -> tuple[Callable[[], Arrays], Callable[[], Arrays]]:
    """Two ways to y, gx and every weight's gradient, in one order."""
    spec, x, weights = problem.spec, problem.x, list(problem.weights)
    how: dict[str, Any] = {"backend": "cpu", "algorithm": algorithm}
    gy = np.random.default_rng(1).standard_normal(spec.y_shape).astype(np.float32)
    if isinstance(spec, BranchSpec):
        wr, _, w, _ = weights
        pad = spec.stages[1].padding

        def fused() -> Arrays:
            y, r = pyi.reduce_conv2d(x, *weights, padding=pad, return_reduced=True, **how)
            return [y, *pyi.reduce_conv2d_backward(gy, x, wr, w, r=r, y=y, padding=pad, **how)]

        return fused, lambda: _chain(x, gy, spec, weights, how)

    def whole() -> Arrays:
        y, saved = pyi.inception(x, weights, return_saved=True, **how)
        gx, grads = pyi.inception_backward(gy, x, weights, y=y, saved=saved, **how)
        return [y, gx, *grads]

    def parts() -> Arrays:
        ends: Arrays = []
        gx, grads, at, rest = np.zeros_like(x), [], 0, iter(weights)
        for chain in spec.branches:
            convs = sum(not isinstance(stage, PoolSpec) for stage in chain.stages)
            mine = [next(rest) for _ in range(2 * convs)]
            part = np.ascontiguousarray(gy[..., at : at + chain.stages[-1].y_shape[3]])
            at += part.shape[3]
            y, g, *gw = _chain(x, part, chain, mine, how)
            ends.append(y)
            gx += g
            grads += gw
        return [np.concatenate(ends, axis=-1), gx, *grads]

    return whole, parts


def _chain(x: Any, gy: Any, chain: Any, weights: Arrays, how: dict[str, Any]) -> Arrays:
    """y, gx, gradients of one chain, a kernel a stage."""
    rest, steps, value = iter(weights), [], x
    for stage in chain.stages:
        window = {"stride": stage.stride, "padding": stage.padding}
        if isinstance(stage, PoolSpec):
            y, argmax = pyi.max_pool2d(value, stage.kernel, **window, return_argmax=True)
            steps.append((stage, value, argmax, None, window))
        else:
            w, b = next(rest), next(rest)
            y = pyi.conv2d(value, w, b, relu=True, **window, **how)
            steps.append((stage, value, w, y, window))
        value = y
    grads: Arrays = []
    for stage, before, other, after, window in reversed(steps):
        if isinstance(stage, PoolSpec):
            gy = pyi.max_pool2d_backward(gy, other, before.shape, stage.kernel, **window)
        else:
            gy, gw, gb = pyi.conv2d_backward(gy, before, other, y=after, **window, **how)
            grads = [gw, gb, *grads]
    return [value, gy, *grads]
