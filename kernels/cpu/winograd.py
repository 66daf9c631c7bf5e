"""Winograd convolution, fprop and dgrad, as tile programs; see winograd_transform.py.

    y[n, p, q, k] = relu(bias[k] + sum over r, s, c of x[n, h, w, c] w[k, r, s, c])
    h = p + r - pad_h, w = q + s - pad_w; terms outside the map are 0

dgrad is the same over gy, masked by y > 0 as it is read, with the filter flipped and its channels
exchanged. y is `=`, or `+=` with accumulate (then without bias).

A 7x7 filter of stride 2 is one of 4x4 and stride 1 over the map's four phases, which
space_to_depth.py lays side by side as channels: records say R = S = 4, and C counts all phases.

The map is cut into tiles of four outputs along each axis that has taps: 4x4 for 3x3, 4x4 and 5x5
filters, 1x4 or 4x1 for rows and columns of 3 or 7. Tiles are counted through the images of the
batch, so that small maps fill the register tile too. A program's tile is a block of those times a
range of panels:

    V[e, t, c] = (B^T d B)[e]                          all channels, once, in scratch
    M[e, t, k] = sum over c of V[e, t, c] U[e, c, k]   a product a point and panel, register tile
    y          = A^T M A + bias                        the panel's channels of the block

Each M is a sum of chains over CHUNK channels, whatever block or panel range it falls in: a chain's
rounding, which A^T then magnifies, is most of the error. Packed filters are U[panel, e, c, lane],
lanes as those of the direct format.

Lost: M of all panels at once (leaves L2), the padded copy of the map that the spike had.
"""

from numba import carray, cfunc, njit

from ..args import PACK, WINOGRAD
from .bfloat16 import halves, widen
from .memory import MINUS_INFINITY, OPTIONS, PROGRAM, ZERO, clear, floats, integers, pointer
from .register_tile import RUN_HEADER, Emit, conv_tile, copy_lanes
from .staging import transpose_tile
from .target import Target
from .winograd_transform import AXES, MOST_POINTS, TILE, filter_tile, input_tile, output_tile

CHUNK = 32  # channels of one chain

# Scratch: addresses of a tile's inputs, masks and outputs, those of a group's products, a row for
# outputs that lie outside the map; then V at a.v and M at a.m, totals of a group and its runs.
MASKS = 8 * MOST_POINTS
OUTPUTS = 2 * MASKS
PRODUCTS = OUTPUTS + 8 * TILE * TILE
SPARE = PRODUCTS + 8 * 16


@njit(**OPTIONS, inline="always")
def tile_of(taps):
    """Outputs of a tile along an axis of a filter."""
    return TILE if taps > 1 else 1


@njit(**OPTIONS, inline="always")
def window_of(taps):
    """Inputs of those, and points."""
    return tile_of(taps) + taps - 1


@njit(**OPTIONS)
def list_window(corner, x_h, x_w, h0, w0, rows, columns, H, W, zero, taps_at):
    """Addresses of rows x columns pixels from (h0, w0) on, at `corner`; the zero row outside.

    x_h, x_w: bytes.
    """
    taps = integers(taps_at, rows * columns)
    if h0 >= 0 and w0 >= 0 and h0 + rows <= H and w0 + columns <= W:
        for i in range(rows):
            for j in range(columns):
                taps[columns * i + j] = corner + i * x_h + j * x_w
    else:
        for i in range(rows):
            for j in range(columns):
                inside = 0 <= h0 + i < H and 0 <= w0 + j < W
                taps[columns * i + j] = corner + i * x_h + j * x_w if inside else zero


@njit(**OPTIONS)
def list_inputs(a, x, x_n, x_h, x_w, size, t, taps_at):
    """Addresses of the pixels that tile t sees of the map at x; the zero row outside the image.

    size: bytes of an element.
    """
    n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
    h0 = rest // a.tiles_w * tile_of(a.R) - a.pad_h
    w0 = rest % a.tiles_w * tile_of(a.S) - a.pad_w
    x_n, x_h, x_w = x_n * size, x_h * size, x_w * size
    corner = x + n * x_n + h0 * x_h + w0 * x_w
    rows, columns = window_of(a.R), window_of(a.S)
    list_window(corner, x_h, x_w, h0, w0, rows, columns, a.H, a.W, a.zero, taps_at)


@njit(**OPTIONS)
def list_outputs(a, first, size, t, spare, out_at):
    """Addresses of the pixels of tile t in the map at `first`; `spare` outside the map."""
    rows, columns = tile_of(a.R), tile_of(a.S)
    out = integers(out_at, rows * columns)
    n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
    p0, q0 = rest // a.tiles_w * rows, rest % a.tiles_w * columns
    corner = first + (n * a.y_n + p0 * a.y_h + q0 * a.y_w) * size
    for i in range(rows):
        for j in range(columns):
            inside = p0 + i < a.P and q0 + j < a.Q
            out[columns * i + j] = corner + (i * a.y_h + j * a.y_w) * size if inside else spare


@njit(**OPTIONS)
def list_group(first, rows, row_step, m, at):
    """m addresses `row_step` bytes apart; beyond `rows` the last one again."""
    to = integers(at, m)
    for i in range(m):
        to[i] = first + min(i, rows - 1) * row_step


@njit(**OPTIONS)
def list_runs(first, rows, row_step, m, C, at):
    """Runs of CHUNK channels over m rows as `list_group` has them; returns how many."""
    count = (C + CHUNK - 1) // CHUNK
    for j in range(count):
        run = integers(at, RUN_HEADER)
        run[0], run[1], run[2] = j * CHUNK, min(CHUNK, C - j * CHUNK), min(j, 2)
        list_group(first + j * CHUNK * 4, rows, row_step, m, at + 8 * RUN_HEADER)
        at += 8 * (RUN_HEADER + m)
    return count


def transforms(make, VL: int, *emit_map):
    """f(a, ...): the transform of the record's kind of filter; a line is one of 3 or of 7."""
    kinds = (3, True), (4, True), (5, True), (3, False), (7, False)
    made = [make(VL, AXES[taps], square, *emit_map) for taps, square in kinds]
    of_3x3, of_4x4, of_5x5, of_3, of_7 = made

    @njit(**OPTIONS)
    def transform(a, *rest):
        if a.R == 3 and a.S == 3:
            of_3x3(*rest)
        elif a.R == 4:
            of_4x4(*rest)
        elif a.R == 5:
            of_5x5(*rest)
        elif a.R * a.S == 3:
            of_3(*rest)
        else:
            of_7(*rest)

    return transform


def winograd(target: Target, emit=Emit):
    """Tile program of args.WINOGRAD; tile = (block of tiles, panel range), panels innermost.

    emit: the elements of both maps. Filters, V, M and all arithmetic are float32 whatever they are.
    """
    NR, VL, SIZE = target.nr, target.vl, emit.OUT_BYTES
    # Three heights, so that 4 and 16 tiles, one image's worth of 7x7 and 14x14, leave no row idle.
    MR, MIDDLE = target.mr, target.mr // 2 + 1
    LOW = MIDDLE // 2
    wide = [conv_tile(m, target.nv, VL) for m in (MR, MIDDLE, LOW)]
    narrow = [conv_tile(m, 1, VL) for m in (MR, MIDDLE, LOW)]
    wide_full, wide_middle, wide_low = wide
    narrow_full, narrow_middle, narrow_low = narrow
    transform_input = transforms(input_tile, VL, emit)
    transform_output = transforms(output_tile, VL, emit)

    @njit(**OPTIONS)
    def products(a, count, weights, width, scratch):
        """M[e, t, :] of one panel for the block's `count` tiles."""
        points, out_at = window_of(a.R) * window_of(a.S), scratch + PRODUCTS
        totals = scratch + a.m + points * a.m_plane * 4
        runs_at = totals + MR * NR * 4
        for e in range(points):
            v, m = scratch + a.v + e * a.v_plane * 4, scratch + a.m + e * a.m_plane * 4
            u = weights + e * a.C * width * 4
            t = 0
            while t < count:
                left = count - t
                height = LOW
                if left > LOW:
                    height = MIDDLE
                if left > MIDDLE and (left <= MR or left > 2 * MIDDLE):
                    height = MR
                at = v + t * a.v_row * 4
                runs = list_runs(at, left, a.v_row * 4, height, a.C, runs_at)
                list_group(m + t * NR * 4, left, NR * 4, height, out_at)
                if width == NR:
                    if height == MR:
                        wide_full(runs_at, runs, u, a.zero, out_at, NR, MINUS_INFINITY, 0, totals)
                    elif height == MIDDLE:
                        wide_middle(runs_at, runs, u, a.zero, out_at, NR, MINUS_INFINITY, 0, totals)
                    else:
                        wide_low(runs_at, runs, u, a.zero, out_at, NR, MINUS_INFINITY, 0, totals)
                elif height == MR:
                    narrow_full(runs_at, runs, u, a.zero, out_at, VL, MINUS_INFINITY, 0, totals)
                elif height == MIDDLE:
                    narrow_middle(runs_at, runs, u, a.zero, out_at, VL, MINUS_INFINITY, 0, totals)
                else:
                    narrow_low(runs_at, runs, u, a.zero, out_at, VL, MINUS_INFINITY, 0, totals)
                t += height

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WINOGRAD)[0]
        t0 = tile // a.panel_tiles * a.block_tiles
        t1 = min(t0 + a.block_tiles, a.tile_count)
        panel0 = tile % a.panel_tiles * a.tile_panels
        panel1 = min(panel0 + a.tile_panels, (a.K + NR - 1) // NR)
        masks = scratch + MASKS if a.mask != 0 else 0
        for t in range(t0, t1):
            list_inputs(a, a.x, a.x_n, a.x_h, a.x_w, SIZE, t, scratch)
            if masks != 0:
                list_inputs(a, a.mask, a.m_n, a.m_h, a.m_w, SIZE, t, masks)
            v = scratch + a.v + (t - t0) * a.v_row * 4
            transform_input(a, scratch, masks, a.C, v, a.v_plane * 4)
        points, floor = window_of(a.R) * window_of(a.S), ZERO if a.relu != 0 else MINUS_INFINITY
        for panel in range(panel0, panel1):
            lanes = min(a.K - panel * NR, NR)
            weights = a.weights + panel * NR * points * a.C * 4
            products(a, t1 - t0, weights, VL if lanes <= VL else NR, scratch)
            bias = a.bias + panel * NR * 4 if a.bias != 0 else a.zero
            for t in range(t0, t1):
                first, out_at = a.y + panel * NR * SIZE, scratch + OUTPUTS
                list_outputs(a, first, SIZE, t, scratch + SPARE, out_at)
                m = scratch + a.m + (t - t0) * NR * 4
                transform_output(a, m, a.m_plane * 4, bias, out_at, lanes, floor, a.accumulate)

    return program


@njit(**OPTIONS, inline="always")
def tap_of(a, r, s, c):
    """(whether w has it, offset in w) of tap (r, s) and channel c of args.PACK.

    Of 4x4 taps, channel (i, j, c') is tap (2r + i, 2s + j) of a 7x7 filter (space_to_depth.py).
    """
    if a.R != 4:
        return True, r * a.w_r + s * a.w_s + c * a.w_c
    C = a.C // 4
    r, s = 2 * r + c // C // 2, 2 * s + c // C % 2
    return r < 7 and s < 7, r * a.w_r + s * a.w_s + c % C * a.w_c


def pack_winograd(target: Target, emit=Emit):
    """packed[panel, e, c, lane] = (G g G^T)[e] of w[panel NR + lane, :, :, c], zero lanes beyond K.

    Tile program of args.PACK; tile = panel. The last panel is one vector wide if that holds it.
    emit: the elements of w; packed is float32. The taps of a vector of lanes and of as many
    channels are laid out in scratch, by vectors where either lie side by side in w.
    """
    NR, VL, SIZE = target.nr, target.vl, emit.OUT_BYTES
    transform_filter = transforms(filter_tile, VL)
    lane_copy, transpose = copy_lanes(VL), transpose_tile(VL)

    @njit(**OPTIONS)
    def taps_by_one(a, first, lanes, r, s, c, count, to):
        """to[0:count, lane] = w[lane, r, s, c:c + count] of `lanes` from the address `first` on."""
        clear(to, count * VL)
        for i in range(count):
            there, offset = tap_of(a, r, s, c + i)
            for lane in range(lanes if there else 0):
                at = first + (offset + lane * a.w_k) * SIZE
                if SIZE == 2:
                    floats(to + (i * VL + lane) * 4, 1)[0] = widen(halves(at, 1)[0])
                else:
                    floats(to + (i * VL + lane) * 4, 1)[0] = floats(at, 1)[0]

    @njit(**OPTIONS)
    def stage_taps(a, first, lanes, c, count, rows_at, staged):
        """staged[tap, i, lane] of channels c + i, i < count."""
        rows, vectors = integers(rows_at, VL), SIZE == 4 and a.R != 4
        for r in range(a.R):
            for s in range(a.S):
                to = staged + (a.S * r + s) * VL * VL * 4
                at = first + (r * a.w_r + s * a.w_s + c * a.w_c) * 4
                if vectors and a.w_k == 1:
                    for i in range(count):
                        lane_copy(to + i * VL * 4, at + i * a.w_c * 4, 0, lanes)
                elif vectors and a.w_c == 1 and lanes == VL and count == VL:
                    for lane in range(VL):
                        rows[lane] = at + lane * a.w_k * 4
                    transpose(rows_at, 0, to, VL * 4)
                else:
                    taps_by_one(a, first, lanes, r, s, c, count, to)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        lanes = min(a.K - tile * NR, NR)
        width = VL if lanes <= VL else NR
        panel = a.packed + tile * NR * window_of(a.R) * window_of(a.S) * a.C * 4
        staged, plane = scratch + 8 * VL, a.C * width * 4
        for lane in range(0, width, VL):
            first, here = a.w + (tile * NR + lane) * a.w_k * SIZE, max(min(lanes - lane, VL), 0)
            for c in range(0, a.C, VL):
                count = min(VL, a.C - c)
                stage_taps(a, first, here, c, count, scratch, staged)
                for i in range(count):
                    to = panel + ((c + i) * width + lane) * 4
                    transform_filter(a, staged + i * VL * 4, VL * VL * 4, to, plane)

    return program
