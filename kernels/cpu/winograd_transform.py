"""The transforms of Winograd's F(4x4, 3x3), one source for scalars and for vectors.

    Y = A^T [ (G g G^T) * (B^T d B) ] A      d: 6x6 inputs, g: 3x3 filter, Y: 4x4 outputs

(Lavin and Gray, arXiv 1509.09308.) The product * is element by element and sums over channels, so
36 multiply-adds do the work of 144. Interpolation at 0, 1, -1, 2, -2 and infinity:

    B^T                       G                          A^T
    4   0  -5   0   1   0     1/4     0     0            1  1  1  1   1  0
    0  -4  -4   1   1   0    -1/6  -1/6  -1/6            0  1 -1  2  -2  0
    0   4  -4  -1   1   0    -1/6   1/6  -1/6            0  1  1  4   4  0
    0  -2  -1   2   1   0    1/24  1/12   1/6            0  1 -1  8  -8  1
    0   2  -1  -2   1   0    1/24 -1/12   1/6
    0   4   0  -5   0   1      0     0     1

B^T and A^T hold integers and G's fractions are left to one division at the end, so small integers
with filters that are multiples of 576 = 24^2 go through without rounding.

The largest error over GoogLeNet's 3x3 layers is 1.3e-5 of the largest output (weights and inputs
normal, with and without ReLU, float64 as the truth; direct: 2e-6). With 1/2 in the place of 2 it
would be 2.7 times smaller, for four operations more in 22, but G then has fifteenths: the filters
that pass without rounding are multiples of 225.
"""

from types import SimpleNamespace

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .register_tile import I64, _Emit

TILE, WINDOW, TAPS = 4, 6, 3  # outputs, inputs and filter taps of a tile, each way
POINTS = WINDOW * WINDOW

# One line of G is a line of `filter_line` over its divisor; U[i, j] is divided by both at once.
DIVISORS = (4.0, -6.0, -6.0, 24.0, 24.0, 1.0)
DIVIDE = np.array([[p * q for q in DIVISORS] for p in DIVISORS], np.float32).ravel()

TWO, FOUR, EIGHT = np.float32(2), np.float32(4), np.float32(8)
MINUS_TWO, MINUS_FOUR = np.float32(-2), np.float32(-4)


def make_lines(fma) -> SimpleNamespace:
    """B^T, G without its divisors and A^T of one line, over values that add, subtract and `fma`."""

    def input_line(x0, x1, x2, x3, x4, x5):
        a, b = fma(MINUS_FOUR, x2, x4), fma(MINUS_FOUR, x1, x3)
        e, f = x4 - x2, x3 - x1
        return (
            fma(FOUR, x0 - x2, e),
            a + b,
            a - b,
            fma(TWO, f, e),
            fma(MINUS_TWO, f, e),
            fma(MINUS_FOUR, f, x5 - x3),
        )

    def filter_line(w0, w1, w2):
        ends, far = w0 + w2, fma(FOUR, w2, w0)
        return w0, ends + w1, ends - w1, fma(TWO, w1, far), fma(MINUS_TWO, w1, far), w2

    def output_line(m0, m1, m2, m3, m4, m5):
        p, q, r, s = m1 + m2, m1 - m2, m3 + m4, m3 - m4
        return (m0 + p) + r, fma(TWO, s, q), fma(FOUR, r, p), fma(EIGHT, s, q + m5)

    return SimpleNamespace(input=input_line, filter=filter_line, output=output_line)


class _Vector:
    """A vector value with the operators that the lines use."""

    def __init__(self, emit: _Emit, value):
        self.emit, self.value = emit, value

    def __add__(self, other):
        return _Vector(self.emit, self.emit.b.fadd(self.value, other.value))

    def __sub__(self, other):
        return _Vector(self.emit, self.emit.b.fsub(self.value, other.value))


def _splat(emit: _Emit, number) -> ir.Constant:
    return ir.Constant(emit.vector, [float(number)] * emit.vl)


def _vector_fma(factor, a: _Vector, b: _Vector) -> _Vector:
    return _Vector(a.emit, a.emit.fma(_splat(a.emit, factor), a.value, b.value))


LINES = make_lines(_vector_fma)


def _both_ways(line, grid: list, size: int) -> list:
    """The line along the columns of a size x size grid (row-major), then along its rows."""
    columns = [line(*grid[j::size]) for j in range(size)]
    rows = [line(*(column[i] for column in columns)) for i in range(len(columns[0]))]
    return [value for row in rows for value in row]


def _for_lanes(e: _Emit, count, body) -> None:
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


def _load(e: _Emit, address, mask):
    return e.load(address) if mask is None else e.masked_load(address, mask)


def _addresses(e: _Emit, table, count: int) -> list:
    return [e.scalar(e.b.add(table, e.const(8 * i)), I64) for i in range(count)]


def input_tile(VL: int):
    """Intrinsic tile(taps, masks, C, out, plane): out[e][0:C] = (B^T d B)[e], e = 0..35.

    taps: address of the 36 addresses of d's pixels, each of C floats; masks: 0, or likewise, and d
    counts where the mask is positive; out: address of point 0, `plane` bytes before that of point
    1, written in whole vectors (zeros beyond C).
    """

    def emit(context, b, sig, values):
        taps, masks, C, out, plane = values
        e = _Emit(b, VL)
        blocks = [b.append_basic_block(name) for name in ("plain", "masked", "end")]
        b.cbranch(b.icmp_signed("==", masks, e.const(0)), blocks[0], blocks[1])
        for is_masked in (False, True):

            def body(at, lanes, is_masked=is_masked):
                d = [_load(e, b.add(a, at), lanes) for a in _addresses(e, taps, POINTS)]
                if is_masked:
                    zero = _splat(e, 0)
                    for i, a in enumerate(_addresses(e, masks, POINTS)):
                        y = _load(e, b.add(a, at), lanes)
                        d[i] = b.select(b.fcmp_ordered(">", y, zero), d[i], zero)
                v = _both_ways(LINES.input, [_Vector(e, x) for x in d], WINDOW)
                for i, x in enumerate(v):
                    e.store(x.value, b.add(b.add(out, at), b.mul(plane, e.const(i))))

            b.position_at_end(blocks[1 if is_masked else 0])
            _for_lanes(e, C, body)
            b.branch(blocks[2])
        b.position_at_end(blocks[2])
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, taps, masks, C, out, plane):
        return types.void(*[types.int64] * 5), emit

    return tile


def filter_tile(VL: int):
    """Intrinsic tile(w, step, out, plane): out[e][0:VL] = (G g G^T)[e], e = 0..35.

    w: address of the 9 taps, each a vector, `step` bytes apart; out: address of point 0, `plane`
    bytes before that of point 1.
    """

    def emit(context, b, sig, values):
        w, step, out, plane = values
        e = _Emit(b, VL)
        g = [e.load(b.add(w, b.mul(step, e.const(i)))) for i in range(TAPS * TAPS)]
        u = _both_ways(LINES.filter, [_Vector(e, x) for x in g], TAPS)
        for i, x in enumerate(u):
            divided = b.fdiv(x.value, _splat(e, DIVIDE[i])) if DIVIDE[i] != 1 else x.value
            e.store(divided, b.add(out, b.mul(plane, e.const(i))))
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, w, step, out, plane):
        return types.void(*[types.int64] * 4), emit

    return tile


def output_tile(VL: int):
    """Intrinsic tile(m, plane, bias, out, lanes, floor, accumulate).

    out[i][0:lanes] = max((A^T M A)[i] + start, floor), i = 0..15; start: bias, or out's own values

    m: address of point 0, `plane` bytes before that of point 1; bias: address of `lanes` floats;
    out: address of 16 addresses; floor: float32, 0 for ReLU and -inf for none.
    """

    def emit(context, b, sig, values):
        m, plane, bias, out, lanes, floor, accumulate = values
        e = _Emit(b, VL)
        from_out = b.icmp_signed("!=", accumulate, e.const(0))

        def body(at, mask):
            low = e.broadcast(floor)
            first = b.add(m, at)  # rows of M are whole vectors: no mask
            points = [e.load(b.add(first, b.mul(plane, e.const(i)))) for i in range(POINTS)]
            y = _both_ways(LINES.output, [_Vector(e, x) for x in points], WINDOW)
            for x, address in zip(y, _addresses(e, out, TILE * TILE), strict=True):
                start = _load(e, b.add(b.select(from_out, address, bias), at), mask)
                result = e.clamp_below(b.fadd(x.value, start), low)
                if mask is None:
                    e.store(result, b.add(address, at))
                else:
                    e.masked_store(result, b.add(address, at), mask)

        _for_lanes(e, lanes, body)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, m, plane, bias, out, lanes, floor, accumulate):
        i64 = types.int64
        return types.void(i64, i64, i64, i64, i64, types.float32, i64), emit

    return tile
