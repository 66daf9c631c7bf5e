"""The transforms of Winograd convolution, F(4, r) along each axis, for r = 3, 4, 5 and 7 taps.

    Y = A^T [ (G g G^T) * (B^T d B) ] A      d: inputs, g: filter, Y: 4x4 outputs (or 4: one axis)

(Lavin and Gray, arXiv 1509.09308.) The product * is element by element and sums over channels. An
axis of r taps has n = r + 3 inputs and points, so 3x3 takes 36 multiply-adds for 144, 5x5 64 for
400, a line of 7 taps 10 for 28. Interpolation at 0 where n is even, at (n - 1) // 2 pairs p, -p,
and at infinity:

    r = 3: 1, 2        r = 4: 1, 2, 1/4        r = 5: 1, 2, 1/2        r = 7: 1, 2, 1/2, 3/4

With Q_p(z) the product of z - q^2 over the other pairs q, its coefficients applied to every second
value (x_o, x_o+2, ...) being S_p(o), the pair's two points are

    B^T   S_p(2) + p S_p(1)  and  S_p(2) - p S_p(1)
    G     sum of p^t g_t     and  sum of (-p)^t g_t, both over 2 p^2 Q_p(p^2)
    A^T   y_i = sum of p^i (m_p + (-1)^i m_-p), y_0 also m_0, y_3 also m_infinity

or without 0

    B^T   p S_p(0) + S_p(1)  and  p S_p(0) - S_p(1)
    G     the same sums, both over 2 p Q_p(p^2)

Every entry of B^T and A^T is a dyadic number, and G's fractions are left to one division at the
end: small integers with 3x3 filters that are multiples of 576 = 24^2 go through without rounding.

Errors, the largest of a layer over the largest output: docs/performance.md. With 1/2 in the place
of 2, r = 3 would have a third less, but the filters that pass without rounding are multiples of
225. With 4, 1/4, 3 or 3/2 in the place of 3/4, r = 7 has two to four times as much.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from math import lcm, prod

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .register_tile import I64, Emit

TILE = 4  # outputs of a tile along an axis that has taps


@dataclass(frozen=True)
class Axis:
    """F(4, taps): one axis of a filter, and the positive points of its interpolation, 1 first."""

    taps: int
    points: tuple[float, ...]

    @property
    def window(self) -> int:
        """Inputs of a tile, and points."""
        return TILE + self.taps - 1

    @property
    def zero(self) -> int:
        """1 where 0 is a point, the first one."""
        return 1 - self.window % 2

    @cached_property
    def quotients(self) -> list[list[float]]:
        """Coefficients of Q_p for each p, lowest first; the highest is 1."""
        found = []
        for p in self.points:
            q = [1.0]
            for other in self.points:
                if other != p:
                    pairs = zip([0.0, *q], [*q, 0.0], strict=True)
                    q = [low - other * other * high for low, high in pairs]
            found.append(q)
        return found

    @cached_property
    def divisors(self) -> list[float]:
        """What G's lines without their fractions are divided by."""
        squares = [p * p for p in self.points]
        middle = [
            2 * p ** (1 + self.zero) * prod(p * p - other for other in squares if other != p * p)
            for p in self.points
            for _ in "+-"
        ]
        return [*[prod(-z for z in squares)] * self.zero, *middle, 1.0]

    @property
    def gradient_scale(self) -> float:
        """Least odd multiple that makes all its quotients by the divisors dyadic."""
        odd = [abs(Fraction(d).numerator) for d in self.divisors]
        odd = [n // (n & -n) for n in odd]
        return float(lcm(*odd))


AXES = {
    3: Axis(3, (1, 2)),
    4: Axis(4, (1, 2, 0.25)),
    5: Axis(5, (1, 2, 0.5)),
    7: Axis(7, (1, 2, 0.5, 0.75)),
}
MOST_POINTS = AXES[5].window ** 2


class _Lines:
    """B^T, G without its divisors and A^T of one line of vectors."""

    def __init__(self, e: Emit, axis: Axis):
        self.e, self.axis = e, axis

    def add(self, factor: float, x, total):
        """total + factor x, in one rounding."""
        if factor == 1:
            return self.e.b.fadd(total, x)
        if factor == -1:
            return self.e.b.fsub(total, x)
        return self.e.fma(_splat(self.e, factor), x, total)

    def input(self, x: list) -> list:
        def spread(q, first):
            total = x[first + 2 * (len(q) - 1)]
            for j in reversed(range(len(q) - 1)):
                total = self.add(q[j], x[first + 2 * j], total)
            return total

        pairs, zero = [], self.axis.zero
        for p, q in zip(self.axis.points, self.axis.quotients, strict=True):
            even, odd = spread(q, 1 + zero), spread(q, zero)
            other = self.add(-p, odd, even) if zero else self.add(p, odd, self.e.b.fneg(even))
            pairs += [self.add(p, odd, even), other]
        square = -p * p
        first = [self.add(square, spread(q, 0), even)] if zero else []
        return [*first, *pairs, self.add(square, odd, spread(q, 2 + zero))]

    def filter(self, w: list) -> list:
        pairs = []
        for p in self.axis.points:
            even, odd = w[0], w[1]
            for t in range(2, len(w), 2):
                even = self.add(p**t, w[t], even)
            for t in range(3, len(w), 2):
                odd = self.add(p ** (t - 1), w[t], odd)
            pairs += [self.add(p, odd, even), self.add(-p, odd, even)]
        return [*w[: self.axis.zero], *pairs, w[-1]]

    def output(self, m: list) -> list:
        b, points, zero = self.e.b, self.axis.points, self.axis.zero
        both = [(m[i], m[i + 1]) for i in range(zero, len(m) - 1, 2)]
        sums = [b.fadd(plus, minus) for plus, minus in both]
        differences = [b.fsub(plus, minus) for plus, minus in both]
        first = b.fadd(m[0], sums[0]) if zero else sums[0]
        y = [first, differences[0], sums[0], b.fadd(differences[0], m[-1])]
        for p, s, d in zip(points[1:], sums[1:], differences[1:], strict=True):
            y = [self.add(p**i, d if i % 2 else s, total) for i, total in enumerate(y)]
        return y

    def filter_gradient(self, m: list) -> list:
        """`gradient_scale` times G^T: the transpose of `filter`, its divisors, on whole numbers."""
        b, axis = self.e.b, self.axis
        f = [axis.gradient_scale / d for d in axis.divisors]
        pairs = range(axis.zero, len(m) - 1, 2)
        halves = [[b.fadd(m[i], m[i + 1]) for i in pairs], [b.fsub(m[i], m[i + 1]) for i in pairs]]
        w = []
        for t in range(axis.taps):
            total = b.fmul(_splat(self.e, f[0]), m[0]) if t == 0 and axis.zero else None
            if t == axis.taps - 1:
                total = b.fmul(_splat(self.e, f[-1]), m[-1])
            for i, p, x in zip(pairs, axis.points, halves[t % 2], strict=True):
                factor = f[i] * p**t
                if total is None:
                    total = b.fmul(_splat(self.e, factor), x)
                else:
                    total = self.add(factor, x, total)
            w.append(total)
        return w


def _splat(emit: Emit, number) -> ir.Constant:
    return ir.Constant(emit.vector, [float(number)] * emit.vl)


def _every_axis(line, values: list, square: bool) -> list:
    """The line along the columns of a square grid (row-major), then its rows; or just along it."""
    if not square:
        return line(values)
    size = round(len(values) ** 0.5)
    columns = [line(values[j::size]) for j in range(size)]
    rows = [line([column[i] for column in columns]) for i in range(len(columns[0]))]
    return [value for row in rows for value in row]


def _for_lanes(e: Emit, count, body) -> None:
    """body(byte offset, None) for whole vectors of `count` floats, (offset, mask) for the rest."""
    b, size = e.b, e.vl * 4
    entry, names = b.block, "test whole rest part done"
    block = {name: b.append_basic_block(name) for name in names.split()}
    total = b.mul(count, e.const(4))
    b.branch(block["test"])
    b.position_at_end(block["test"])
    at = b.phi(I64)
    at.add_incoming(e.const(0), entry)
    after = b.add(at, e.const(size))
    b.cbranch(b.icmp_signed("<=", after, total), block["whole"], block["rest"])
    b.position_at_end(block["whole"])
    body(at, None)
    at.add_incoming(after, b.block)
    b.branch(block["test"])
    b.position_at_end(block["rest"])
    b.cbranch(b.icmp_signed("<", at, total), block["part"], block["done"])
    b.position_at_end(block["part"])
    body(at, e.lane_mask(b.sdiv(b.sub(total, at), e.const(4)), 0))
    b.branch(block["done"])
    b.position_at_end(block["done"])


def _element(e: Emit, at):
    """Bytes from the first to the element of a map that lies `at` bytes on in float32."""
    return e.b.lshr(at, e.const(4 // e.OUT_BYTES - 1))


def _addresses(e: Emit, table, count: int) -> list:
    return [e.scalar(e.b.add(table, e.const(8 * i)), I64) for i in range(count)]


def _map_tile(VL: int, axis: Axis, square: bool, line, values: int, emit_map=Emit):
    """Intrinsic tile(taps, masks, C, out, plane): out[e][0:C] of `line` along every axis.

    taps: address of the addresses of `values` pixels an axis, each of C elements of `emit_map`;
    masks: 0, or likewise, and a pixel counts where the mask is positive; out: address of point 0,
    `plane` bytes before that of point 1, float32 in whole vectors (zeros beyond C).
    """
    pixels = values ** (2 if square else 1)

    def emit(context, b, sig, arguments):
        taps, masks, C, out, plane = arguments
        e = emit_map(b, VL)
        lines = _Lines(e, axis)
        blocks = [b.append_basic_block(name) for name in ("plain", "masked", "end")]
        b.cbranch(b.icmp_signed("==", masks, e.const(0)), blocks[0], blocks[1])
        for is_masked in (False, True):

            def body(at, lanes, is_masked=is_masked):
                x_at = _element(e, at)
                d = [e.take(b.add(a, x_at), lanes) for a in _addresses(e, taps, pixels)]
                if is_masked:
                    zero = _splat(e, 0)
                    for i, a in enumerate(_addresses(e, masks, pixels)):
                        y = e.take(b.add(a, x_at), lanes)
                        d[i] = b.select(b.fcmp_ordered(">", y, zero), d[i], zero)
                for i, x in enumerate(_every_axis(partial(line, lines), d, square)):
                    e.store(x, b.add(b.add(out, at), b.mul(plane, e.const(i))))

            b.position_at_end(blocks[1 if is_masked else 0])
            _for_lanes(e, C, body)
            b.branch(blocks[2])
        b.position_at_end(blocks[2])
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, taps, masks, C, out, plane):
        return types.void(*[types.int64] * 5), emit

    return tile


def input_tile(VL: int, axis: Axis, square: bool, emit_map=Emit):
    """Intrinsic of _map_tile: (B^T d B)[e] of the window d of a tile."""
    return _map_tile(VL, axis, square, _Lines.input, axis.window, emit_map)


def gradient_tile(VL: int, axis: Axis, square: bool):
    """Intrinsic of _map_tile: (A g A^T)[e] of the gradient g of a tile's outputs.

    A is G of a filter of four taps without divisors.
    """
    return _map_tile(VL, axis, square, _Lines.filter, TILE)


def filter_tile(VL: int, axis: Axis, square: bool):
    """Intrinsic tile(w, step, out, plane): out[e][0:VL] = (G g G^T)[e] for every point e.

    w: address of the taps, each a vector, `step` bytes apart; out: address of point 0, `plane`
    bytes before that of point 1.
    """
    outer = axis.divisors if square else [1.0]
    divide = [np.float32(p * q) for p in outer for q in axis.divisors]

    def emit(context, b, sig, values):
        w, step, out, plane = values
        e = Emit(b, VL)
        count = axis.taps ** (2 if square else 1)
        g = [e.load(b.add(w, b.mul(step, e.const(i)))) for i in range(count)]
        u = _every_axis(_Lines(e, axis).filter, g, square)
        for i, x in enumerate(u):
            divided = b.fdiv(x, _splat(e, divide[i])) if divide[i] != 1 else x
            e.store(divided, b.add(out, b.mul(plane, e.const(i))))
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, w, step, out, plane):
        return types.void(*[types.int64] * 4), emit

    return tile


def filter_gradient_tile(VL: int, axis: Axis, square: bool):
    """Intrinsic tile(m, plane, out, step, lanes): out[i][0:lanes] = (G^T M G)[i] for every tap i.

    m: address of point 0, `plane` bytes before that of point 1, whole vectors; out: address of tap
    0, `step` bytes before tap 1.
    """
    power = 2 if square else 1
    points, scale = axis.window**power, axis.gradient_scale**power

    def emit(context, b, sig, values):
        m, plane, out, step, lanes = values
        e = Emit(b, VL)

        def body(at, mask):
            first = b.add(m, at)
            values = [e.load(b.add(first, b.mul(plane, e.const(i)))) for i in range(points)]
            w = _every_axis(_Lines(e, axis).filter_gradient, values, square)
            for i, x in enumerate(w):
                address = b.add(b.add(out, at), b.mul(step, e.const(i)))
                e.put(b.fdiv(x, _splat(e, scale)), address, mask)

        _for_lanes(e, lanes, body)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, m, plane, out, step, lanes):
        return types.void(*[types.int64] * 5), emit

    return tile


def output_tile(VL: int, axis: Axis, square: bool, emit_map=Emit):
    """Intrinsic tile(m, plane, bias, out, lanes, floor, accumulate).

    out[i][0:lanes] = max((A^T M A)[i] + start, floor); start: bias, or out's own values, which
    only float32 outputs have

    m: address of point 0, `plane` bytes before that of point 1; bias: address of `lanes` floats;
    out: address of as many addresses as outputs; floor: float32, 0 for ReLU and -inf for none.
    """
    points, outputs = (n ** (2 if square else 1) for n in (axis.window, TILE))

    def emit(context, b, sig, values):
        m, plane, bias, out, lanes, floor, accumulate = values
        e = emit_map(b, VL)
        from_out = b.icmp_signed("!=", accumulate, e.const(0))

        def body(at, mask):
            low = e.broadcast(floor)
            first = b.add(m, at)  # rows of M are whole vectors: no mask
            values = [e.load(b.add(first, b.mul(plane, e.const(i)))) for i in range(points)]
            y = _every_axis(_Lines(e, axis).output, values, square)
            for x, address in zip(y, _addresses(e, out, outputs), strict=True):
                start_at = b.add(b.select(from_out, address, bias) if e.ACCUMULATES else bias, at)
                start = e.load(start_at) if mask is None else e.masked_load(start_at, mask)
                result = e.clamp_below(b.fadd(x, start), low)
                e.put(result, b.add(address, _element(e, at)), mask)

        _for_lanes(e, lanes, body)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, m, plane, bias, out, lanes, floor, accumulate):
        i64 = types.int64
        return types.void(i64, i64, i64, i64, i64, types.float32, i64), emit

    return tile
