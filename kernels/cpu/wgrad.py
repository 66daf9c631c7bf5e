"""Filter gradient as a tile program, and the packing of filters.

    gw[k, r, s, c] = sum over n, p, q of g[n, p, q, k] x[n, p stride_h + r - pad_h, ..., c]
    gb[k]          = sum over n, p, q of g[n, p, q, k],     g = gy where y > 0, else 0

gw and gb are `=`. A tile owns a range of output channels and runs over all pixels, so nothing is
added across threads: image by image, chunk of rows by chunk of rows, in that order. The gradient of
a chunk is masked into scratch once; x comes from scratch too when the filter is larger than 1x1,
with zero columns at both sides, so that the S taps of a filter row are one run of S C lanes.
"""

from numba import carray, cfunc, njit

from ..args import PACK, WGRAD
from .memory import OPTIONS, PROGRAM, ZERO, clear, floats, integers, pointer
from .register_tile import wgrad_tile
from .target import Target


@njit(**OPTIONS)
def stage_gradient(a, n, p0, p1, k0, k1, ld, staged):
    """staged[pixel, k - k0] = gy masked by y > 0; lanes up to ld are zero."""
    for p in range(p0, p1):
        for q in range(a.Q):
            to = floats(staged + ((p - p0) * a.Q + q) * ld * 4, ld)
            gy = floats(a.gy + (n * a.gy_n + p * a.gy_h + q * a.gy_w + k0) * 4, k1 - k0)
            if a.mask != 0:
                y = floats(a.mask + (n * a.m_n + p * a.m_h + q * a.m_w + k0) * 4, k1 - k0)
                for k in range(k1 - k0):
                    to[k] = gy[k] if y[k] > ZERO else ZERO
            else:
                for k in range(k1 - k0):
                    to[k] = gy[k]
            for k in range(k1 - k0, ld):
                to[k] = ZERO


@njit(**OPTIONS)
def stage_input(a, n, low, high, width, staged):
    """staged[h - low, pad_w + w, :] = x[n, h, w, :] with zero columns at both sides."""
    C = a.C
    for h in range(low, high):
        row = floats(staged + (h - low) * width * C * 4, width * C)
        for i in range(a.pad_w * C):
            row[i] = ZERO
        for w in range(a.W):
            x = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, C)
            for c in range(C):
                row[(a.pad_w + w) * C + c] = x[c]
        for i in range((a.pad_w + a.W) * C, width * C):
            row[i] = ZERO


@njit(**OPTIONS)
def add_bias_gradient(gb_at, staged, pixels, ld, count):
    """gb[k] += sum over pixels of staged[pixel, k]; each sum starts at zero."""
    gb = floats(gb_at, count)
    for k in range(count):
        g = floats(staged + k * 4, pixels * ld)
        total = ZERO
        for i in range(pixels):
            total += g[i * ld]
        gb[k] += total


def conv_wgrad(target: Target):
    """Tile program of args.WGRAD; tile = range of tile_k output channels."""
    MR, NV, VL = target.wgrad_mr, target.wgrad_nv, target.vl
    wide, narrow = wgrad_tile(MR, NV, VL), wgrad_tile(MR, 1, VL)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WGRAD)[0]
        k0 = tile * a.tile_k
        k1 = min(k0 + a.tile_k, a.K)
        ld = (k1 - k0 + MR - 1) // MR * MR
        in_place = a.R == 1 and a.S == 1
        row_length = a.S * a.C  # one filter row of one output channel
        filter_length = a.R * row_length
        out = integers(scratch, MR)
        spare = scratch + 8 * MR
        rows_at = spare + NV * VL * 4
        rows = integers(rows_at, a.chunk_rows * a.Q)
        gy_at, x_at = scratch + a.staged_gy, scratch + a.staged_x
        width = max((a.Q - 1) * a.stride_w + a.S, a.pad_w + a.W)
        clear(a.gw + k0 * filter_length * 4, (k1 - k0) * filter_length)
        if a.gb != 0:
            clear(a.gb + k0 * 4, k1 - k0)
        for n in range(a.N):
            p0 = 0
            while p0 < a.P:
                p1 = min(p0 + a.chunk_rows, a.P)
                stage_gradient(a, n, p0, p1, k0, k1, ld, gy_at)
                if a.gb != 0:
                    add_bias_gradient(a.gb + k0 * 4, gy_at, (p1 - p0) * a.Q, ld, k1 - k0)
                low = max(p0 * a.stride_h - a.pad_h, 0)
                high = min((p1 - 1) * a.stride_h - a.pad_h + a.R, a.H)
                if not in_place:
                    stage_input(a, n, low, high, width, x_at)
                for r in range(a.R):
                    # Only the output rows whose input row lies inside the image take part.
                    first, last = p0, p1
                    while first < last and first * a.stride_h + r - a.pad_h < 0:
                        first += 1
                    while last > first and (last - 1) * a.stride_h + r - a.pad_h >= a.H:
                        last -= 1
                    pixels = 0
                    for p in range(first, last):
                        h = p * a.stride_h + r - a.pad_h
                        for q in range(a.Q):
                            w = q * a.stride_w
                            if not in_place:
                                rows[pixels] = x_at + ((h - low) * width + w) * a.C * 4
                            elif 0 <= w - a.pad_w < a.W:
                                w -= a.pad_w
                                rows[pixels] = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4
                            else:
                                rows[pixels] = a.zero
                            pixels += 1
                    gy_first = gy_at + (first - p0) * a.Q * ld * 4
                    lane = 0 if pixels > 0 else row_length
                    while lane < row_length:
                        lanes = min(row_length - lane, NV * VL)
                        for k in range(0, k1 - k0, MR):
                            for i in range(MR):
                                at = ((k0 + k + i) * a.R + r) * row_length + lane
                                out[i] = a.gw + at * 4 if k0 + k + i < k1 else spare
                            g = gy_first + k * 4
                            if lanes <= VL:
                                narrow(rows_at, lane * 4, pixels, g, ld, scratch, lanes)
                            else:
                                wide(rows_at, lane * 4, pixels, g, ld, scratch, lanes)
                        lane += NV * VL
                p0 = p1

    return program


def pack(target: Target):
    """packed[panel, r, s, c, lane] = w[panel NR + lane, r, s, c], zero lanes beyond K.

    Tile program of args.PACK; tile = panel. The last panel is one vector wide if that holds it.
    """
    NR, VL = target.nr, target.vl

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        lanes = min(a.K - tile * NR, NR)
        width = VL if lanes <= VL else NR
        panel = a.packed + tile * NR * a.R * a.S * a.C * 4
        for r in range(a.R):
            for s in range(a.S):
                to = floats(panel + (r * a.S + s) * a.C * width * 4, a.C * width)
                at = a.w + (tile * NR * a.w_k + r * a.w_r + s * a.w_s) * 4
                # Whole lanes at a time along c: reads run on, writes stay within one tap's block.
                for lane in range(lanes):
                    for c in range(a.C):
                        to[c * width + lane] = floats(at + (lane * a.w_k + c * a.w_c) * 4, 1)[0]
                for lane in range(lanes, width):
                    for c in range(a.C):
                        to[c * width + lane] = ZERO

    return program
