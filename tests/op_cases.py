"""Small cases for every (op, direction) of the table: one record drives several suites.

`cases(rng)` yields (op, direction, spec, inputs, outputs): a row is run as
``row.run(spec, *place(arguments))``; ``outputs`` are positions (paths) that it must write.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyinception.spec import (
    AddScaledSpec,
    BatchNormSpec,
    BranchSpec,
    ConvSpec,
    DepthwiseConvSpec,
    DropoutSpec,
    InceptionSpec,
    LinearSpec,
    LrnSpec,
    PoolSpec,
    SoftmaxCrossEntropySpec,
)


@dataclass
class Case:
    """Arguments after spec, in order; arrays that are NaN (uint8: 255) on entry are outputs."""

    op: str
    direction: str
    spec: Any
    arguments: tuple[Any, ...]
    exact: bool = True  # integers throughout, so every summation order gives the same bits

    def fresh(self) -> tuple[Any, ...]:
        return copy(self.arguments)


def copy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(copy(part) for part in value)
    return value.copy() if isinstance(value, np.ndarray) else value


def arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, tuple):
        return [array for part in value for array in arrays(part)]
    return [value] if isinstance(value, np.ndarray) else []


def blank(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 255, dtype)


def cases() -> list[Case]:
    draw = np.random.default_rng(5)

    def ints(*shape: int, low: int = -3, high: int = 4) -> np.ndarray:
        return draw.integers(low, high, shape).astype(np.float32)

    found: list[Case] = []

    def add(op: str, direction: str, spec: Any, *arguments: Any, exact: bool = True) -> None:
        found.append(Case(op, direction, spec, arguments, exact))

    for stride, padding, relu in (((1, 1), (1, 1), True), ((2, 1), (0, 2), False)):
        conv = ConvSpec(2, 7, 5, 3, 4, 3, 3, stride, padding, relu)
        x, w, b = ints(*conv.x_shape), ints(*conv.w_shape), ints(4)
        y, gy = ints(*conv.y_shape), ints(*conv.y_shape)
        mask = y if relu else None
        add("conv", "fprop", conv, x, w, b, blank(*y.shape))
        add("conv", "fprop", conv, x, w, None, blank(*y.shape))
        add("conv", "dgrad", conv, gy, w, mask, blank(*x.shape), False)
        add("conv", "dgrad", conv, gy, w, mask, ints(*x.shape), True)
        add("conv", "wgrad", conv, x, gy, mask, blank(*w.shape), blank(4))
        add("conv", "wgrad", conv, x, gy, mask, blank(*w.shape), None)
    for k, stride, padding, relu in ((3, (1, 1), (1, 1), True), (6, (2, 1), (0, 2), False)):
        each = DepthwiseConvSpec(2, 7, 5, 3, k, 3, 3, stride, padding, relu)
        x, w, b = ints(*each.x_shape), ints(*each.w_shape), ints(k)
        y, gy = ints(*each.y_shape), ints(*each.y_shape)
        mask = y if relu else None
        op = "depthwise_conv"
        add(op, "fprop", each, x, w, b, blank(*y.shape))
        add(op, "fprop", each, x, w, None, blank(*y.shape))
        add(op, "dgrad", each, gy, w, mask, blank(*x.shape), False)
        add(op, "dgrad", each, gy, w, mask, ints(*x.shape), True)
        add(op, "wgrad", each, x, gy, mask, blank(*w.shape), blank(k))
        add(op, "wgrad", each, x, gy, mask, blank(*w.shape), None)
    for shape, scale, relu in (((2, 4, 3, 5), 0.5, True), ((3, 7), -2.0, False)):
        total = AddScaledSpec(shape, scale, relu)
        a, b, y, gy = ints(*shape), ints(*shape), ints(*shape), ints(*shape)
        mask = y if relu else None
        add("add_scaled", "fprop", total, a, b, blank(*shape))
        if relu:
            add("add_scaled", "fprop", total, a, None, blank(*shape))
            add("add_scaled", "dgrad", total, gy, y, blank(*shape), None)
        add("add_scaled", "dgrad", total, gy, mask, blank(*shape), blank(*shape))
        add("add_scaled", "dgrad", total, gy, mask, None, blank(*shape))
    first = ConvSpec(2, 6, 5, 5, 3, 1, 1, relu=True)
    last = ConvSpec(2, 6, 5, 3, 4, 3, 3, (1, 1), (1, 1), True)
    branch = BranchSpec((first, last))
    x, wr, br = ints(*first.x_shape), ints(*first.w_shape), ints(3)
    w, b, gy = ints(*last.w_shape), ints(4), ints(*last.y_shape)
    y, r = ints(*last.y_shape), ints(*first.y_shape)
    out = blank(*y.shape)
    add("reduce_conv", "fprop", branch, x, wr, br, w, b, out, None)
    add("reduce_conv", "fprop", branch, x, wr, br, w, b, out, blank(*r.shape))
    grads = [blank(*a.shape) for a in (wr, br, w, b)]
    shape = x.shape
    add("reduce_conv", "backward", branch, gy, x, wr, w, r, y, blank(*shape), *grads, False)
    add("reduce_conv", "backward", branch, gy, x, wr, w, r, y, ints(*shape), *grads, True)
    for third in (5, 3):
        module = InceptionSpec.of_widths((2, 5, 4, 3), (2, 2, 3, 1, 2, 2), third=third)
        filters = ((2, 1, 3), (2, 1, 3), (3, 3, 2), (1, 1, 3), (2, third, 1), (2, 1, 3))
        weights = tuple(
            a for k, s, c in filters for a in (ints(k, s, s, c, low=-1, high=2), ints(k))
        )
        x, y, gy = ints(2, 5, 4, 3), ints(2, 5, 4, 9), ints(2, 5, 4, 9)
        reduced = ints(2, 5, 4, 2), ints(2, 5, 4, 1)
        pooled, argmax = ints(2, 5, 4, 3), np.full((2, 5, 4, 3), 4, np.uint8)
        empty = tuple(blank(*a.shape) for a in (*reduced, pooled)) + (
            blank(2, 5, 4, 3, dtype=np.uint8),
        )
        add("inception", "fprop", module, x, weights, blank(*y.shape), None)
        add("inception", "fprop", module, x, weights, blank(*y.shape), empty)
        grads = tuple(blank(*a.shape) for a in weights)
        saved = (*reduced, pooled, argmax)
        add("inception", "backward", module, gy, x, weights, y, saved, blank(*x.shape), grads)
    x = ints(2, 7, 6, 3, low=-40, high=41)
    for ceil in (False, True):
        pool = PoolSpec("max", 2, 7, 6, 3, (3, 3), (2, 2), (0, 1), ceil)
        taps = np.full(pool.y_shape, 4, np.uint8)
        y = blank(*pool.y_shape)
        add("max_pool", "fprop", pool, x, y, blank(*pool.y_shape, dtype=np.uint8))
        add("max_pool", "fprop", pool, x, y, None)
        add("max_pool", "dgrad", pool, ints(*pool.y_shape), taps, blank(*x.shape))
        mean = PoolSpec("avg", 2, 7, 6, 3, (2, 2), (2, 2), (0, 1), ceil)
        add("avg_pool", "fprop", mean, x, blank(*mean.y_shape))
        add("avg_pool", "dgrad", mean, ints(*mean.y_shape), blank(*x.shape))
    lrn = LrnSpec(2, 7, 6, 3)
    add("lrn", "fprop", lrn, x, blank(*x.shape), exact=False)
    add("lrn", "dgrad", lrn, ints(*x.shape), x, blank(*x.shape), exact=False)
    for relu in (True, False):
        linear = LinearSpec(3, 5, 4, relu)
        x, w, b, gy, y = ints(3, 5), ints(4, 5), ints(4), ints(3, 4), ints(3, 4)
        mask = y if relu else None
        add("linear", "fprop", linear, x, w, b, blank(3, 4))
        add("linear", "dgrad", linear, gy, w, mask, blank(3, 5))
        add("linear", "wgrad", linear, x, gy, mask, blank(4, 5), blank(4))
    loss = SoftmaxCrossEntropySpec(3, 4)
    labels = np.array([0, 3, 1])
    probs = np.full((3, 4), 0.25, np.float32)
    op = "softmax_cross_entropy"
    add(op, "fprop", loss, ints(3, 4), labels, blank(3), blank(3, 4), exact=False)
    add(op, "dgrad", loss, probs, labels, ints(3), blank(3, 4))
    norm = BatchNormSpec((2, 3, 4, 5), 1e-5, True)
    x, gy, y = (ints(2, 3, 4, 5) for _ in range(3))
    gamma, beta, mean = ints(5), ints(5), ints(5)
    var = ints(5, low=1, high=5)
    vectors = blank(5), blank(5)
    op, new = "batch_norm", blank(*x.shape)
    add(op, "fprop", norm, x, gamma, beta, new, *vectors, exact=False)
    add(op, "inference", norm, x, gamma, beta, mean, var, new, exact=False)
    add(op, "dgrad", norm, gy, x, gamma, mean, var, y, new, *vectors, exact=False)
    drop = DropoutSpec((3, 7), 0.5)
    for direction in ("fprop", "dgrad"):
        add("dropout", direction, drop, ints(3, 7), blank(3, 7), 1, 2, 3, 4)
    return found


def wide_cases() -> list[Case]:
    """Channels that tensor cores take: whole units of 16 bytes in every storage."""
    draw = np.random.default_rng(3)

    def ints(*shape: int) -> np.ndarray:
        return draw.integers(-2, 3, shape).astype(np.float32)

    def blank(*shape: int) -> np.ndarray:
        return np.full(shape, np.nan, np.float32)

    found = []
    for kernel, stride, padding in ((3, (1, 1), (1, 1)), (3, (2, 1), (0, 2)), (1, (1, 1), (0, 0))):
        conv = ConvSpec(2, 6, 5, 16, 24, kernel, kernel, stride, padding, True)
        x, w, b = ints(*conv.x_shape), ints(*conv.w_shape), ints(24)
        y, gy = ints(*conv.y_shape), ints(*conv.y_shape)
        found += [
            Case("conv", "fprop", conv, (x, w, b, blank(*y.shape))),
            Case("conv", "dgrad", conv, (gy, w, y, ints(*x.shape), True)),
            Case("conv", "wgrad", conv, (x, gy, y, blank(*w.shape), blank(24))),
        ]
    module = InceptionSpec.of_widths((2, 5, 4, 16), (8, 16, 24, 8, 16, 8))
    branch = module.branches[1]
    convs = branch.stages
    x, gy, y = ints(2, 5, 4, 16), ints(*branch.y_shape), ints(*branch.y_shape)
    wr, br, w, b = ints(*convs[0].w_shape), ints(16), ints(*convs[1].w_shape), ints(24)  # type: ignore[union-attr]
    r = np.maximum(ints(2, 5, 4, 16), 0)
    grads = [blank(*a.shape) for a in (x, wr, br, w, b)]
    found += [
        Case("reduce_conv", "fprop", branch, (x, wr, br, w, b, blank(*y.shape), blank(*r.shape))),
        Case("reduce_conv", "backward", branch, (gy, x, wr, w, r, y, *grads, False)),
    ]
    weights = tuple(
        a
        for branch in module.branches
        for stage in branch.stages
        if isinstance(stage, ConvSpec)
        for a in (ints(*stage.w_shape), ints(stage.K))
    )
    y, gy = ints(*module.y_shape), ints(*module.y_shape)
    maps = r, np.maximum(ints(2, 5, 4, 8), 0), ints(*x.shape)
    argmax = np.full(x.shape, 4, np.uint8)
    empty = *(blank(*a.shape) for a in maps), np.full_like(argmax, 255)
    grads = tuple(blank(*a.shape) for a in weights)
    arguments = gy, x, weights, y, (*maps, argmax), blank(*x.shape), grads
    found += [
        Case("inception", "fprop", module, (x, weights, blank(*y.shape), empty)),
        Case("inception", "backward", module, arguments),
    ]
    return found
