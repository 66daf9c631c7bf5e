"""Copies of rows of a map into scratch: packed, masked, with zero columns at both sides."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import OPTIONS, clear
from .register_tile import copy_lanes

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
