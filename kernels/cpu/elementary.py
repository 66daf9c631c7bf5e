"""Square root, exponential, logarithm and power in float32, without a mathematics library.

The objects of the kernels may refer to memcpy, memset and memmove only, so these are polynomials of
our own, over the fused multiply-add: branch-free, which lets the compiler vectorise loops of them.
Coefficients: minimax on the reduced interval (weighted least squares, weights by Lawson's rule),
rounded to float32. Error bounds are in ulps of the result and are tested against float64.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import MINUS_INFINITY, ONE, OPTIONS, ZERO, floats, fma

F = np.float32
HALF, INFINITY, NAN = F(0.5), F(np.inf), F(np.nan)
LOG2_E = F(1.4426950408889634)
# ln 2 in two parts; the first has 15 bits, so its products with an exponent are exact.
LN2_HIGH, LN2_LOW = F(0.693145751953125), F(1.4286068203094172e-06)
# Adding it leaves a float's nearest integer in the low bits of the sum.
ROUNDER, ROUNDER_BITS = F(12582912.0), np.int32(0x4B400000)
SQRT_HALF_BITS = np.int32(0x3F3504F3)  # of sqrt(1/2)
LEAST_NORMAL, TWO_23 = F(1.1754943508222875e-38), F(8388608.0)
MANTISSA, ONES_EXPONENT, MANTISSA_BITS = np.int32(0x7FFFFF), np.int32(127), np.int32(23)
E0, E1, E2, E3, E4 = (
    F(c) for c in (0.49999994, 0.16666521, 0.04166839, 0.0083687166, 0.0013814599)
)
L0, L1, L2, L3, L4, L5, L6, L7 = (
    F(c)
    for c in (
        0.33333331,
        -0.25000823,
        0.20001228,
        -0.16623336,
        0.14201719,
        -0.13160364,
        0.12761962,
        -0.076344877,
    )
)


@intrinsic
def square_root(typingctx, value):
    """sqrt(value), correctly rounded: one instruction."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.sqrt.f32"), args
        )

    return types.float32(types.float32), codegen


@intrinsic
def to_bits(typingctx, value):
    """The 32 bits of a float32 as int32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def from_bits(typingctx, value):
    """The float32 that has the 32 bits of an int32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), codegen


@njit(**OPTIONS)
def exp(x):
    """e^x within 1 ulp, of the least where the result is denormal; overflow is inf, NaN stays NaN.

    x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r); times 2^n in two factors, so that
    denormal results round once.
    """
    x = F(-104.0) if x < F(-104.0) else x
    x = F(89.0) if x > F(89.0) else x
    shifted = fma(x, LOG2_E, ROUNDER)
    n = np.int32(to_bits(shifted) - ROUNDER_BITS)
    whole = shifted - ROUNDER
    r = fma(-whole, LN2_LOW, fma(-whole, LN2_HIGH, x))
    p = fma(fma(fma(fma(E4, r, E3), r, E2), r, E1), r, E0)
    p = ONE + fma(r * r, p, r)
    first = np.int32(n >> np.int32(1))
    second = np.int32(n - first)
    low = from_bits(np.int32(first + ONES_EXPONENT) << MANTISSA_BITS)
    high = from_bits(np.int32(second + ONES_EXPONENT) << MANTISSA_BITS)
    return p * low * high


@njit(**OPTIONS)
def log(x):
    """ln x within 1 ulp; ln 0 = -inf, NaN for x < 0 and for NaN.

    x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt 2); ln(1 + f) = f - f^2/2 + f^3 P(f).
    """
    small = x < LEAST_NORMAL
    scaled = x * TWO_23 if small else x
    bits = np.int32(to_bits(scaled) - SQRT_HALF_BITS)
    n = np.int32(bits >> MANTISSA_BITS)
    f = from_bits(np.int32(bits & MANTISSA) + SQRT_HALF_BITS) - ONE
    whole = F(n) - F(23.0) if small else F(n)
    p = fma(fma(fma(fma(fma(fma(fma(L7, f, L6), f, L5), f, L4), f, L3), f, L2), f, L1), f, L0)
    square = f * f
    tail = fma(whole, LN2_LOW, fma(square * f, p, -HALF * square))
    result = fma(whole, LN2_HIGH, f + tail)
    result = x if x == INFINITY else result
    result = MINUS_INFINITY if x == ZERO else result
    return result if x >= ZERO else NAN


@njit(**OPTIONS)
def power(x, exponent):
    """x^exponent for x > 0, within 3 + 2 |exponent ln x| ulps: e^(exponent ln x)."""
    return exp(exponent * log(x))


@njit(**OPTIONS)
def divide(at, C, divisor):
    """Divide C floats."""
    y = floats(at, C)
    for c in range(C):
        y[c] /= divisor
