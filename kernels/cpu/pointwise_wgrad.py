"""The filter gradients of 1x1 convolutions that read one map, as a tile program.

    gw_s[k, c] = sum over pixels p of g_s[p, k] x[p, c]
    gb_s[k]    = sum over p of g_s[p, k],       g_s = gy_s where y_s > 0, else 0

x: (N, H, W, C), gy_s and y_s: (N, H, W, K_s); gw_s: (K_s, C) and gb_s: (K_s), both `=`. Stride 1,
no padding: a product of two matrices. The siblings of a module, s, share x, which is read and laid
out once for all of them; a linear layer is one over a map of one row.

The pixels of the batch go in chunks of at most `chunk`, a number that the shape fixes, in their
order. A chunk's sum starts at zero and is added to what was before, so the bits depend on nothing
else. A program's tile owns a range of vectors of output channels and a range of blocks of lanes of
C for all pixels, and nothing is added across threads.

What the register tile reads is first laid out for it in scratch: the masked gradients as (group of
MR channels, pixel, MR), x as (block, pixel, NR). Each pixel is read once, along its channels.

Lost: gradients copied group by group, whose 32 bytes of each pixel left L1 before the next group
came for its own (a quarter of the time, with a mask that was fetched with them); x block by block.
"""

from numba import carray, cfunc, njit

from ..args import GRADIENT, POINTWISE_WGRAD
from .memory import OPTIONS, PROGRAM, clear, integers, pointer
from .register_tile import copy_lanes, wgrad_tile
from .staging import add_rows, copy_vectors, split_lanes
from .target import Target

# Scratch: addresses of a register tile's rows, one row for channels beyond K, then three lists of
# addresses of a chunk's pixels at a.lists, gradients at a.staged_gy, x at a.staged_x.
SPARE = 8 * 16


@njit(**OPTIONS)
def list_pixels(base, n_stride, h_stride, w_stride, H, W, first, count, rows_at):
    """Addresses of pixels first, first + 1, ... of a map, counted through the images."""
    rows = integers(rows_at, count)
    n, rest = first // (H * W), first % (H * W)
    h, w = rest // W, rest % W
    for i in range(count):
        rows[i] = base + (n * n_stride + h * h_stride + w * w_stride) * 4
        w += 1
        if w == W:
            w, h = 0, h + 1
            if h == H:
                h, n = 0, n + 1


def pointwise_wgrad(target: Target):
    """Tile program of args.POINTWISE_WGRAD; tile = (vectors of channels, blocks of lanes)."""
    MR, NV, VL = target.wgrad_mr, target.wgrad_nv, target.vl
    NR = NV * VL
    assert VL == 2 * MR  # a vector of channels is two groups
    tiles = [[wgrad_tile(MR, nv, VL, fresh) for nv in (1, 2, NV)] for fresh in (False, True)]
    (add_one, add_two, add_full), (put_one, put_two, put_full) = tiles
    gated, gated_part = (split_lanes(VL, True, whole) for whole in (True, False))
    plain, plain_part = (split_lanes(VL, False, whole) for whole in (True, False))
    copy_block, copy_part, sum_rows = copy_vectors(VL, NV), copy_lanes(VL), add_rows(MR)

    @njit(**OPTIONS)
    def stage_gradient(source, first, last, gy_rows, mask_rows, count, staged):
        """Vectors first..last of one gradient: staged[group, pixel, i], zero where y <= 0."""
        group = count * MR * 4
        for p in range(count):
            to = staged + p * MR * 4
            for v in range(first, last):
                gy, left = gy_rows[p] + v * VL * 4, source.K - v * VL
                y = gy if source.mask == 0 else mask_rows[p] + v * VL * 4
                if source.mask != 0:
                    if left >= VL:
                        gated(to, to + group, gy, y, VL)
                    else:
                        gated_part(to, to + group, gy, y, left)
                elif left >= VL:
                    plain(to, to + group, gy, y, VL)
                else:
                    plain_part(to, to + group, gy, y, left)
                to += 2 * group

    @njit(**OPTIONS)
    def stage_lanes(rows, count, offset, lanes, staged):
        """Block by block, staged[pixel] = the floats at rows[pixel] + offset, in whole vectors."""
        for p in range(count):
            x, to, left = rows[p] + offset, staged, lanes
            while left >= NR:
                copy_block(to + p * NR * 4, x)
                x, to, left = x + NR * 4, to + count * NR * 4, left - NR
            width = (left + VL - 1) // VL * VL
            for at in range(0, width, VL):
                copy_part(to + (p * width + at) * 4, x + at * 4, 0, min(left - at, VL))

    @njit(**OPTIONS)
    def multiply(x, g, count, out, lanes, fresh):
        """One group of channels by one block of lanes, of any width."""
        step = MR * 4
        if lanes <= VL:
            if fresh:
                put_one(x, VL * 4, g, step, count, out, lanes)
            else:
                add_one(x, VL * 4, g, step, count, out, lanes)
        elif lanes <= 2 * VL:
            if fresh:
                put_two(x, 2 * VL * 4, g, step, count, out, lanes)
            else:
                add_two(x, 2 * VL * 4, g, step, count, out, lanes)
        elif fresh:
            put_full(x, NR * 4, g, step, count, out, lanes)
        else:
            add_full(x, NR * 4, g, step, count, out, lanes)

    @njit(**OPTIONS)
    def products(a, source, first, last, lane0, lane1, gy_at, x_at, count, fresh, scratch):
        """Vectors first..last of one gradient by every block of lanes, and its bias gradient."""
        out, group = integers(scratch, MR), count * MR * 4
        for lane in range(lane0, lane1, NR):
            x = x_at + (lane - lane0) * count * 4
            for k in range(first * VL, min(last * VL, source.K), MR):
                for i in range(MR):
                    at = source.gw + ((k + i) * a.C + lane) * 4
                    out[i] = at if k + i < source.K else scratch + SPARE
                g = gy_at + (k // MR - first * 2) * group
                multiply(x, g, count, scratch, min(lane1 - lane, NR), fresh)
        if source.gb != 0 and lane0 == 0:
            for k in range(first * VL, min(last * VL, source.K), MR):
                g, lanes = gy_at + (k // MR - first * 2) * group, min(source.K - k, MR)
                if fresh:
                    clear(source.gb + k * 4, lanes)
                sum_rows(g, MR * 4, count, source.gb + k * 4, lanes)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POINTWISE_WGRAD)[0]
        gradients = carray(pointer(a.gradients), (a.gradient_count,), GRADIENT)
        vector0 = tile // a.lane_tiles * a.tile_vectors
        lane0 = tile % a.lane_tiles * a.tile_lanes
        lane1 = min(lane0 + a.tile_lanes, a.C)
        total = a.N * a.H * a.W
        x_list = scratch + a.lists
        gy_list = x_list + 8 * a.chunk
        mask_list = gy_list + 8 * a.chunk
        x_rows, gy_rows = integers(x_list, a.chunk), integers(gy_list, a.chunk)
        mask_rows = integers(mask_list, a.chunk)
        i = 0
        while i < total or i == 0:
            count = min(a.chunk, total - i)
            if count > 0:
                list_pixels(a.x, a.x_n, a.x_h, a.x_w, a.H, a.W, i, count, x_list)
                stage_lanes(x_rows, count, lane0 * 4, lane1 - lane0, scratch + a.staged_x)
            for s in range(a.gradient_count):
                g = gradients[s]
                first = max(vector0 - g.first, 0)
                last = min(vector0 + a.tile_vectors - g.first, (g.K + VL - 1) // VL)
                if first >= last:
                    continue
                if count <= 0:  # no pixels, no sum
                    for k in range(first * VL, min(last * VL, g.K)):
                        clear(g.gw + (k * a.C + lane0) * 4, lane1 - lane0)
                        if g.gb != 0 and lane0 == 0:
                            clear(g.gb + k * 4, 1)
                    continue
                list_pixels(g.gy, g.gy_n, g.gy_h, g.gy_w, a.H, a.W, i, count, gy_list)
                list_pixels(g.mask, g.m_n, g.m_h, g.m_w, a.H, a.W, i, count, mask_list)
                gy_at = scratch + a.staged_gy
                stage_gradient(g, first, last, gy_rows, mask_rows, count, gy_at)
                products(
                    a, g, first, last, lane0, lane1, gy_at, scratch + a.staged_x, count, i == 0,
                    scratch,
                )  # fmt: skip
            i += max(count, 1)

    return program
