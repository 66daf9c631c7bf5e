"""Pools and normalisation of bfloat16 maps, forward: float32 between one load and one rounding.

The formulas, orders and windows are those of pool.py and lrn.py; values of a pixel are collected
in a float32 row of scratch and rounded from there once. A maximum is one of its inputs, so its
rounding changes nothing. No argmax: there is no backward.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import LRN, POOL
from .bfloat16 import halves, narrow, widen
from .bfloat16_tile import EmitBfloat16
from .elementary import divide
from .lrn import inverse_powers, is_usual, row_bytes
from .lrn_tile import lrn_pixel
from .memory import OPTIONS, PROGRAM, clear, floats, integers, pointer
from .pool import ENTRY, GROUP, count_cells, fill_up, list_taps
from .target import Target


@njit(**OPTIONS)
def store_row(values_at, to, C):
    """to[c] = the bfloat16 nearest to values[c]."""
    values, y = floats(values_at, C), halves(to, C)
    for c in range(C):
        y[c] = narrow(values[c])


@njit(**OPTIONS)
def load_row(x_at, to, C):
    """to[c] = the float32 of x[c]."""
    x, values = halves(x_at, C), floats(to, C)
    for c in range(C):
        values[c] = widen(x[c])


@njit(**OPTIONS)
def fold_max(list_at, best_at, C):
    """best = max(best, three taps); the first NaN stays."""
    taps, best = integers(list_at, ENTRY * GROUP), floats(best_at, C)
    x0, x1, x2 = halves(taps[0], C), halves(taps[ENTRY], C), halves(taps[2 * ENTRY], C)
    for c in range(C):
        top = best[c]
        v = widen(x0[c])
        top = v if (not v <= top) & (top == top) else top
        v = widen(x1[c])
        top = v if (not v <= top) & (top == top) else top
        v = widen(x2[c])
        best[c] = v if (not v <= top) & (top == top) else top


@njit(**OPTIONS)
def fold_sum(list_at, sum_at, C):
    """sum += three taps, one after the other."""
    taps, total = integers(list_at, ENTRY * GROUP), floats(sum_at, C)
    x0, x1, x2 = halves(taps[0], C), halves(taps[ENTRY], C), halves(taps[2 * ENTRY], C)
    for c in range(C):
        total[c] = ((total[c] + widen(x0[c])) + widen(x1[c])) + widen(x2[c])


def max_pool_fprop_bfloat16(target: Target):
    """Tile program of the maximum; tile = one output row (n, p)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, p = tile // a.P, tile % a.P
        room = ENTRY * (a.R * a.S + GROUP)
        taps, row = integers(scratch, room), scratch + 8 * room
        for q in range(a.Q):
            count = list_taps(a, n, p, q, taps, 2)
            last = ENTRY * (count - 1)
            count = fill_up(taps, count, taps[last], taps[last + 1], 0)
            load_row(taps[0], row, a.C)
            for i in range(0, count, GROUP):
                fold_max(scratch + 8 * ENTRY * i, row, a.C)
            store_row(row, a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 2, a.C)

    return program


def avg_pool_fprop_bfloat16(target: Target):
    """Tile program of the average; tile = one output row (n, p)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, p = tile // a.P, tile % a.P
        room = ENTRY * (a.R * a.S + GROUP)
        taps, row = integers(scratch, room), scratch + 8 * room
        for q in range(a.Q):
            count = fill_up(taps, list_taps(a, n, p, q, taps, 2), a.zero, 0, 0)
            clear(row, a.C)
            for i in range(0, count, GROUP):
                fold_sum(scratch + 8 * ENTRY * i, row, a.C)
            divide(row, a.C, np.float32(count_cells(a, p, q)))
            store_row(row, a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 2, a.C)

    return program


def lrn_fprop_bfloat16(target: Target):
    """Tile program of the normalisation; tile = one row (n, h)."""
    pixel = lrn_pixel(target.vl, EmitBfloat16)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), LRN)[0]
        n, h = tile // a.H, tile % a.H
        row = row_bytes(a)
        x_at, powers_at = scratch + 3 * row, scratch + 2 * row
        clear(scratch, a.C + a.size - 1)
        for w in range(a.W):
            from_at = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 2
            y_at = a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 2
            if is_usual(a):
                pixel(from_at, y_at, a.C, a.k, a.scale)
                continue
            load_row(from_at, x_at, a.C)
            inverse_powers(a, x_at, scratch, scratch + row, powers_at)
            x, powers = floats(x_at, a.C), floats(powers_at, a.C)
            y = halves(y_at, a.C)
            for c in range(a.C):
                y[c] = narrow(x[c] * powers[c])

    return program
