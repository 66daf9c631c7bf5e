"""bfloat16 in tile programs: numbers to and from float32, copies of maps, the plain convolution.

    float32 -> bfloat16: round to nearest, ties to even; NaN stays NaN, a subnormal a subnormal

Storage is 16 bits, arithmetic is float32: a result is rounded once, where it is stored. Numba has
no such type, so an element is a uint16 here: the upper half of the float32 it stands for.

Convolutions see maps of *pairs*: two neighbouring channels are one element of four bytes, which is
what `vdpbf16ps` multiplies. Channel counts and strides must be even for that; `copy_bfloat16`
makes a map so, with a zero as its last channel (and takes the zero away again).
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import COPY, PACK, PLAIN_CONV
from .elementary import from_bits, to_bits
from .memory import OPTIONS, PROGRAM, ZERO, floats, fma, pointer, relu
from .sums import sum_chunk
from .target import Target


@njit(**OPTIONS, inline="always")
def widen(half):
    """The float32 that a bfloat16 stands for."""
    return from_bits(np.uint32(np.uint32(half) << np.uint32(16)))


@njit(**OPTIONS, inline="always")
def narrow(value):
    """The bfloat16 nearest to a float32."""
    bits = np.uint32(to_bits(value))
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
    quiet = np.uint32(bits | np.uint32(0x400000))
    return np.uint16((rounded if value == value else quiet) >> np.uint32(16))


@njit(**OPTIONS, inline="always")
def halves(address, count):
    """uint16 view of memory."""
    return carray(pointer(address), (count,), np.uint16)


def copy_bfloat16(target: Target):
    """y[n, h, w, :] = x[n, h, w, :], cut or filled up with zeros; tile = one row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), COPY)[0]
        n, h = tile // a.H, tile % a.H
        both = min(a.x_c, a.y_c)
        for w in range(a.W):
            x = halves(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 2, both)
            y = halves(a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 2, a.y_c)
            for c in range(both):
                y[c] = x[c]
            for c in range(both, a.y_c):
                y[c] = np.uint16(0)

    return program


def pack_bfloat16(target: Target):
    """Filter (K, R, S, C) -> panels[R S][pairs of C][NR][2], zeros beyond; tile = a panel."""
    NR, VL = target.nr, target.vl

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        pairs = (a.C + 1) // 2
        lanes = min(NR, a.K - tile * NR)
        width = VL if lanes <= VL else NR
        panel = halves(a.packed + tile * NR * a.R * a.S * pairs * 4, a.R * a.S * pairs * width * 2)
        i = 0
        for r in range(a.R):
            for s in range(a.S):
                for c in range(0, 2 * pairs, 2):
                    for lane in range(width):
                        at = (tile * NR + lane) * a.w_k + r * a.w_r + s * a.w_s + c * a.w_c
                        for odd in range(2):
                            inside = lane < lanes and c + odd < a.C
                            panel[i] = (
                                halves(a.w + (at + odd * a.w_c) * 2, 1)[0]
                                if inside
                                else np.uint16(0)
                            )
                            i += 1

    return program


def conv_fprop_bfloat16_plain(target: Target):
    """y[n, p, q, k] = round(relu(b[k] + sum over r, s, pairs of x[odd] w[odd] + x[even] w[even])).

    The sum as the register tile takes it: pairs in rising order, of a pair the odd channel first,
    in chunks of pairs. Tile = one output row (n, p).
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        n, p, pairs = tile // a.P, tile % a.P, (a.C + 1) // 2
        for q in range(a.Q):
            y = halves(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 2, a.K)
            for k in range(a.K):
                total, part, last = ZERO, ZERO, 0
                for r in range(a.R):
                    for s in range(a.S):
                        h = p * a.stride_h + r - a.pad_h
                        w = q * a.stride_w + s - a.pad_w
                        if not (0 <= h < a.H and 0 <= w < a.W):
                            continue
                        x = halves(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 2, a.C)
                        tap = a.w + (k * a.w_k + r * a.w_r + s * a.w_s) * 2
                        for i in range(pairs):
                            chunk, _ = sum_chunk(r, s * pairs + i, a.S * pairs)
                            if chunk != last:
                                total, part, last = total + part, ZERO, chunk
                            for c in range(2 * i + 1, 2 * i - 1, -1):
                                if c < a.C:
                                    weight = halves(tap + c * a.w_c * 2, 1)[0]
                                    part = fma(widen(x[c]), widen(weight), part)
                total = (floats(a.bias, a.K)[k] if a.bias != 0 else ZERO) + (total + part)
                y[k] = narrow(relu(total) if a.relu != 0 else total)

    return program
