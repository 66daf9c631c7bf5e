"""Winograd convolution F(4x4, 3x3), fprop and dgrad, as tile programs; see winograd_transform.py.

    y[n, p, q, k] = relu(bias[k] + sum over r, s, c of x[n, h, w, c] w[k, r, s, c])
    h = p + r - pad_h, w = q + s - pad_w; terms outside the map are 0

dgrad is the same over gy, masked by y > 0 as it is read, with the filter flipped and its channels
exchanged. y is `=`, or `+=` with accumulate (then without bias).

The map is cut into 4x4 output tiles, counted through the images of the batch, so that small maps
fill the register tile too. A program's tile is a block of those times a range of panels:

    V[e, t, c] = (B^T d B)[e]                          all channels, once, in scratch
    M[e, t, k] = sum over c of V[e, t, c] U[e, c, k]   36 products a panel, on the register tile
    y          = A^T M A + bias                        the panel's channels of the block

Each M is one chain over c, whatever block or panel range it falls in. Packed filters are
U[panel, e, c, lane], lanes as those of the direct format, so four times its size.

Lost: M of all panels at once (leaves L2), the padded copy of the map that the spike had.
"""

from numba import carray, cfunc, njit

from ..args import PACK, WINOGRAD
from .memory import MINUS_INFINITY, OPTIONS, PROGRAM, ZERO, floats, fma, integers, pointer
from .register_tile import RUN_HEADER, conv_tile
from .target import Target
from .winograd_transform import (
    DIVIDE,
    POINTS,
    TAPS,
    TILE,
    WINDOW,
    filter_tile,
    input_tile,
    make_lines,
    output_tile,
)

# Scratch: addresses of a tile's inputs, masks and outputs, lists of a group, a row for outputs that
# lie outside the map; then V at a.v and M at a.m.
MASKS = 8 * POINTS
OUTPUTS = 2 * MASKS
ROWS = OUTPUTS + 8 * TILE * TILE
PRODUCTS = ROWS + 8 * (16 + RUN_HEADER)
SPARE = PRODUCTS + 8 * 16


@njit(**OPTIONS)
def list_inputs(a, x, x_n, x_h, x_w, t, taps_at):
    """Addresses of the 6x6 pixels of tile t in the map at x; the zero row outside the image."""
    taps = integers(taps_at, POINTS)
    n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
    h0 = rest // a.tiles_w * TILE - a.pad_h
    w0 = rest % a.tiles_w * TILE - a.pad_w
    corner = x + (n * x_n + h0 * x_h + w0 * x_w) * 4
    if h0 >= 0 and w0 >= 0 and h0 + WINDOW <= a.H and w0 + WINDOW <= a.W:
        for i in range(WINDOW):
            for j in range(WINDOW):
                taps[WINDOW * i + j] = corner + (i * x_h + j * x_w) * 4
    else:
        for i in range(WINDOW):
            for j in range(WINDOW):
                inside = 0 <= h0 + i < a.H and 0 <= w0 + j < a.W
                taps[WINDOW * i + j] = corner + (i * x_h + j * x_w) * 4 if inside else a.zero


@njit(**OPTIONS)
def list_outputs(a, first, t, spare, out_at):
    """Addresses of the 4x4 pixels of tile t in the map at `first`; `spare` outside the map."""
    out = integers(out_at, TILE * TILE)
    n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
    p0, q0 = rest // a.tiles_w * TILE, rest % a.tiles_w * TILE
    corner = first + (n * a.y_n + p0 * a.y_h + q0 * a.y_w) * 4
    for i in range(TILE):
        for j in range(TILE):
            inside = p0 + i < a.P and q0 + j < a.Q
            out[TILE * i + j] = corner + (i * a.y_h + j * a.y_w) * 4 if inside else spare


@njit(**OPTIONS)
def list_group(first, rows, row_step, m, at):
    """m addresses `row_step` bytes apart; beyond `rows` the last one again."""
    to = integers(at, m)
    for i in range(m):
        to[i] = first + min(i, rows - 1) * row_step


def winograd(target: Target):
    """Tile program of args.WINOGRAD; tile = (block of 4x4 tiles, panel range), panels innermost."""
    NR, VL = target.nr, target.vl
    # Three heights, so that 4 and 16 tiles, one image's worth of 7x7 and 14x14, leave no row idle.
    MR, MIDDLE = target.mr, target.mr // 2 + 1
    LOW = MIDDLE // 2
    wide = [conv_tile(m, target.nv, VL) for m in (MR, MIDDLE, LOW)]
    narrow = [conv_tile(m, 1, VL) for m in (MR, MIDDLE, LOW)]
    wide_full, wide_middle, wide_low = wide
    narrow_full, narrow_middle, narrow_low = narrow
    transform_input, transform_output = input_tile(VL), output_tile(VL)

    @njit(**OPTIONS)
    def products(a, count, weights, width, scratch):
        """M[e, t, :] of one panel for the block's `count` tiles."""
        rows_at, out_at = scratch + ROWS, scratch + PRODUCTS
        run = integers(rows_at, RUN_HEADER)
        run[0], run[1], run[2] = 0, a.C, 0  # one chain: the transforms' error is the larger
        for e in range(POINTS):
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
                list_group(v + t * a.v_row * 4, left, a.v_row * 4, height, rows_at + 8 * RUN_HEADER)
                list_group(m + t * NR * 4, left, NR * 4, height, out_at)
                if width == NR:
                    if height == MR:
                        wide_full(rows_at, 1, u, a.zero, out_at, NR, MINUS_INFINITY, 0, 0)
                    elif height == MIDDLE:
                        wide_middle(rows_at, 1, u, a.zero, out_at, NR, MINUS_INFINITY, 0, 0)
                    else:
                        wide_low(rows_at, 1, u, a.zero, out_at, NR, MINUS_INFINITY, 0, 0)
                elif height == MR:
                    narrow_full(rows_at, 1, u, a.zero, out_at, VL, MINUS_INFINITY, 0, 0)
                elif height == MIDDLE:
                    narrow_middle(rows_at, 1, u, a.zero, out_at, VL, MINUS_INFINITY, 0, 0)
                else:
                    narrow_low(rows_at, 1, u, a.zero, out_at, VL, MINUS_INFINITY, 0, 0)
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
            list_inputs(a, a.x, a.x_n, a.x_h, a.x_w, t, scratch)
            if masks != 0:
                list_inputs(a, a.mask, a.m_n, a.m_h, a.m_w, t, masks)
            v = scratch + a.v + (t - t0) * a.v_row * 4
            transform_input(scratch, masks, a.C, v, a.v_plane * 4)
        floor = ZERO if a.relu != 0 else MINUS_INFINITY
        for panel in range(panel0, panel1):
            lanes = min(a.K - panel * NR, NR)
            weights = a.weights + panel * NR * POINTS * a.C * 4
            products(a, t1 - t0, weights, VL if lanes <= VL else NR, scratch)
            bias = a.bias + panel * NR * 4 if a.bias != 0 else a.zero
            for t in range(t0, t1):
                first, out_at = a.y + panel * NR * 4, scratch + OUTPUTS
                list_outputs(a, first, t, scratch + SPARE, out_at)
                m = scratch + a.m + (t - t0) * NR * 4
                transform_output(m, a.m_plane * 4, bias, out_at, lanes, floor, a.accumulate)

    return program


def pack_winograd(target: Target):
    """packed[panel, e, c, lane] = (G g G^T)[e] of w[panel NR + lane, :, :, c], zero lanes beyond K.

    Tile program of args.PACK; tile = panel. The last panel is one vector wide if that holds it.
    """
    NR, VL = target.nr, target.vl
    transform = filter_tile(VL)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        lanes = min(a.K - tile * NR, NR)
        width = VL if lanes <= VL else NR
        panel = a.packed + tile * NR * POINTS * a.C * 4
        taps = floats(scratch, TAPS * TAPS * width)  # of one channel, lanes innermost
        for i in range(TAPS * TAPS * width):
            taps[i] = ZERO
        for c in range(a.C):
            for r in range(TAPS):
                for s in range(TAPS):
                    at = a.w + (tile * NR * a.w_k + r * a.w_r + s * a.w_s + c * a.w_c) * 4
                    for lane in range(lanes):
                        tap = (TAPS * r + s) * width + lane
                        taps[tap] = floats(at + lane * a.w_k * 4, 1)[0]
            for lane in range(0, width, VL):
                to = panel + (c * width + lane) * 4
                transform(scratch + lane * 4, width * 4, to, a.C * width * 4)

    return program


# The plain twins: one output tile and one channel at a time, the same lines on scalars.

LINES = make_lines(fma)
input_line, output_line = njit(**OPTIONS)(LINES.input), njit(**OPTIONS)(LINES.output)
filter_line = njit(**OPTIONS)(LINES.filter)


@njit(**OPTIONS)
def input_lines(x, out, step, lines):
    """B^T along the 6 lines of a 6x6 square: `step` within a line, `lines` to the next one."""
    for i in range(0, WINDOW * lines, lines):
        x0, x1, x2 = x[i], x[i + step], x[i + 2 * step]
        x3, x4, x5 = x[i + 3 * step], x[i + 4 * step], x[i + 5 * step]
        y0, y1, y2, y3, y4, y5 = input_line(x0, x1, x2, x3, x4, x5)
        out[i], out[i + step], out[i + 2 * step] = y0, y1, y2
        out[i + 3 * step], out[i + 4 * step], out[i + 5 * step] = y3, y4, y5


@njit(**OPTIONS)
def output_lines(m, step, lines, count):
    """A^T along `count` lines of a 6x6 square, in place: 6 values in, 4 out."""
    for i in range(0, count * lines, lines):
        m0, m1, m2 = m[i], m[i + step], m[i + 2 * step]
        m3, m4, m5 = m[i + 3 * step], m[i + 4 * step], m[i + 5 * step]
        y0, y1, y2, y3 = output_line(m0, m1, m2, m3, m4, m5)
        m[i], m[i + step], m[i + 2 * step], m[i + 3 * step] = y0, y1, y2, y3


def winograd_plain(target: Target):
    """The same record, tiles and bits as `winograd`."""
    NR, VL = target.nr, target.vl

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), WINOGRAD)[0]
        t0 = tile // a.panel_tiles * a.block_tiles
        t1 = min(t0 + a.block_tiles, a.tile_count)
        k0 = tile % a.panel_tiles * a.tile_panels * NR
        k1 = min(k0 + a.tile_panels * NR, a.K)
        d, m = floats(scratch, POINTS), floats(scratch + MASKS, POINTS)
        for t in range(t0, t1):
            n, rest = t // (a.tiles_h * a.tiles_w), t % (a.tiles_h * a.tiles_w)
            p0, q0 = rest // a.tiles_w * TILE, rest % a.tiles_w * TILE

            for c in range(a.C):
                v = floats(scratch + a.v + c * POINTS * 4, POINTS)  # V[t, c, e], of this tile only
                for i in range(WINDOW):
                    for j in range(WINDOW):
                        h, w = p0 + i - a.pad_h, q0 + j - a.pad_w
                        value = ZERO
                        if 0 <= h < a.H and 0 <= w < a.W:
                            at = a.x + (n * a.x_n + h * a.x_h + w * a.x_w + c) * 4
                            value = floats(at, 1)[0]
                            if a.mask != 0:
                                at = a.mask + (n * a.m_n + h * a.m_h + w * a.m_w + c) * 4
                                value = value if floats(at, 1)[0] > ZERO else ZERO
                        d[WINDOW * i + j] = value
                input_lines(d, v, WINDOW, 1)
                input_lines(v, v, 1, WINDOW)

            for k in range(k0, k1):
                panel, lane = k // NR, k % NR
                width = VL if a.K - panel * NR <= VL else NR
                weights = a.weights + panel * NR * POINTS * a.C * 4
                for e in range(POINTS):
                    total = ZERO
                    for c in range(a.C):
                        v = floats(scratch + a.v + c * POINTS * 4, POINTS)
                        u = floats(weights + ((e * a.C + c) * width + lane) * 4, 1)[0]
                        total = fma(v[e], u, total)
                    m[e] = total
                output_lines(m, WINDOW, 1, WINDOW)
                output_lines(m, 1, WINDOW, TILE)
                for i in range(TILE):
                    for j in range(TILE):
                        if p0 + i < a.P and q0 + j < a.Q:
                            at = a.y + (n * a.y_n + (p0 + i) * a.y_h + (q0 + j) * a.y_w + k) * 4
                            y = floats(at, 1)
                            start = ZERO
                            if a.accumulate != 0:
                                start = y[0]
                            elif a.bias != 0:
                                start = floats(a.bias + k * 4, 1)[0]
                            value = m[WINDOW * i + j] + start
                            y[0] = ZERO if a.relu != 0 and value <= ZERO else value

    return program


def pack_winograd_plain(target: Target):
    """The same record, tiles and bits as `pack_winograd`."""
    NR, VL = target.nr, target.vl

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), PACK)[0]
        lanes = min(a.K - tile * NR, NR)
        width = VL if lanes <= VL else NR
        half = floats(scratch, WINDOW * TAPS)
        for c in range(a.C):
            for lane in range(width):
                k = tile * NR + lane
                to = a.packed + (tile * NR * POINTS * a.C + c * width + lane) * 4
                for s in range(TAPS):
                    w0 = w1 = w2 = ZERO
                    if lane < lanes:
                        at = a.w + (k * a.w_k + s * a.w_s + c * a.w_c) * 4
                        w0 = floats(at, 1)[0]
                        w1 = floats(at + a.w_r * 4, 1)[0]
                        w2 = floats(at + 2 * a.w_r * 4, 1)[0]
                    half[s], half[3 + s], half[6 + s], half[9 + s], half[12 + s], half[15 + s] = (
                        filter_line(w0, w1, w2)
                    )
                for i in range(WINDOW):
                    line = filter_line(half[3 * i], half[3 * i + 1], half[3 * i + 2])
                    for j, value in enumerate(line):
                        e = WINDOW * i + j
                        u = floats(to + e * a.C * width * 4, 1)
                        u[0] = value / DIVIDE[e]

    return program
