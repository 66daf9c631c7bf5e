"""Runs of the compiled core's ops in every layout, algorithm and thread count, with guards.

A helper of the tests of the core: importing it skips the module where the core is not built.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C")

LEVELS = core.levels()
per_level = pytest.mark.parametrize("level", LEVELS)
CHANNELS = (1, 3, 5, 15, 16, 17, 33, 64, 70)
COUNT = 120  # generated cases of an op
POISON = np.uint32(0x7FC0DEAD)
u = 2.0**-24
LEAST = 2.0**-149


@dataclass
class Out:
    """An output to come: its shape, or what it holds before (accumulate); layout drawn or dense."""

    shape: tuple[int, ...]
    start: Any = None
    dtype: Any = np.float32
    dense: bool = False


def bits(a):
    return np.ascontiguousarray(a).view(np.uint8 if a.dtype == np.uint8 else np.uint32)


def same(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.array_equal(bits(a), bits(b)), f"{np.sum(bits(a) != bits(b))} of {a.size} differ"


def place(shape, dtype, rng, dense=False):
    """A poisoned buffer and a view of the shape in it, in a layout drawn by chance."""
    front, style = rng.integers(1, 8), rng.integers(3)
    if dense or dtype != np.float32 or len(shape) not in (2, 4):
        style = 0
    more = (0,) * len(shape)
    if style == 1:  # a slice of channels
        more = (*more[1:], rng.integers(1, 9))
    elif style == 2 and len(shape) == 4:  # rows and images with something between them
        more = tuple(rng.integers(0, 4, 4))
    wide = tuple(int(n + m) for n, m in zip(shape, more, strict=True))
    size = int(front + math.prod(wide) + rng.integers(1, 8))
    buffer = np.empty(size, dtype)
    bits(buffer)[...] = 0xEE if dtype == np.uint8 else POISON
    inside = np.zeros(size, bool)
    where = tuple(slice(m // 2, m // 2 + n) for n, m in zip(shape, more, strict=True))
    views = [a[front : front + math.prod(wide)].reshape(wide)[where] for a in (buffer, inside)]
    views[1][...] = True
    return buffer, views[0], inside


def call(op, operands, scalars, level, algorithm, threads, rng, **extra):
    """Run once on operands laid out by chance; returns the outputs, dense."""
    arguments, outputs = [], []
    for o in operands:
        if isinstance(o, Out):
            buffer, view, inside = place(o.shape, o.dtype, rng, o.dense)
            if o.start is not None:
                view[...] = o.start
            outputs.append((buffer, view, inside, buffer.copy()))
            arguments.append(view)
        elif o is None or o.dtype not in (np.float32, np.uint8):
            arguments.append(o)
        else:
            arguments.append(place(o.shape, o.dtype, rng)[1])
            arguments[-1][...] = o
    getattr(core, op)(*arguments, *scalars, algorithm, level, threads, **extra)
    for o, argument in zip(operands, arguments, strict=True):
        if isinstance(o, np.ndarray):
            same(argument, o)  # inputs are never written
    for buffer, view, inside, before in outputs:
        outside = ~inside
        assert np.array_equal(bits(buffer)[outside], bits(before)[outside]), f"{op} wrote outside"
        if view.dtype == np.float32:
            assert not (bits(view) == POISON).any(), f"{op} left elements unwritten"
    return [np.array(view) for _, view, _, _ in outputs]


def run(op, operands, scalars, level, rng, *, alone=(), agree=True, **extra):
    """Outputs, after every algorithm and thread count; `alone`: the operands that have a batch.

    agree: the plain twin sums in the same order, so it must have the same bits.
    """
    results = call(op, operands, scalars, level, "auto", 1, rng, **extra)
    for threads in (2, 3):
        for a, b in zip(
            results, call(op, operands, scalars, level, "auto", threads, rng, **extra), strict=True
        ):
            same(a, b)
    plain = call(op, operands, scalars, level, "plain", 2, rng, **extra)
    if agree:
        for a, b in zip(results, plain, strict=True):
            same(a, b)
    N = max((operands[i].shape[0] for i in alone), default=0)
    if N > 1:
        n = int(rng.integers(N))
        sample = list(operands)
        for i in alone:
            o = operands[i]
            sample[i] = (
                Out((1, *o.shape[1:]), dtype=o.dtype) if isinstance(o, Out) else o[n : n + 1]
            )
        one = call(op, sample, scalars, level, "auto", 1, rng, **extra)
        for a, b in zip(results, one, strict=True):
            same(a[n : n + 1], b)
    return results, plain


def whole(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def real(rng, *shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def within(actual, expected, bound):
    error = np.abs(actual.astype(np.float64) - expected)
    worst = np.max(error - bound, initial=0)
    assert (error <= bound).all(), f"beyond the bound by {worst}"


def map_shape(rng, largest=9):
    return int(rng.integers(4)), *map(int, rng.integers(1, largest, 2)), int(rng.choice(CHANNELS))
