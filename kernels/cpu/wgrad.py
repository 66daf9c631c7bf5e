"""Filter gradient as a tile program, and the packing of filters.

    gw[k, r, s, c] = sum over n, p, q of g[n, p, q, k] x[n, p stride_h + r - pad_h, ..., c]
    gb[k]          = sum over n, p, q of g[n, p, q, k],     g = gy where y > 0, else 0

gw and gb are `=`. A filter row of one output channel is a run of S C lanes; a tile owns a range of
output channels and a range of blocks of lanes, and runs over all pixels itself, so nothing is added
across threads: image by image, chunk of rows by chunk of rows, in that order.

What the register tile reads is first laid out for it in scratch: the masked gradient as (group of
MR channels, pixel, MR), one block of lanes of x as (pixel, NR). Read in place, rows of x that lie a
power of two apart fall on the same few cache sets (C = 512 ran at 178 GFLOP/s where this runs at
240 on one Zen 5 core), and the lanes of a block are read again for every group of channels.
"""

from numba import carray, cfunc, njit

from ..args import PACK, WGRAD
from .memory import OPTIONS, PROGRAM, ZERO, clear, floats, integers, pointer
from .register_tile import copy_lanes, wgrad_tile
from .staging import stage_row, transpose_tile
from .target import Target


@njit(**OPTIONS)
def list_rows(a, n, r, first, last, low, width, x_at, rows):
    """Address of the run of lanes of every output pixel in rows first..last, for filter row r."""
    in_place = a.R == 1 and a.S == 1
    count = 0
    for p in range(first, last):
        h = p * a.stride_h + r - a.pad_h
        for q in range(a.Q):
            w = q * a.stride_w
            if not in_place:
                rows[count] = x_at + ((h - low) * width + w) * a.C * 4
            elif 0 <= w - a.pad_w < a.W:
                rows[count] = a.x + (n * a.x_n + h * a.x_h + (w - a.pad_w) * a.x_w) * 4
            else:
                rows[count] = a.zero
            count += 1
    return count


@njit(**OPTIONS)
def add_bias_gradient(gb_at, staged, pixels, count, MR):
    """gb[k] += sum over pixels of the staged gradient; each sum starts at zero."""
    gb = floats(gb_at, count)
    for k in range(count):
        g = floats(staged + (k // MR * pixels * MR + k % MR) * 4, pixels * MR)
        total = ZERO
        for i in range(pixels):
            total += g[i * MR]
        gb[k] += total


def conv_wgrad(target: Target):
    """Tile program of args.WGRAD; tile = (tile_k channels, tile_b blocks of lanes)."""
    MR, NV, VL = target.wgrad_mr, target.wgrad_nv, target.vl
    NR = NV * VL
    one, two, full = (wgrad_tile(MR, nv, VL) for nv in (1, 2, NV))

    gated, plain, lane_copy = copy_lanes(MR, True), copy_lanes(MR), copy_lanes(VL)

    @njit(**OPTIONS)
    def stage_gradient(a, n, p0, p1, k0, k1, staged):
        """staged[group, pixel, i] = gy[pixel, k0 + group MR + i], zero where y <= 0, beyond k1."""
        pixels = (p1 - p0) * a.Q
        for group in range((k1 - k0 + MR - 1) // MR):
            first = k0 + group * MR
            count = min(MR, k1 - first)
            to = staged + group * pixels * MR * 4
            for p in range(p0, p1):
                gy = a.gy + (n * a.gy_n + p * a.gy_h + first) * 4
                y = a.mask + (n * a.m_n + p * a.m_h + first) * 4
                for _ in range(a.Q):
                    if a.mask != 0:
                        gated(to, gy, y, count)
                    else:
                        plain(to, gy, y, count)
                    to += MR * 4
                    gy += a.gy_w * 4
                    y += a.m_w * 4

    @njit(**OPTIONS)
    def stage_lanes(rows, pixels, offset, lanes, staged):
        """staged[pixel, 0:lanes] = the floats at rows[pixel] + offset, in whole vectors."""
        vectors = (lanes + VL - 1) // VL
        for i in range(pixels):
            for j in range(vectors):
                x = rows[i] + offset + j * VL * 4
                lane_copy(staged + (i * vectors + j) * VL * 4, x, 0, lanes - j * VL)

    @njit(**OPTIONS)
    def block(a, x_at, gy_at, pixels, skip, k0, k1, r, lane, lanes, all_pixels, scratch):
        """A block of lanes against every group of channels; `skip` leading pixels left out."""
        out = integers(scratch, MR)
        row_length = a.S * a.C
        for group in range((k1 - k0 + MR - 1) // MR):
            for i in range(MR):
                k = k0 + group * MR + i
                at = a.gw + ((k * a.R + r) * row_length + lane) * 4
                out[i] = at if k < k1 else scratch + 8 * MR
            g = gy_at + (group * all_pixels + skip) * MR * 4
            if lanes <= VL:
                one(x_at, VL * 4, g, MR * 4, pixels, scratch, lanes)
            elif lanes <= 2 * VL:
                two(x_at, 2 * VL * 4, g, MR * 4, pixels, scratch, lanes)
            else:
                full(x_at, NR * 4, g, MR * 4, pixels, scratch, lanes)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WGRAD)[0]
        k0 = tile // a.b_tiles * a.tile_k
        k1 = min(k0 + a.tile_k, a.K)
        row_length = a.S * a.C  # lanes of one filter row of one output channel
        row_blocks = (row_length + NR - 1) // NR
        b0 = tile % a.b_tiles * a.tile_b
        b1 = min(b0 + a.tile_b, a.R * row_blocks)
        bias = a.gb != 0 and b0 == 0
        rows = integers(scratch + a.rows, a.chunk_rows * a.Q)
        gy_at, lanes_at, x_at = scratch + a.staged_gy, scratch + a.lanes, scratch + a.staged_x
        width = max((a.Q - 1) * a.stride_w + a.S, a.pad_w + a.W)
        for b in range(b0, b1):
            r, lane = b // row_blocks, b % row_blocks * NR
            for k in range(k0, k1):
                at = a.gw + ((k * a.R + r) * row_length + lane) * 4
                clear(at, min(row_length - lane, NR))
        if bias:
            clear(a.gb + k0 * 4, k1 - k0)
        for n in range(a.N):
            p0 = 0
            while p0 < a.P:
                p1 = min(p0 + a.chunk_rows, a.P)
                all_pixels = (p1 - p0) * a.Q
                stage_gradient(a, n, p0, p1, k0, k1, gy_at)
                if bias:
                    add_bias_gradient(a.gb + k0 * 4, gy_at, all_pixels, k1 - k0, MR)
                low = max(p0 * a.stride_h - a.pad_h, 0)
                high = min((p1 - 1) * a.stride_h - a.pad_h + a.R, a.H)
                if a.R > 1 or a.S > 1:
                    for h in range(low, high):
                        x = a.x + (n * a.x_n + h * a.x_h) * 4
                        to = x_at + (h - low) * width * a.C * 4
                        stage_row(to, x, 0, a.W, a.C, a.x_w, 0, a.pad_w, width)
                row, skip, pixels = -1, 0, 0
                for b in range(b0, b1):
                    r, lane = b // row_blocks, b % row_blocks * NR
                    if r != row:
                        # Only output rows whose input row lies inside the image take part.
                        first, last = p0, p1
                        while first < last and first * a.stride_h + r - a.pad_h < 0:
                            first += 1
                        while last > first and (last - 1) * a.stride_h + r - a.pad_h >= a.H:
                            last -= 1
                        skip = (first - p0) * a.Q
                        pixels = list_rows(a, n, r, first, last, low, width, x_at, rows)
                        row = r
                    if pixels > 0:
                        lanes = min(row_length - lane, NR)
                        stage_lanes(rows, pixels, lane * 4, lanes, lanes_at)
                        block(
                            a, lanes_at, gy_at, pixels, skip, k0, k1, r, lane, lanes, all_pixels,
                            scratch,
                        )  # fmt: skip
                p0 = p1

    return program


@njit(**OPTIONS)
def pack_scalars(a, at, to_at, width, lane0, lane1, c0, c1):
    """to[c, lane] = w[lane, c] one by one, for lanes and channels of the ranges."""
    to = floats(to_at, a.C * width)
    for lane in range(lane0, lane1):
        for c in range(c0, c1):
            to[c * width + lane] = floats(at + (lane * a.w_k + c * a.w_c) * 4, 1)[0]


def pack(target: Target):
    """packed[panel, r, s, c, lane] = w[panel NR + lane, r, s, c], zero lanes beyond K.

    Tile program of args.PACK; tile = panel. The last panel is one vector wide if that holds it.
    Where lanes or channels lie side by side (dgrad's filters, or those of fprop), they go by
    vectors, the latter in blocks that are transposed in registers.
    """
    NR, VL = target.nr, target.vl
    lane_copy, transpose = copy_lanes(VL), transpose_tile(VL)

    @njit(**OPTIONS)
    def pack_rows(a, at, to, width, lanes):
        """Lanes side by side."""
        for c in range(a.C):
            for lane in range(0, width, VL):
                count = max(min(lanes - lane, VL), 0)
                lane_copy(to + (c * width + lane) * 4, at + (c * a.w_c + lane) * 4, 0, count)

    @njit(**OPTIONS)
    def pack_columns(a, at, to, width, lanes, rows_at):
        """Channels side by side."""
        rows = integers(rows_at, VL)
        blocks = a.C // VL * VL
        whole = lanes // VL * VL
        for lane in range(0, whole, VL):
            for i in range(VL):
                rows[i] = at + (lane + i) * a.w_k * 4
            for c in range(0, blocks, VL):
                transpose(rows_at, c * 4, to + (c * width + lane) * 4, width * 4)
        pack_scalars(a, at, to, width, 0, whole, blocks, a.C)
        pack_scalars(a, at, to, width, whole, lanes, 0, a.C)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        lanes = min(a.K - tile * NR, NR)
        width = VL if lanes <= VL else NR
        panel = a.packed + tile * NR * a.R * a.S * a.C * 4
        for r in range(a.R):
            for s in range(a.S):
                to = panel + (r * a.S + s) * a.C * width * 4
                at = a.w + (tile * NR * a.w_k + r * a.w_r + s * a.w_s) * 4
                if a.w_k == 1:
                    pack_rows(a, at, to, width, lanes)
                elif a.w_c == 1:
                    pack_columns(a, at, to, width, lanes, scratch)
                else:
                    pack_scalars(a, at, to, width, 0, lanes, 0, a.C)
                if a.w_k != 1 and lanes < width:
                    rest = floats(to, a.C * width)
                    for c in range(a.C):
                        for lane in range(lanes, width):
                            rest[c * width + lane] = ZERO

    return program
