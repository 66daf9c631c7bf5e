"""The plain twins of the depthwise programs: flat loops, the rung to read first.

The same sums in the same order, so the twins agree with the register tiles to the bit. Records are
args.PLAIN_CONV with filters (K, R, S, 1); output channel k sees input channel k // M, M = K / C.
"""

from numba import carray, cfunc

from ..args import PLAIN_CONV
from .memory import OPTIONS, PROGRAM, ZERO, floats, fma, pointer, relu
from .sums import sum_rows
from .target import Target


def depthwise_fprop_plain(target: Target):
    """y[n, p, q, k] = relu(b[k] + sum over r, s of x[n, p+r, q+s, k // M] w[k, r, s]).

    Tile = one output row (n, p).
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        n, p, M = tile // a.P, tile % a.P, a.K // a.C
        for q in range(a.Q):
            y = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 4, a.K)
            for k in range(a.K):
                total = ZERO
                for r in range(a.R):
                    for s in range(a.S):
                        h = p * a.stride_h + r - a.pad_h
                        w = q * a.stride_w + s - a.pad_w
                        if 0 <= h < a.H and 0 <= w < a.W:
                            at = n * a.x_n + h * a.x_h + w * a.x_w + k // M
                            tap = a.w + (k * a.w_k + r * a.w_r + s * a.w_s) * 4
                            total = fma(floats(a.x + at * 4, 1)[0], floats(tap, 1)[0], total)
                total = (floats(a.bias, a.K)[k] if a.bias != 0 else ZERO) + total
                y[k] = relu(total) if a.relu != 0 else total

    return program


def depthwise_dgrad_plain(target: Target):
    """gx[n, h, w, c] (+)= sum over p, q and the M k of c of g[n, p, q, k] w[k, r, s], rising.

    x is gx, y is gy. Tile = one input row (n, h).
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        n, h, M = tile // a.H, tile % a.H, a.K // a.C
        for w in range(a.W):
            gx = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
            for c in range(a.C):
                total = ZERO
                for r in range(a.R - 1, -1, -1):
                    for s in range(a.S - 1, -1, -1):
                        p, q = h + a.pad_h - r, w + a.pad_w - s
                        if p % a.stride_h != 0 or q % a.stride_w != 0:
                            continue
                        p, q = p // a.stride_h, q // a.stride_w
                        if 0 <= p < a.P and 0 <= q < a.Q:
                            gy = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 4, a.K)
                            y = floats(a.mask + (n * a.m_n + p * a.m_h + q * a.m_w) * 4, a.K)
                            for k in range(c * M, c * M + M):
                                tap = a.w + (k * a.w_k + r * a.w_r + s * a.w_s) * 4
                                g = gy[k] if a.mask == 0 or y[k] > ZERO else ZERO
                                total = fma(g, floats(tap, 1)[0], total)
                gx[c] = (gx[c] if a.accumulate != 0 else ZERO) + total

    return program


def depthwise_wgrad_plain(target: Target):
    """gw[k, r, s] = sum over n, p, q of g[n, p, q, k] x[n, p stride + r - pad, ..., k // M].

    A chain runs over `sum_rows` rows, chains make an image's sum, images the whole; gb likewise.
    w is gw, bias is gb, y is gy. Tile = one k.
    """

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PLAIN_CONV)[0]
        k, M, rows = tile, a.K // a.C, sum_rows(a.Q)
        for r in range(a.R):
            for s in range(a.S):
                gw = floats(a.w + (k * a.w_k + r * a.w_r + s * a.w_s) * 4, 1)
                gw[0] = ZERO
                for n in range(a.N):
                    total, chain = ZERO, ZERO
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
                                at = n * a.x_n + h * a.x_h + w * a.x_w + k // M
                                chain = fma(g, floats(a.x + at * 4, 1)[0], chain)
                        if (p + 1) % rows == 0 or p + 1 == a.P:
                            total, chain = total + chain, ZERO
                    gw[0] += total
        if a.bias != 0:
            gb = floats(a.bias + k * 4, 1)
            gb[0] = ZERO
            for n in range(a.N):
                total, chain = ZERO, ZERO
                for p in range(a.P):
                    for q in range(a.Q):
                        g = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w + k) * 4, 1)[0]
                        if a.mask != 0:
                            at = n * a.m_n + p * a.m_h + q * a.m_w + k
                            g = g if floats(a.mask + at * 4, 1)[0] > ZERO else ZERO
                        chain += g
                    if (p + 1) % rows == 0 or p + 1 == a.P:
                        total, chain = total + chain, ZERO
                gb[0] += total

    return program
