"""The plain twins of Winograd's programs: one output tile and one channel at a time, in loops.

The same records, tiles and bits as winograd.py. A line is transformed in place, `step` floats from
one value to the next; tables stand for the unrolled code of winograd_transform.py.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import PACK, WINOGRAD
from .memory import OPTIONS, PROGRAM, ZERO, floats, fma, pointer
from .target import Target
from .winograd import MASKS, tile_of, window_of
from .winograd_transform import AXES, MOST_POINTS, TILE

# Row (taps - 3) / 2 of each table belongs to the axis of so many taps.
PAIRS = len(AXES[7].points)
POINTS = np.zeros((len(AXES), PAIRS), np.float32)
QUOTIENTS = np.zeros((len(AXES), PAIRS, PAIRS), np.float32)
DIVISORS = np.ones((len(AXES), 2 * PAIRS + 2), np.float32)
for _row, _axis in enumerate(AXES.values()):
    POINTS[_row, : len(_axis.points)] = _axis.points
    DIVISORS[_row, : _axis.window] = _axis.divisors
    for _i, _q in enumerate(_axis.quotients):
        QUOTIENTS[_row, _i, : len(_q)] = _q


@njit(**OPTIONS)
def spread(x, at, step, pairs, row, i, first):
    """S_p(first) of pair i: Q_p's coefficients over every second value."""
    total = x[at + (first + 2 * (pairs - 1)) * step]
    for j in range(pairs - 2, -1, -1):
        total = fma(QUOTIENTS[row, i, j], x[at + (first + 2 * j) * step], total)
    return total


@njit(**OPTIONS)
def input_line(x, at, step, taps, to):
    """B^T along one line of x; `to` is a buffer."""
    row, pairs, last = (taps - 3) // 2, (taps + 1) // 2, (taps + 1) // 2 - 1
    square = -POINTS[row, last] * POINTS[row, last]
    for i in range(pairs):
        even = spread(x, at, step, pairs, row, i, 2)
        odd = spread(x, at, step, pairs, row, i, 1)
        to[1 + 2 * i] = fma(POINTS[row, i], odd, even)
        to[2 + 2 * i] = fma(-POINTS[row, i], odd, even)
    even = spread(x, at, step, pairs, row, last, 2)
    odd = spread(x, at, step, pairs, row, last, 1)
    to[0] = fma(square, spread(x, at, step, pairs, row, last, 0), even)
    to[2 * pairs + 1] = fma(square, odd, spread(x, at, step, pairs, row, last, 3))
    for i in range(2 * pairs + 2):
        x[at + i * step] = to[i]


@njit(**OPTIONS)
def filter_line(w, at, step, taps, to):
    """G without its divisors along one line of w; the points come out in its place."""
    row, pairs = (taps - 3) // 2, (taps + 1) // 2
    for i in range(pairs):
        p = POINTS[row, i]
        even, odd, power = w[at], w[at + step], p * p
        for t in range(2, taps, 2):
            even = fma(power, w[at + t * step], even)
            if t + 1 < taps:
                odd = fma(power, w[at + (t + 1) * step], odd)
            power = power * p * p
        to[1 + 2 * i] = fma(p, odd, even)
        to[2 + 2 * i] = fma(-p, odd, even)
    to[0], to[2 * pairs + 1] = w[at], w[at + (taps - 1) * step]
    for i in range(2 * pairs + 2):
        w[at + i * step] = to[i]


@njit(**OPTIONS)
def output_line(m, at, step, taps, to):
    """A^T along one line of m: `taps` + 3 values in, 4 out, in their place."""
    row, pairs = (taps - 3) // 2, (taps + 1) // 2
    for i in range(pairs):
        plus, minus = m[at + (1 + 2 * i) * step], m[at + (2 + 2 * i) * step]
        if i == 0:
            to[0], to[1] = m[at] + (plus + minus), plus - minus
            to[2], to[3] = plus + minus, (plus - minus) + m[at + (2 * pairs + 1) * step]
        else:
            power = np.float32(1)
            for j in range(TILE):
                to[j] = fma(power, plus - minus if j % 2 else plus + minus, to[j])
                power = power * POINTS[row, i]
    for j in range(TILE):
        m[at + j * step] = to[j]


def winograd_plain(target: Target):
    """The same record, tiles and bits as `winograd`."""
    NR, VL = target.nr, target.vl

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WINOGRAD)[0]
        t0 = tile // a.panel_tiles * a.block_tiles
        t1 = min(t0 + a.block_tiles, a.tile_count)
        k0 = tile % a.panel_tiles * a.tile_panels * NR
        k1 = min(k0 + a.tile_panels * NR, a.K)
        rows, columns, high, wide = window_of(a.R), window_of(a.S), tile_of(a.R), tile_of(a.S)
        points = rows * columns
        m, buffer = floats(scratch, MOST_POINTS), floats(scratch + MASKS, 16)
        for t in range(t0, t1):
            n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
            p0, q0 = rest // a.tiles_w * high, rest % a.tiles_w * wide

            for c in range(a.C):
                v = floats(scratch + a.v + c * points * 4, points)  # V[t, c, e], of this tile only
                for i in range(rows):
                    for j in range(columns):
                        h, w = p0 + i - a.pad_h, q0 + j - a.pad_w
                        value = ZERO
                        if 0 <= h < a.H and 0 <= w < a.W:
                            at = a.x + (n * a.x_n + h * a.x_h + w * a.x_w + c) * 4
                            value = floats(at, 1)[0]
                            if a.mask != 0:
                                at = a.mask + (n * a.m_n + h * a.m_h + w * a.m_w + c) * 4
                                value = value if floats(at, 1)[0] > ZERO else ZERO
                        v[columns * i + j] = value
                if a.R > 1:
                    for j in range(columns):
                        input_line(v, j, columns, a.R, buffer)
                if a.S > 1:
                    for i in range(rows):
                        input_line(v, i * columns, 1, a.S, buffer)

            for k in range(k0, k1):
                panel, lane = k // NR, k % NR
                width = VL if a.K - panel * NR <= VL else NR
                weights = a.weights + panel * NR * points * a.C * 4
                for e in range(points):
                    total = ZERO
                    for c in range(a.C):
                        v = floats(scratch + a.v + c * points * 4, points)
                        u = floats(weights + ((e * a.C + c) * width + lane) * 4, 1)[0]
                        total = fma(v[e], u, total)
                    m[e] = total
                if a.R > 1:
                    for j in range(columns):
                        output_line(m, j, columns, a.R, buffer)
                if a.S > 1:
                    for i in range(high):
                        output_line(m, i * columns, 1, a.S, buffer)
                for i in range(high):
                    for j in range(wide):
                        if p0 + i < a.P and q0 + j < a.Q:
                            at = a.y + (n * a.y_n + (p0 + i) * a.y_h + (q0 + j) * a.y_w + k) * 4
                            y = floats(at, 1)
                            start = ZERO
                            if a.accumulate != 0:
                                start = y[0]
                            elif a.bias != 0:
                                start = floats(a.bias + k * 4, 1)[0]
                            value = m[columns * i + j] + start
                            y[0] = ZERO if a.relu != 0 and value <= ZERO else value

    return program


def pack_winograd_plain(target: Target):
    """The same record, tiles and bits as `pack_winograd`."""
    NR, VL = target.nr, target.vl

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        lanes = min(a.K - tile * NR, NR)
        width = VL if lanes <= VL else NR
        rows, columns = window_of(a.R), window_of(a.S)
        g, buffer = floats(scratch, MOST_POINTS), floats(scratch + 4 * MOST_POINTS, 16)
        for c in range(a.C):
            for lane in range(width):
                k = tile * NR + lane
                for r in range(a.R):
                    for s in range(a.S):
                        at = a.w + (k * a.w_k + r * a.w_r + s * a.w_s + c * a.w_c) * 4
                        g[r * columns + s] = floats(at, 1)[0] if lane < lanes else ZERO
                if a.R > 1:
                    for s in range(a.S):
                        filter_line(g, s, columns, a.R, buffer)
                if a.S > 1:
                    for i in range(rows):
                        filter_line(g, i * columns, 1, a.S, buffer)
                to = a.packed + (tile * NR * rows * columns * a.C + c * width + lane) * 4
                for i in range(rows):
                    for j in range(columns):
                        outer = DIVISORS[(a.R - 3) // 2, i] if a.R > 1 else np.float32(1)
                        inner = DIVISORS[(a.S - 3) // 2, j] if a.S > 1 else np.float32(1)
                        u = floats(to + (columns * i + j) * a.C * width * 4, 1)
                        u[0] = g[columns * i + j] / (outer * inner)

    return program
