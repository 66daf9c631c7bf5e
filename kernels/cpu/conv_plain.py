"""The plain twins of the convolution programs: flat loops, the rung to read first.

The same sums in the same order (taps by rows, then channels, in the chunks of sums.py, the bias
last), so the twins agree with the register tile to the bit.
"""

from numba import carray, cfunc

from ..args import PLAIN_CONV
from .memory import OPTIONS, PROGRAM, ZERO, floats, fma, pointer, relu
from .sums import sum_chunk
from .target import Target


def conv_fprop_plain(target: Target):
    """y[n, p, q, k] = relu(b[k] + sum over r, s, c of x[n, p+r, q+s, c] w[k, r, s, c]).

    Tile = one output row (n, p).
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        n, p = tile // a.P, tile % a.P
        for q in range(a.Q):
            y = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 4, a.K)
            for k in range(a.K):
                total, part, last = ZERO, ZERO, 0
                for r in range(a.R):
                    for s in range(a.S):
                        h = p * a.stride_h + r - a.pad_h
                        w = q * a.stride_w + s - a.pad_w
                        if 0 <= h < a.H and 0 <= w < a.W:
                            x = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
                            tap = a.w + (k * a.w_k + r * a.w_r + s * a.w_s) * 4
                            c = 0
                            while c < a.C:
                                chunk, end = sum_chunk(r, s * a.C + c, a.S * a.C)
                                if chunk != last:
                                    total, part, last = total + part, ZERO, chunk
                                while c < min(end - s * a.C, a.C):
                                    part = fma(x[c], floats(tap + c * a.w_c * 4, 1)[0], part)
                                    c += 1
                total = (floats(a.bias, a.K)[k] if a.bias != 0 else ZERO) + (total + part)
                y[k] = relu(total) if a.relu != 0 else total

    return program


def conv_dgrad_plain(target: Target):
    """gx[n, h, w, c] (+)= sum over r, s, k of g[n, p, q, k] w[k, r, s, c], p stride + r - pad = h.

    Taps from the last to the first, as the flipped filter of the register tile takes them. x is gx,
    y is gy. Tile = one input row (n, h).
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        n, h = tile // a.H, tile % a.H
        for w in range(a.W):
            gx = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
            for c in range(a.C):
                total, part, last = ZERO, ZERO, 0
                for r in range(a.R - 1, -1, -1):
                    for s in range(a.S - 1, -1, -1):
                        p, q = h + a.pad_h - r, w + a.pad_w - s
                        if p % a.stride_h != 0 or q % a.stride_w != 0:
                            continue
                        p, q = p // a.stride_h, q // a.stride_w
                        if 0 <= p < a.P and 0 <= q < a.Q:
                            gy = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 4, a.K)
                            y = floats(a.mask + (n * a.m_n + p * a.m_h + q * a.m_w) * 4, a.K)
                            tap = a.w + (r * a.w_r + s * a.w_s + c * a.w_c) * 4
                            k, before = 0, (a.S - 1 - s) * a.K
                            while k < a.K:
                                chunk, end = sum_chunk(a.R - 1 - r, before + k, a.S * a.K)
                                if chunk != last:
                                    total, part, last = total + part, ZERO, chunk
                                while k < min(end - before, a.K):
                                    g = gy[k] if a.mask == 0 or y[k] > ZERO else ZERO
                                    part = fma(g, floats(tap + k * a.w_k * 4, 1)[0], part)
                                    k += 1
                gx[c] = (gx[c] if a.accumulate != 0 else ZERO) + (total + part)

    return program


def conv_wgrad_plain(target: Target):
    """gw[k, r, s, c] = sum over n, p, q of g[n, p, q, k] x[n, p stride + r - pad, ..., c].

    Sums of one image are added up image by image; gb likewise. w is gw, bias is gb, y is gy.
    Tile = one k.
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        k = tile
        for r in range(a.R):
            for s in range(a.S):
                for c in range(a.C):
                    gw = floats(a.w + (k * a.w_k + r * a.w_r + s * a.w_s + c * a.w_c) * 4, 1)
                    gw[0] = ZERO
                    for n in range(a.N):
                        total = ZERO
                        for p in range(a.P):
                            for q in range(a.Q):
                                h = p * a.stride_h + r - a.pad_h
                                w = q * a.stride_w + s - a.pad_w
                                if 0 <= h < a.H and 0 <= w < a.W:
                                    at = n * a.y_n + p * a.y_h + q * a.y_w + k
                                    g = floats(a.y + at * 4, 1)[0]
                                    if a.mask != 0:
                                        at = n * a.m_n + p * a.m_h + q * a.m_w + k
                                        g = g if floats(a.mask + at * 4, 1)[0] > ZERO else ZERO
                                    at = n * a.x_n + h * a.x_h + w * a.x_w + c
                                    total = fma(g, floats(a.x + at * 4, 1)[0], total)
                        gw[0] += total
        if a.bias != 0:
            gb = floats(a.bias + k * 4, 1)
            gb[0] = ZERO
            for n in range(a.N):
                total = ZERO
                for p in range(a.P):
                    for q in range(a.Q):
                        g = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w + k) * 4, 1)[0]
                        if a.mask != 0:
                            at = n * a.m_n + p * a.m_h + q * a.m_w + k
                            g = g if floats(a.mask + at * 4, 1)[0] > ZERO else ZERO
                        total += g
                gb[0] += total

    return program
