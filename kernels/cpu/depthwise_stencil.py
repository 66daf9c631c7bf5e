"""Depthwise 3x3 of stride 1: 2 x 4 outputs of one vector of channels at a time.

    acc[i, j] = sum over r, s of x[i + r, j + s] * w[r, s]        i < 2, j < 4

The 4 x 6 pixels of x that eight outputs see are loaded once each and the nine weights stay in
registers: 24 loads to 72 multiply-adds, where a list of taps loads 72 times, mostly from L2, for
the pixels of all channels that neighbours share do not stay in L1. Pixels are taken in rising
order, so each output is the same chain over its taps; those outside the image are left out.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .memory import OPTIONS
from .register_tile import Emit
from .target import Target

ROWS, COLUMNS, TAPS = 2, 4, 3  # outputs of a tile, taps in each direction
TOP, BOTTOM, LEFT, RIGHT = 1, 2, 4, 8  # the row or column of x at this edge is outside the image


def stencil_tile(VL: int, *, whole=False, gated=False):
    """Intrinsic tile(x, x_h, x_w, mask, m_h, m_w, w, w_step, out, out_h, out_w, bias, lanes, floor,
    edges).

    out[i, j][0:lanes] = max(bias + sum over r, s of x[i + r, j + s] w[3 r + s], floor)

    x[h, w] lies at x + h x_h + w x_w bytes, the mask and out likewise, w[t] at w + t w_step, whole
    vectors. edges: which of TOP, BOTTOM, LEFT and RIGHT are not to be read. gated: x counts where
    its mask is positive.
    """

    @intrinsic
    def tile(
        typingctx, x, x_h, x_w, mask, m_h, m_w, w, w_step, out, out_h, out_w, bias, lanes, floor,
        edges,
    ):  # fmt: skip
        i64 = types.int64
        signature = types.void(*[i64] * 13, types.float32, i64)

        def codegen(context, b, sig, values):
            x, x_h, x_w, mask, m_h, m_w, filters, w_step = values[:8]
            out, out_h, out_w, bias, lanes, floor, edges = values[8:]
            e = Emit(b, VL)
            zero, lane_mask = ir.Constant(e.vector, [0.0] * VL), e.lane_mask(lanes, 0)
            grid = [(i, j) for i in range(ROWS) for j in range(COLUMNS)]
            acc = dict.fromkeys(grid, zero)
            weights = [e.load(b.add(filters, b.mul(w_step, e.const(t)))) for t in range(TAPS**2)]

            def at(base, down, right, h, w):
                return b.add(b.add(base, b.mul(down, e.const(h))), b.mul(right, e.const(w)))

            def lanes_at(address):
                return e.load(address) if whole else e.masked_load(address, lane_mask)

            def unless(edge, emit, *where):
                """emit(*where) where the edge is inside the image."""
                before, origin = dict(acc), b.block
                inside, after = b.append_basic_block("inside"), b.append_basic_block("after")
                b.cbranch(
                    b.icmp_signed("==", b.and_(edges, e.const(edge)), e.const(0)), inside, after
                )
                b.position_at_end(inside)
                emit(*where)
                end = b.block
                b.branch(after)
                b.position_at_end(after)
                for ij in grid:
                    if acc[ij] is not before[ij]:
                        phi = b.phi(e.vector)
                        phi.add_incoming(before[ij], origin)
                        phi.add_incoming(acc[ij], end)
                        acc[ij] = phi

            def add_pixel(h, w):
                value = lanes_at(at(x, x_h, x_w, h, w))
                if gated:
                    open_ = b.fcmp_ordered(">", lanes_at(at(mask, m_h, m_w, h, w)), zero)
                    value = b.select(open_, value, zero)
                for i, j in grid:
                    if 0 <= h - i < TAPS and 0 <= w - j < TAPS:
                        tap = weights[TAPS * (h - i) + w - j]
                        acc[i, j] = e.fma(value, tap, acc[i, j])

            def add_row(h):
                last = COLUMNS + TAPS - 2
                unless(LEFT, add_pixel, h, 0)
                for w in range(1, last):
                    add_pixel(h, w)
                unless(RIGHT, add_pixel, h, last)

            unless(TOP, add_row, 0)
            for h in range(1, ROWS + TAPS - 2):
                add_row(h)
            unless(BOTTOM, add_row, ROWS + TAPS - 2)
            start, low = lanes_at(bias), e.broadcast(floor)
            for i, j in grid:
                value, to = (
                    e.clamp_below(b.fadd(start, acc[i, j]), low),
                    at(out, out_h, out_w, i, j),
                )
                if whole:
                    e.store(value, to)
                else:
                    e.masked_store(value, to, lane_mask)
            return context.get_dummy_value()

        return signature, codegen

    return tile


@njit(**OPTIONS)
def is_stencil(a, pad_h, pad_w, rows, Q):
    """Whether `rows` rows of Q outputs can go by tiles of the stencil, and gain by it.

    Pixels a multiple of 2 KiB apart share one or two sets of L1. Vectors that cross cache lines
    then lose the line they share with the next ones: 1024 channels took 1.3 times as long.
    """
    square = a.R == TAPS and a.S == TAPS and a.stride_h == 1 and a.stride_w == 1 and a.K == a.C
    fits = rows >= ROWS and Q >= COLUMNS and 0 <= pad_h <= 1 and 0 <= pad_w <= 1
    crowded = a.x_w % 512 == 0 or a.y_w % 512 == 0
    crossing = (a.x | a.y | a.mask) % 64 != 0
    return square and fits and a.accumulate == 0 and not (crowded and crossing)


def stencil_rows(target: Target, *, gated=False):
    """rows(a, x, x_h, x_w, mask, m_h, m_w, H, W, out, out_h, out_w, Q, pad_h, pad_w, first, last,
    start, end, floor, flip).

    Output rows first..last of an image, vectors of panels start..end. The last tile of a row or a
    column is moved back onto its neighbour's outputs, which get the same bits again.
    """
    NR, VL = target.nr, target.vl
    whole, part = stencil_tile(VL, whole=True, gated=gated), stencil_tile(VL, gated=gated)

    @njit(**OPTIONS)
    def rows(
        a, x, x_h, x_w, mask, m_h, m_w, H, W, out, out_h, out_w, Q, pad_h, pad_w, first, last,
        start, end, floor, flip,
    ):  # fmt: skip
        for p in range(first, last, ROWS):
            p = min(p, last - ROWS)
            h = p - pad_h
            vertical = (TOP if h < 0 else 0) | (BOTTOM if h + ROWS + TAPS - 1 > H else 0)
            for q in range(0, Q, COLUMNS):
                q = min(q, Q - COLUMNS)
                w = q - pad_w
                edges = (LEFT if w < 0 else 0) | (RIGHT if w + COLUMNS + TAPS - 1 > W else 0)
                edges |= vertical
                x_at = x + h * x_h + w * x_w
                m_at = mask + h * m_h + w * m_w
                out_at = out + p * out_h + q * out_w
                for k in range(start * NR, min(end * NR, a.K), VL):
                    lanes = a.K - k
                    panel = k - k % NR
                    step = (VL if a.K - panel <= VL else NR) * 4
                    taps = a.w + panel * TAPS * TAPS * 4 + (k - panel) * 4
                    if flip != 0:
                        taps, step = taps + (TAPS * TAPS - 1) * step, -step
                    bias = a.bias + k * 4 if a.bias != 0 else a.zero
                    c = k * 4
                    if lanes >= VL:
                        whole(x_at + c, x_h, x_w, m_at + c, m_h, m_w, taps, step, out_at + c, out_h,
                              out_w, bias, lanes, floor, edges)  # fmt: skip
                    else:
                        part(x_at + c, x_h, x_w, m_at + c, m_h, m_w, taps, step, out_at + c, out_h,
                             out_w, bias, lanes, floor, edges)  # fmt: skip

    return rows
