"""The filter gradient by Winograd, as a tile program; see winograd.py and winograd_transform.py.

    V[e, t, c] = (B^T d B)[e]                     d: the inputs that tile t of the outputs sees
    W[e, t, k] = (A g A^T)[e]                     g: the masked gradient of its outputs
    M[e, k, c] = sum over t of W[e, t, k] V[e, t, c]
    gw[k, :, :, c] = G^T M G,      gb[k] = sum over t of W[at points 1 and 1, t, k]

The transpose of the forward's sum of products, so with its points, windows and counts of products.
gw: (K, R, S, C), of 4x4 taps (K, 7, 7, C / 4), gb: (K), both `=`. Tiles go through the images of
the batch in chunks of `chunk_tiles`, a number that the shape fixes; a chunk's sum starts at zero
and is added to M, so the bits depend on nothing else. A program's tile owns a block of output
channels and one of input channels for all tiles of the batch, and keeps M of them in scratch.
"""

from numba import carray, cfunc, njit

from ..args import WINOGRAD_WGRAD
from .memory import OPTIONS, PROGRAM, ZERO, clear, floats, integers, pointer
from .register_tile import wgrad_tile
from .target import Target
from .winograd import MASKS, OUTPUTS, list_inputs, list_window, tile_of, transforms, window_of
from .winograd_transform import filter_gradient_tile, gradient_tile, input_tile

# Scratch: addresses of a tile's inputs or gradients, and masks, then of a register tile's sums;
# then V at a.v, W at a.w and M at a.m.
SUMS = OUTPUTS


@njit(**OPTIONS)
def list_gradients(a, gy, gy_n, gy_h, gy_w, t, taps_at):
    """Addresses of tile t's outputs in the gradient (or mask) at gy; the zero row outside."""
    rows, columns = tile_of(a.R), tile_of(a.S)
    n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
    p0, q0 = rest // a.tiles_w * rows, rest % a.tiles_w * columns
    corner = gy + (n * gy_n + p0 * gy_h + q0 * gy_w) * 4
    list_window(corner, gy_h * 4, gy_w * 4, p0, q0, rows, columns, a.P, a.Q, a.zero, taps_at)


@njit(**OPTIONS)
def add_bias_gradient(gb_at, w, row, tiles, count):
    """gb[k] += sum over tiles of the gradient at points 1 and 1; each sum starts at zero."""
    gb = floats(gb_at, count)
    for k in range(count):
        g = floats(w + k * 4, tiles * row)
        total = ZERO
        for t in range(tiles):
            total += g[t * row]
        gb[k] += total


@njit(**OPTIONS, inline="always")
def point_of_ones(a):
    """Number of the point where both axes have 1; of 4x4 the first, for it has no 0."""
    if a.R == 4:
        return 0
    return (window_of(a.S) if a.R > 1 else 0) + (1 if a.S > 1 else 0)


@njit(**OPTIONS)
def put_phases(a, taps_at, k, c0, count):
    """gw[k] of a 7x7 filter from channels c0 ... of its 4x4 taps; see winograd.tap_of."""
    C = a.C // 4
    taps, gw = floats(taps_at, 16 * a.v_row), floats(a.gw + k * 49 * C * 4, 49 * C)
    for i in range(16):
        for c in range(count):
            phase = (c0 + c) // C
            r, s = 2 * (i // 4) + phase // 2, 2 * (i % 4) + phase % 2
            if r < 7 and s < 7:
                gw[(7 * r + s) * C + (c0 + c) % C] = taps[i * a.v_row + c]


def winograd_wgrad(target: Target):
    """Tile program of args.WINOGRAD_WGRAD; tile = (tile_k channels, tile_c channels)."""
    MR, NV, VL = target.wgrad_mr, target.wgrad_nv, target.vl
    NR = NV * VL
    one, two, full = (wgrad_tile(MR, nv, VL) for nv in (1, 2, NV))
    transform_input = transforms(input_tile, VL)
    transform_gradient = transforms(gradient_tile, VL)
    transform_filter = transforms(filter_gradient_tile, VL)

    @njit(**OPTIONS)
    def products(a, tiles, k_count, c_count, scratch):
        """M of the block += W V of a chunk, point by point."""
        out = integers(scratch + SUMS, MR)
        v_step, w_step = a.v_row * 4, a.w_row * 4
        for e in range(window_of(a.R) * window_of(a.S)):
            for lane in range(0, c_count, NR):
                v = scratch + a.v + (e * a.v_plane + lane) * 4
                lanes = min((c_count - lane + VL - 1) // VL * VL, NR)  # rows are whole vectors
                for k in range(0, k_count, MR):
                    m = scratch + a.m + (e * a.m_plane + k * a.v_row + lane) * 4
                    w = scratch + a.w + (e * a.w_plane + k) * 4
                    for i in range(MR):
                        out[i] = m + i * v_step
                    if lanes <= VL:
                        one(v, v_step, w, w_step, tiles, scratch + SUMS, lanes)
                    elif lanes <= 2 * VL:
                        two(v, v_step, w, w_step, tiles, scratch + SUMS, lanes)
                    else:
                        full(v, v_step, w, w_step, tiles, scratch + SUMS, lanes)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WINOGRAD_WGRAD)[0]
        k0 = tile // a.c_tiles * a.tile_k
        c0 = tile % a.c_tiles * a.tile_c
        k_count, c_count = min(a.tile_k, a.K - k0), min(a.tile_c, a.C - c0)
        bias = a.gb != 0 and c0 == 0
        points = window_of(a.R) * window_of(a.S)
        ones = point_of_ones(a)
        masks = scratch + MASKS if a.mask != 0 else 0
        clear(scratch + a.m, points * a.m_plane)
        if bias:
            clear(a.gb + k0 * 4, k_count)
        t0 = 0
        while t0 < a.tile_count:
            tiles = min(a.chunk_tiles, a.tile_count - t0)
            for t in range(tiles):
                list_inputs(a, a.x + c0 * 4, a.x_n, a.x_h, a.x_w, 4, t0 + t, scratch)
                v, w = scratch + a.v + t * a.v_row * 4, scratch + a.w + t * a.w_row * 4
                transform_input(a, scratch, 0, c_count, v, a.v_plane * 4)
                list_gradients(a, a.gy + k0 * 4, a.gy_n, a.gy_h, a.gy_w, t0 + t, scratch)
                if masks != 0:
                    list_gradients(a, a.mask + k0 * 4, a.m_n, a.m_h, a.m_w, t0 + t, masks)
                transform_gradient(a, scratch, masks, k_count, w, a.w_plane * 4)
            products(a, tiles, k_count, c_count, scratch)
            if bias:
                w = scratch + a.w + ones * a.w_plane * 4
                add_bias_gradient(a.gb + k0 * 4, w, a.w_row, tiles, k_count)
            t0 += tiles
        for k in range(k_count):
            m = scratch + a.m + k * a.v_row * 4
            if a.R == 4:
                transform_filter(a, m, a.m_plane * 4, scratch + a.v, a.v_row * 4, c_count)
                put_phases(a, scratch + a.v, k0 + k, c0, c_count)
            else:
                out = a.gw + ((k0 + k) * a.R * a.S * a.C + c0) * 4
                transform_filter(a, m, a.m_plane * 4, out, a.C * 4, c_count)

    return program
