"""Addresses and scalars for tile programs: what Numba lacks for code over plain records."""

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# error_model: no exception path is left in the object; everything else is Numba's default, in
# particular no fastmath.
OPTIONS = {"error_model": "numpy", "boundscheck": False, "cache": False}
# A program is kernel(args, tile, scratch): address of its record, tile index, address of scratch.
PROGRAM = types.void(types.int64, types.int64, types.int64)

ZERO = np.float32(0)
ONE = np.float32(1)
MINUS_INFINITY = np.float32(-np.inf)


@intrinsic
def pointer(typingctx, address):
    """Address (int64) as an untyped pointer, the form `carray` takes."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a b + c with one rounding: the multiply-add of every sum here, scalar or vector."""

    def codegen(context, builder, signature, args):
        f32 = ir.FloatType()
        kind = ir.FunctionType(f32, [f32, f32, f32])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.f32"), args
        )

    f32 = types.float32
    return f32(f32, f32, f32), codegen


@njit(**OPTIONS, inline="always")
def floats(address, count):
    """float32 view of memory."""
    return carray(pointer(address), (count,), np.float32)


@njit(**OPTIONS, inline="always")
def integers(address, count):
    """int64 view of memory."""
    return carray(pointer(address), (count,), np.int64)


@njit(**OPTIONS, inline="always")
def relu(value):
    """value <= 0 ? +0 : value; NaN stays NaN."""
    return ZERO if value <= ZERO else value


@njit(**OPTIONS)
def clear(address, count):
    """Set `count` floats to +0."""
    values = floats(address, count)
    for i in range(count):
        values[i] = ZERO
