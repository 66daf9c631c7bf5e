"""The plain twins of Winograd's programs: one output tile and one channel at a time, in loops.

The same records, tiles and bits as winograd.py. A line is transformed in place, `step` floats from
one value to the next; tables stand for the unrolled code of winograd_transform.py.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import PACK, WINOGRAD, WINOGRAD_WGRAD
from .memory import ONE, OPTIONS, PROGRAM, ZERO, floats, fma, pointer
from .target import Target
from .winograd import CHUNK, MASKS, tap_of, tile_of, window_of
from .winograd_transform import AXES, MOST_POINTS, TILE
from .winograd_wgrad import point_of_ones

# Row `row_of(taps)` of each table belongs to the axis of so many taps.
PAIRS = len(AXES[7].points)
POINTS = np.zeros((len(AXES), PAIRS), np.float32)
QUOTIENTS = np.zeros((len(AXES), PAIRS, PAIRS), np.float32)
DIVISORS = np.ones((len(AXES), 2 * PAIRS + 2), np.float32)
SCALES = np.array([axis.gradient_scale for axis in AXES.values()], np.float32)
for _row, _axis in enumerate(AXES.values()):
    POINTS[_row, : len(_axis.points)] = _axis.points
    DIVISORS[_row, : _axis.window] = _axis.divisors
    for _i, _q in enumerate(_axis.quotients):
        QUOTIENTS[_row, _i, : len(_q)] = _q


@njit(**OPTIONS, inline="always")
def row_of(taps):
    """Of the tables: AXES is in ascending order of taps, 3, 4, 5, 7."""
    return taps - 3 if taps < 7 else 3


@njit(**OPTIONS, inline="always")
def pairs_of(taps):
    """Pairs of points p, -p."""
    return (window_of(taps) - 1) // 2


@njit(**OPTIONS, inline="always")
def zero_of(taps):
    """1 where 0 is a point."""
    return 1 - window_of(taps) % 2


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
    row, pairs, last = row_of(taps), pairs_of(taps), pairs_of(taps) - 1
    square = -POINTS[row, last] * POINTS[row, last]
    zero = zero_of(taps)
    for i in range(pairs):
        even = spread(x, at, step, pairs, row, i, 1 + zero)
        odd = spread(x, at, step, pairs, row, i, zero)
        p = POINTS[row, i]
        to[zero + 2 * i] = fma(p, odd, even)
        to[zero + 2 * i + 1] = fma(-p, odd, even) if zero else fma(p, odd, -even)
    even = spread(x, at, step, pairs, row, last, 1 + zero)
    odd = spread(x, at, step, pairs, row, last, zero)
    if zero:
        to[0] = fma(square, spread(x, at, step, pairs, row, last, 0), even)
    to[zero + 2 * pairs] = fma(square, odd, spread(x, at, step, pairs, row, last, 2 + zero))
    for i in range(zero + 2 * pairs + 1):
        x[at + i * step] = to[i]


@njit(**OPTIONS)
def filter_line(w, at, step, taps, to):
    """G without its divisors along one line of w; the points come out in its place."""
    power_line(w, at, step, taps, taps, to)


@njit(**OPTIONS)
def power_line(w, at, step, count, taps, to):
    """The polynomial of `count` values at the points of an axis, infinity the last."""
    row, pairs, zero = row_of(taps), pairs_of(taps), zero_of(taps)
    for i in range(pairs):
        p = POINTS[row, i]
        even, odd, power = w[at], w[at + step], p * p
        for t in range(2, count, 2):
            even = fma(power, w[at + t * step], even)
            if t + 1 < count:
                odd = fma(power, w[at + (t + 1) * step], odd)
            power = power * p * p
        to[zero + 2 * i] = fma(p, odd, even)
        to[zero + 2 * i + 1] = fma(-p, odd, even)
    if zero:
        to[0] = w[at]
    to[zero + 2 * pairs] = w[at + (count - 1) * step]
    for i in range(zero + 2 * pairs + 1):
        w[at + i * step] = to[i]


@njit(**OPTIONS)
def output_line(m, at, step, taps, to):
    """A^T along one line of m: the points in, 4 values out, in their place."""
    row, pairs, zero = row_of(taps), pairs_of(taps), zero_of(taps)
    for i in range(pairs):
        plus, minus = m[at + (zero + 2 * i) * step], m[at + (zero + 2 * i + 1) * step]
        if i == 0:
            to[0] = m[at] + (plus + minus) if zero else plus + minus
            to[1], to[2] = plus - minus, plus + minus
            to[3] = (plus - minus) + m[at + (zero + 2 * pairs) * step]
        else:
            power = np.float32(1)
            for j in range(TILE):
                to[j] = fma(power, plus - minus if j % 2 else plus + minus, to[j])
                power = power * POINTS[row, i]
    for j in range(TILE):
        m[at + j * step] = to[j]


@njit(**OPTIONS)
def gradient_line(g, at, step, taps, to):
    """A along one line of g: 4 values in, the points out, in their place."""
    power_line(g, at, step, TILE, taps, to)


@njit(**OPTIONS)
def filter_gradient_line(m, at, step, taps, to):
    """SCALES times G^T along one line of m: the points in, `taps` values out."""
    row, pairs, zero = row_of(taps), pairs_of(taps), zero_of(taps)
    scale, last = SCALES[row], zero + 2 * pairs
    for j in range(taps):
        total = ZERO
        if j == 0 and zero:
            total = scale / DIVISORS[row, 0] * m[at]
        elif j == taps - 1:
            total = scale / DIVISORS[row, last] * m[at + last * step]
        for i in range(pairs):
            factor = scale / DIVISORS[row, zero + 2 * i]
            for _ in range(j):
                factor = factor * POINTS[row, i]
            plus, minus = m[at + (zero + 2 * i) * step], m[at + (zero + 2 * i + 1) * step]
            x = plus - minus if j % 2 else plus + minus
            begins = i == 0 and (j > 0 or not zero) and j < taps - 1
            total = factor * x if begins else fma(factor, x, total)
        to[j] = total
    for j in range(taps):
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
                    total, chain = ZERO, ZERO
                    for c in range(a.C):
                        if c % CHUNK == 0 and c > 0:
                            total, chain = total + chain if c > CHUNK else chain, ZERO
                        v = floats(scratch + a.v + c * points * 4, points)
                        u = floats(weights + ((e * a.C + c) * width + lane) * 4, 1)[0]
                        chain = fma(v[e], u, chain)
                    m[e] = total + chain if a.C > CHUNK else chain
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


@njit(**OPTIONS)
def put_phase(a, k, r, s, c, gradient):
    """One number of the gradient of a 7x7 filter; see winograd.tap_of."""
    C = a.C // 4
    r, s = 2 * r + c // C // 2, 2 * s + c // C % 2
    if r < 7 and s < 7:
        floats(a.gw + (((k * 7 + r) * 7 + s) * C + c % C) * 4, 1)[0] = gradient


def winograd_wgrad_plain(target: Target):
    """The same record, tiles and bits as `winograd_wgrad`."""

    @njit(**OPTIONS)
    def transform_input(a, t, c, v, buffer):
        """V[:, t, c]."""
        rows, columns = window_of(a.R), window_of(a.S)
        n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
        h0 = rest // a.tiles_w * tile_of(a.R) - a.pad_h
        w0 = rest % a.tiles_w * tile_of(a.S) - a.pad_w
        for i in range(rows):
            for j in range(columns):
                inside = 0 <= h0 + i < a.H and 0 <= w0 + j < a.W
                at = a.x + (n * a.x_n + (h0 + i) * a.x_h + (w0 + j) * a.x_w + c) * 4
                v[columns * i + j] = floats(at, 1)[0] if inside else ZERO
        if a.R > 1:
            for j in range(columns):
                input_line(v, j, columns, a.R, buffer)
        if a.S > 1:
            for i in range(rows):
                input_line(v, i * columns, 1, a.S, buffer)

    @njit(**OPTIONS)
    def transform_gradient(a, t, k, w, buffer):
        """W[:, t, k]."""
        high, wide, columns = tile_of(a.R), tile_of(a.S), window_of(a.S)
        n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
        p0, q0 = rest // a.tiles_w * high, rest % a.tiles_w * wide
        for i in range(high):
            for j in range(wide):
                value, p, q = ZERO, p0 + i, q0 + j
                if p < a.P and q < a.Q:
                    value = floats(a.gy + (n * a.gy_n + p * a.gy_h + q * a.gy_w + k) * 4, 1)[0]
                    if a.mask != 0:
                        y = floats(a.mask + (n * a.m_n + p * a.m_h + q * a.m_w + k) * 4, 1)[0]
                        value = value if y > ZERO else ZERO
                w[columns * i + j] = value
        if a.R > 1:
            for j in range(wide):
                gradient_line(w, j, columns, a.R, buffer)
        if a.S > 1:
            for i in range(window_of(a.R)):
                gradient_line(w, i * columns, 1, a.S, buffer)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WINOGRAD_WGRAD)[0]
        k0, c0 = tile // a.c_tiles * a.tile_k, tile % a.c_tiles * a.tile_c
        points, columns = window_of(a.R) * window_of(a.S), window_of(a.S)
        ones = point_of_ones(a)
        v, w = floats(scratch, MOST_POINTS), floats(scratch + 4 * MOST_POINTS, MOST_POINTS)
        m = floats(scratch + 8 * MOST_POINTS, MOST_POINTS)
        part = floats(scratch + 12 * MOST_POINTS, MOST_POINTS)
        buffer = floats(scratch + 16 * MOST_POINTS, 16)
        for k in range(k0, min(k0 + a.tile_k, a.K)):
            for c in range(c0, min(c0 + a.tile_c, a.C)):
                m[:] = ZERO
                sums, t = ZERO, 0
                while t < a.tile_count:
                    part[:] = ZERO
                    piece, last = ZERO, min(t + a.chunk_tiles, a.tile_count)
                    while t < last:
                        transform_input(a, t, c, v, buffer)
                        transform_gradient(a, t, k, w, buffer)
                        for e in range(points):
                            part[e] = fma(w[e], v[e], part[e])
                        piece += w[ones]
                        t += 1
                    for e in range(points):
                        m[e] += part[e]
                    sums += piece
                if a.gb != 0 and c == 0:
                    floats(a.gb, a.K)[k] = sums
                scale = ONE
                if a.R > 1:
                    for j in range(columns):
                        filter_gradient_line(m, j, columns, a.R, buffer)
                    scale = scale * SCALES[row_of(a.R)]
                if a.S > 1:
                    for i in range(a.R):
                        filter_gradient_line(m, i * columns, 1, a.S, buffer)
                    scale = scale * SCALES[row_of(a.S)]
                gw = floats(a.gw, a.K * a.R * a.S * a.C)
                for r in range(a.R):
                    for s in range(a.S):
                        gradient = m[columns * r + s] / scale
                        if a.R == 4:
                            put_phase(a, k, r, s, c, gradient)
                        else:
                            gw[((k * a.R + r) * a.S + s) * a.C + c] = gradient

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
                        there, offset = tap_of(a, r, s, c)
                        g[r * columns + s] = ZERO
                        if there and lane < lanes:
                            g[r * columns + s] = floats(a.w + (k * a.w_k + offset) * 4, 1)[0]
                if a.R > 1:
                    for s in range(a.S):
                        filter_line(g, s, columns, a.R, buffer)
                if a.S > 1:
                    for i in range(rows):
                        filter_line(g, i * columns, 1, a.S, buffer)
                to = a.packed + (tile * NR * rows * columns * a.C + c * width + lane) * 4
                for i in range(rows):
                    for j in range(columns):
                        outer = DIVISORS[row_of(a.R), i] if a.R > 1 else np.float32(1)
                        inner = DIVISORS[row_of(a.S), j] if a.S > 1 else np.float32(1)
                        u = floats(to + (columns * i + j) * a.C * width * 4, 1)
                        u[0] = g[columns * i + j] / (outer * inner)

    return program
