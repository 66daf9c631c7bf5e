"""Local response normalisation across channels, as tile programs with their plain twins.

    y_c  = x_c s_c^-beta,   s_c = k + (alpha / size) sum over |c' - c| <= size / 2 of x_c'^2
    gx_c = gy_c s_c^-beta - (2 alpha beta / size) x_c sum over the same c' of t_c'
    t    = gy x s^-beta / s

zero outside [0, C). Caffe's lrn_layer; Krizhevsky et al. (2012), section 3.3. Backward computes s
again: reading it back from memory would cost more. Records are args.LRN; a tile is one row (n, h).

The usual beta = 3/4 takes two square roots, s^-3/4 = 1 / (sqrt(s) sqrt(sqrt(s))), within 2 ulp and
several times faster than the power that other values of beta take.

A pixel's squares lie in scratch between zeros, so that no channel is a special case; the usual
window and beta stay in registers (lrn_tile.py). The sum of a window runs over rising
channels, for size 5 in one loop and else in `size` passes: the same bits.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import LRN
from .elementary import power, square_root
from .lrn_tile import lrn_gradient_pixel, lrn_pixel
from .memory import ONE, OPTIONS, PROGRAM, ZERO, clear, floats, pointer
from .target import Target

THREE_QUARTERS = np.float32(0.75)
USUAL_SIZE = 5


@njit(**OPTIONS, inline="always")
def inverse_three_quarters(s):
    """s^-3/4."""
    root = square_root(s)
    return ONE / (root * square_root(root))


@njit(**OPTIONS)
def window_sums(framed, C, size, sums_at):
    """sums[c] = framed[c] + ... + framed[c + size - 1]: `framed` is the address of C + size - 1."""
    sums = floats(sums_at, C)
    v0 = floats(framed, C)
    if size == USUAL_SIZE:
        v1, v2 = floats(framed + 4, C), floats(framed + 8, C)
        v3, v4 = floats(framed + 12, C), floats(framed + 16, C)
        for c in range(C):
            sums[c] = (((v0[c] + v1[c]) + v2[c]) + v3[c]) + v4[c]
    else:
        for c in range(C):
            sums[c] = v0[c]
        for j in range(1, size):
            v = floats(framed + 4 * j, C)
            for c in range(C):
                sums[c] += v[c]


@njit(**OPTIONS)
def inverse_powers(a, x_at, squares, s_at, powers_at):
    """s and s^-beta of one pixel; squares: scratch of C floats between size / 2 zeros each side."""
    C = a.C
    x, square = floats(x_at, C), floats(squares + (a.size // 2) * 4, C)
    for c in range(C):
        square[c] = x[c] * x[c]
    window_sums(squares, C, a.size, s_at)
    s, powers = floats(s_at, C), floats(powers_at, C)
    k, scale = a.k, a.scale
    if a.beta == THREE_QUARTERS:
        for c in range(C):
            s[c] = k + scale * s[c]
            powers[c] = inverse_three_quarters(s[c])
    else:
        exponent = -a.beta
        for c in range(C):
            s[c] = k + scale * s[c]
            powers[c] = power(s[c], exponent)


@njit(**OPTIONS)
def row_bytes(a):
    """Bytes of a scratch row: C channels between size / 2 others at each side, in cache lines."""
    return (a.C + a.size + 15) // 16 * 64


@njit(**OPTIONS, inline="always")
def is_usual(a):
    """Whether lrn_tile.py takes it."""
    return a.size == USUAL_SIZE and a.beta == THREE_QUARTERS


def lrn_fprop(target: Target):
    """Tile program of the forward."""
    pixel = lrn_pixel(target.vl)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), LRN)[0]
        n, h = tile // a.H, tile % a.H
        row = row_bytes(a)
        clear(scratch, a.C + a.size - 1)
        for w in range(a.W):
            x_at = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4
            y_at = a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 4
            if is_usual(a):
                pixel(x_at, y_at, a.C, a.k, a.scale)
                continue
            inverse_powers(a, x_at, scratch, scratch + row, scratch + 2 * row)
            x, powers = floats(x_at, a.C), floats(scratch + 2 * row, a.C)
            y = floats(y_at, a.C)
            for c in range(a.C):
                y[c] = x[c] * powers[c]

    return program


@njit(**OPTIONS)
def add_gradient(a, x_at, gy_at, y_at, s_at, powers_at, framed, sums_at):
    """gx of one pixel from s and s^-beta; framed: scratch of t between zeros."""
    C = a.C
    x, gy, gx = floats(x_at, C), floats(gy_at, C), floats(y_at, C)
    s, powers = floats(s_at, C), floats(powers_at, C)
    t, sums = floats(framed + (a.size // 2) * 4, C), floats(sums_at, C)
    for c in range(C):
        direct = gy[c] * powers[c]
        powers[c] = direct
        t[c] = direct * x[c] / s[c]
    window_sums(framed, C, a.size, sums_at)
    slope = a.slope
    for c in range(C):
        gx[c] = powers[c] - slope * x[c] * sums[c]


def lrn_dgrad(target: Target):
    """Tile program of the backward; y is gx."""
    pixel = lrn_gradient_pixel(target.vl)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), LRN)[0]
        n, h = tile // a.H, tile % a.H
        row = row_bytes(a)
        framed = scratch + 3 * row
        clear(scratch, a.C + a.size - 1)
        clear(framed, a.C + a.size - 1)
        for w in range(a.W):
            x_at = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4
            gy_at = a.gy + (n * a.gy_n + h * a.gy_h + w * a.gy_w) * 4
            y_at = a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 4
            if is_usual(a):
                pixel(x_at, gy_at, y_at, a.C, a.k, a.scale, a.slope)
                continue
            s_at, powers_at = scratch + row, scratch + 2 * row
            inverse_powers(a, x_at, scratch, s_at, powers_at)
            add_gradient(a, x_at, gy_at, y_at, s_at, powers_at, framed, scratch + 4 * row)

    return program


@njit(**OPTIONS)
def plain_scale(a, x, c):
    """s of channel c."""
    reach, total = a.size // 2, ZERO
    for i in range(max(c - reach, 0), min(c + reach + 1, a.C)):
        total += x[i] * x[i]
    return a.k + a.scale * total


@njit(**OPTIONS)
def plain_power(a, s):
    """s^-beta."""
    return inverse_three_quarters(s) if a.beta == THREE_QUARTERS else power(s, -a.beta)


def lrn_fprop_plain(target: Target):
    """The forward, channel by channel."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), LRN)[0]
        n, h = tile // a.H, tile % a.H
        for w in range(a.W):
            x = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
            y = floats(a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 4, a.C)
            for c in range(a.C):
                y[c] = x[c] * plain_power(a, plain_scale(a, x, c))

    return program


def lrn_dgrad_plain(target: Target):
    """The backward, channel by channel."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), LRN)[0]
        n, h = tile // a.H, tile % a.H
        reach = a.size // 2
        for w in range(a.W):
            x = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
            gy = floats(a.gy + (n * a.gy_n + h * a.gy_h + w * a.gy_w) * 4, a.C)
            gx = floats(a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 4, a.C)
            for c in range(a.C):
                total = ZERO
                for i in range(max(c - reach, 0), min(c + reach + 1, a.C)):
                    s = plain_scale(a, x, i)
                    total += gy[i] * plain_power(a, s) * x[i] / s
                direct = gy[c] * plain_power(a, plain_scale(a, x, c))
                gx[c] = direct - a.slope * x[c] * total

    return program
