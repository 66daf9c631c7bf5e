"""One problem: a spec with inputs, its result in float64 and a bound on any fp32 result.

The bound is rigorous and per element. With u = 2^-24 and g_n = n u / (1 - n u), a sum of n
products taken in any order has |error| <= g_n sum |w| |x| (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1); an input that is itself off by e adds (1 + g_n) sum |w| e. ReLU
and maximum never widen an error.
"""

from dataclasses import dataclass

import numpy as np

from pyinception import workspace
from pyinception.backend import Array, reference
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, PoolSpec

TimedSpec = ConvSpec | BranchSpec | InceptionSpec

UNIT_ROUNDOFF = 2.0**-24
MOST_CHECKED = 2  # images compared with float64: the reference takes a second for a large one


def branches(spec: TimedSpec) -> list[list[ConvSpec | PoolSpec]]:
    """The chains of stages whose outputs stand side by side in the result."""
    if isinstance(spec, ConvSpec):
        return [[spec]]
    chains = spec.branches if isinstance(spec, InceptionSpec) else (spec,)
    return [[s for s in chain.stages if isinstance(s, ConvSpec | PoolSpec)] for chain in chains]


def convolutions(spec: TimedSpec) -> list[ConvSpec]:
    """The convolutions of ``spec`` in the order of its weights."""
    return [stage for chain in branches(spec) for stage in chain if isinstance(stage, ConvSpec)]


def macs_inside(spec: TimedSpec) -> int:
    """Multiply-adds of ``spec`` less those of filter rows that lie outside the image."""
    total = 0
    for conv in convolutions(spec):
        tops = [p * conv.stride[0] - conv.padding[0] for p in range(conv.P)]
        rows = sum(0 <= top + r < conv.H for top in tops for r in range(conv.R))
        total += conv.macs * rows // (conv.P * conv.R)
    return total


def aligned(shape: tuple[int, ...]) -> Array:
    """An uninitialised float32 array on a 64-byte boundary."""
    return workspace.empty(shape, np.empty(0, np.float32))


@dataclass(eq=False)
class Problem:
    """Inputs of one timed op, and what must come out.

    ``weights`` are (w, b) of each convolution, KRSC and (K,). ``expected`` and ``bound`` cover the
    images ``checked`` of the batch.
    """

    name: str
    spec: TimedSpec
    x: Array
    weights: tuple[Array, ...]
    checked: list[int]
    expected: Array
    bound: Array

    def error(self, y: Array) -> tuple[float, float]:
        """(max|y - expected| / max|expected|, max|y - expected| / bound), both NaN for a NaN.

        A result is right where the second is at most 1.
        """
        difference = np.abs(y[self.checked].astype(np.float64) - self.expected)
        scale = max(float(np.abs(self.expected).max()), 1e-300)
        return float(difference.max()) / scale, float((difference / self.bound).max())


def make(name: str, spec: TimedSpec, seed: int = 0) -> Problem:
    """Random x and weights for ``spec`` (He et al. 2015: every map keeps its scale), solved.

    Biases are as large as a tenth of the maps, so that a wrong bias or halo is far outside the
    bound.
    """
    draw = np.random.default_rng(seed)
    x = aligned(spec.x_shape)
    x[...] = draw.standard_normal(x.shape, np.float32)
    weights: list[Array] = []
    for conv in convolutions(spec):
        w, b = aligned(conv.w_shape), aligned((conv.K,))
        scale = np.float32((2 / (conv.R * conv.S * conv.C)) ** 0.5)
        w[...] = draw.standard_normal(w.shape, np.float32) * scale
        b[...] = draw.standard_normal(b.shape, np.float32) * np.float32(0.1)
        weights += [w, b]
    n = x.shape[0]
    checked = sorted({0, n - 1} if n > MOST_CHECKED else range(n))
    expected, bound = solve(spec, x[checked], weights)
    return Problem(name, spec, x, tuple(weights), checked, expected, bound)


def solve(spec: TimedSpec, x: Array, weights: list[Array]) -> tuple[Array, Array]:
    """The result in float64 and the bound on a float32 result's error, both (N, P, Q, K)."""
    values, bounds = [], []
    rest = iter(weights)
    for chain in branches(spec):
        value, error = x.astype(np.float64), np.zeros(x.shape)
        for stage in chain:
            if isinstance(stage, PoolSpec):
                value, error = _pool(stage, value), _pool(stage, error)
                continue
            w, b = next(rest).astype(np.float64), next(rest).astype(np.float64)
            where = {"stride": stage.stride, "padding": stage.padding}
            terms = stage.R * stage.S * stage.C + 2  # products, bias, rounding of the result
            gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
            spread = gamma * np.abs(value) + (1 + gamma) * error
            error = reference().conv2d_fprop(spread, np.abs(w), gamma * np.abs(b), **where)
            value = reference().conv2d_fprop(value, w, b, relu=stage.relu, **where)
        values.append(value)
        bounds.append(error)
    # A result of exact zeros may have a bound of zero: nothing else than zero is right there.
    tiny = np.finfo(np.float64).tiny
    return np.concatenate(values, axis=-1), np.maximum(np.concatenate(bounds, axis=-1), tiny)


def _pool(stage: PoolSpec, x: Array) -> Array:
    window = stage.kernel, stage.stride, stage.padding
    y, _ = reference().max_pool_fprop(x, *window, stage.ceil_mode)
    return y
