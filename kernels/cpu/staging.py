"""Copies into scratch and into packed filters: rows with a mask and borders, halves, transposes."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import OPTIONS, clear
from .register_tile import I32, I64, Emit, copy_lanes

WIDTH = 8  # lanes of a copy: one ymm register on every level
copy8, gated_copy8 = copy_lanes(WIDTH), copy_lanes(WIDTH, gated=True)


@intrinsic
def copy_bytes(typingctx, to, source, count):
    """memcpy of `count` bytes."""

    def codegen(context, builder, signature, args):
        to, source, count = args
        pointer = cgutils.voidptr_t
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(to, pointer),
            builder.inttoptr(source, pointer),
            count,
            ir.Constant(ir.IntType(64), 1),
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@njit(**OPTIONS)
def stage_row(to, x, y, pixels, C, x_step, y_step, left, width):
    """to[left + i, :] = x[i, :] for i < pixels, zero where y[i, :] <= 0 (y 0: no mask).

    to: (width, C), packed; columns outside are set to zero. x_step, y_step: elements a pixel. Whole
    registers are stored, so up to WIDTH floats after the row may be set to zero as well: stage rows
    in ascending order and leave that slack after the last.
    """
    clear(to, left * C)
    at = to + left * C * 4
    if y == 0 and x_step == C:
        copy_bytes(at, x, pixels * C * 4)
    else:
        for _ in range(pixels):
            for c in range(0, C, WIDTH):
                if y != 0:
                    gated_copy8(at + c * 4, x + c * 4, y + c * 4, C - c)
                else:
                    copy8(at + c * 4, x + c * 4, 0, C - c)
            at += C * 4
            x += x_step * 4
            y += y_step * 4
    clear(to + (left + pixels) * C * 4, (width - left - pixels) * C)


def transpose_tile(VL: int):
    """Intrinsic tile(rows, offset, to, step): to[c, lane] = row[lane][c] for c, lane < VL.

    rows: address of VL addresses of float32, each read from `offset` bytes on; to: lines of VL
    floats, `step` bytes apart.
    """

    @intrinsic
    def tile(typingctx, rows, offset, to, step):
        def codegen(context, b, signature, arguments):
            rows, offset, to, step = arguments
            e = Emit(b, VL)
            v = [
                e.load(b.add(e.scalar(b.add(rows, e.const(8 * i)), I64), offset)) for i in range(VL)
            ]
            half = 1
            while half < VL:  # exchanges bit `half` of the vector's number and of the lane's
                keep = [i & ~half if not i & half else VL + (i & ~half) for i in range(VL)]
                swap = [i | half if not i & half else VL + (i | half) for i in range(VL)]
                for i in range(VL):
                    if not i & half:
                        pair = v[i], v[i | half]
                        for at, lanes in ((i, keep), (i | half, swap)):
                            order = ir.Constant(ir.VectorType(I32, VL), lanes)
                            v[at] = b.shuffle_vector(*pair, order)
                half *= 2
            for c in range(VL):
                e.store(v[c], b.add(to, b.mul(step, e.const(c))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return tile


def copy_vectors(VL: int, count: int):
    """Intrinsic copy(to, x): `count` vectors of VL floats."""

    @intrinsic
    def copy(typingctx, to, x):
        def codegen(context, b, signature, arguments):
            to, x = arguments
            e = Emit(b, VL)
            for i in range(count):
                e.store(e.load(b.add(x, e.const(4 * VL * i))), b.add(to, e.const(4 * VL * i)))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return copy


def split_lanes(VL: int, gated: bool, whole: bool):
    """Intrinsic split(low, high, x, y, count): x[0:VL] in two halves, at `low` and at `high`.

    gated: a lane is zero where y is not positive (NaN included). whole: count is VL; else in
    0..VL, and lanes from there on are zero.
    """

    @intrinsic
    def split(typingctx, low, high, x, y, count):
        def codegen(context, b, signature, arguments):
            low, high, x, y, count = arguments
            e = Emit(b, VL)
            mask = None if whole else e.lane_mask(count, 0)
            value = e.take(x, mask)
            if gated:
                zero = ir.Constant(e.vector, [0.0] * VL)
                value = b.select(b.fcmp_ordered(">", e.take(y, mask), zero), value, zero)
            for to, first in ((low, 0), (high, VL // 2)):
                lanes = ir.Constant(
                    ir.VectorType(I32, VL // 2), list(range(first, first + VL // 2))
                )
                Emit(b, VL // 2).store(b.shuffle_vector(value, value, lanes), to)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return split


def add_rows(width: int):
    """Intrinsic add(x, step, count, to, lanes): to[0:lanes] += sum over rows of x[row, 0:width].

    Rows lie `step` bytes apart; their sum starts at zero. lanes in 0..width; count >= 1.
    """

    @intrinsic
    def add(typingctx, x, step, count, to, lanes):
        def codegen(context, b, signature, arguments):
            x, step, count, to, lanes = arguments
            e = Emit(b, width)
            entry = b.block
            loop, end = b.append_basic_block("row"), b.append_basic_block("end")
            b.branch(loop)
            b.position_at_end(loop)
            i, at, total = b.phi(I64), b.phi(I64), b.phi(e.vector)
            i.add_incoming(e.const(0), entry)
            at.add_incoming(x, entry)
            total.add_incoming(ir.Constant(e.vector, [0.0] * width), entry)
            more = b.fadd(total, e.load(at))
            after = b.add(i, e.const(1))
            i.add_incoming(after, loop)
            at.add_incoming(b.add(at, step), loop)
            total.add_incoming(more, loop)
            b.cbranch(b.icmp_signed("<", after, count), loop, end)
            b.position_at_end(end)
            mask = e.lane_mask(lanes, 0)
            e.masked_store(b.fadd(e.masked_load(to, mask), more), to, mask)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return add
