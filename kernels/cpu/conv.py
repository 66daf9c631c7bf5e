"""Direct convolution, fprop and dgrad, fused and not, as tile programs.

    y[n, p, q, k] = relu(bias[k] + sum over sources, r, s, c of x[n, h, w, c] weights[r, s, c, k])
    h = (p stride_h + r - pad_h) / dilation_h, w likewise; terms outside the map or off the grid: 0

One program serves four uses, told apart by its record (args.CONV): a convolution; its dgrad (a
convolution of the spread, masked gradient with flipped filters); sibling 1x1s (panels that write
to different maps); the stacked-K gx of a module (several sources). `reduce_conv` computes its
source on the way: the 1x1 of the rows it needs lands in scratch and never leaves the cache.

y is `=`, or `+=` with accumulate. A tile is a range of output pixels of one image and a range of
panels. Its pixels go in groups of MR; the last group repeats its last pixel, which stores the same
value twice. Taps that no pixel of the group can see are skipped.

Maps of bfloat16 are maps of pairs of channels (bfloat16.py): an element of x, y's strides and the
weights has four bytes there too, and only the register tile knows (bfloat16_tile.py).

Staged rows carry zero columns at both sides, so the S taps of a filter row are one run of S C
floats: a 5x5 over 16 channels has 5 long taps and not 25 short ones. The order of each sum is that
of sums.py, whatever the tile, the level or the staging.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import CONV, PANEL, SOURCE, SUM_CHUNK
from .memory import MINUS_INFINITY, OPTIONS, PROGRAM, ZERO, floats, integers, pointer
from .register_tile import RUN_HEADER, Emit, conv_tile
from .staging import stage_row
from .sums import sum_chunk
from .target import Target

# Scratch: pixel coordinates and output addresses first, totals, then the lists of the sources.
COORDINATES = 16  # int64 slots of each small list; no register tile has more pixels


@njit(**OPTIONS)
def map_width(src, Q):
    """Pixels of a staged row: pad_w zeros, the row, zeros up to the last tap of the last pixel."""
    return max((Q - 1) * src.stride_w + src.S, src.pad_w + src.W)


@njit(**OPTIONS)
def staged_rows(src, p0, p1):
    """Rows of the source [low, high) that output rows p0..p1 see, dilation 1 or more."""
    low = (p0 * src.stride_h - src.pad_h) // src.dilation_h
    high = (p1 * src.stride_h - src.pad_h + src.R - 1) // src.dilation_h + 1
    return max(low, 0), min(high, src.H)


@njit(**OPTIONS)
def clear_borders(staged, rows, width, left, W, C):
    """Zero the columns of a staged map that lie outside the image."""
    for h in range(rows):
        row = floats(staged + h * width * C * 4, width * C)
        for i in range(left * C):
            row[i] = ZERO
        for i in range((left + W) * C, width * C):
            row[i] = ZERO


@njit(**OPTIONS)
def stage_copy(src, n, low, high, staged, width):
    """staged[h - low, pad_w + w, :] = x[n, h, w, :], zero where the mask is not positive."""
    left = src.pad_w if src.merged != 0 else 0
    for h in range(low, high):
        y = src.mask
        if y != 0:
            y += (n * src.m_n + h * src.m_h) * 4
        x = src.x + (n * src.x_n + h * src.x_h) * 4
        to = staged + (h - low) * width * src.C * 4
        stage_row(to, x, y, src.W, src.C, src.x_w, src.m_w, left, width)


@njit(**OPTIONS)
def list_row(src, base, origin, row_step, pixel_step, zero, p, q, r, s, offset, rows):
    """rows[i] = address of tap (r, s) of pixel i plus `offset` bytes, or `zero` where it sees none.

    All COORDINATES of them, however many the register tile has: two vectors and no remainder.
    Returns whether any pixel sees the tap.
    """
    top, left = r - src.pad_h, s if src.merged != 0 else s - src.pad_w
    width = np.int64(1 << 62) if src.merged != 0 else src.W
    seen = np.int64(0)
    if src.dilation_h <= 1 and src.dilation_w <= 1:
        # Straight code, which the compiler turns into vectors: a short filter is listed as often
        # as it is multiplied.
        base += offset - origin * row_step
        for i in range(COORDINATES):
            h, w = p[i] * src.stride_h + top, q[i] * src.stride_w + left
            inside = np.int64(0 <= h) & np.int64(h < src.H) & np.int64(0 <= w) & np.int64(w < width)
            address = base + h * row_step + w * pixel_step
            rows[i] = address if inside != 0 else zero
            seen |= inside
        return seen != 0
    for i in range(COORDINATES):
        h, w = p[i] * src.stride_h + top, q[i] * src.stride_w + left
        on_grid = h % src.dilation_h == 0 and (src.merged != 0 or w % src.dilation_w == 0)
        h = h // src.dilation_h
        w = w if src.merged != 0 else w // src.dilation_w
        inside = np.int64(on_grid and 0 <= h < src.H and 0 <= w < width)
        address = base + (h - origin) * row_step + w * pixel_step + offset
        rows[i] = address if inside != 0 else zero
        seen |= inside
    return seen != 0


@njit(**OPTIONS)
def list_runs(src, base, origin, row_step, pixel_step, zero, p, q, m, runs_at):
    """Write the entries of one group for the register tile: a run is a piece of a tap and a chunk.

    base: address of row `origin`, column 0 of the map. In a merged map the S taps of a row are one
    tap of S C channels. Taps that no pixel sees are left out. Returns the number of runs.
    """
    count, nth, last, row = 0, 0, 0, src.S * src.C
    tap = row if src.merged != 0 else src.C
    for r in range(src.R):
        f = 0
        while f < row:
            chunk, end = sum_chunk(r, f, row)
            s = f // tap
            end = min(end, (s + 1) * tap)
            # Addresses beyond the tile's last pixel are overwritten by the next entry.
            run = integers(runs_at + 8 * count * (m + RUN_HEADER), RUN_HEADER)
            rows = integers(runs_at + 8 * (count * (m + RUN_HEADER) + RUN_HEADER), COORDINATES)
            offset = (f - s * tap) * 4
            if list_row(src, base, origin, row_step, pixel_step, zero, p, q, r, s, offset, rows):
                run[0], run[1] = r * row + f, end - f
                begins = chunk != last and count > 0
                nth = min(nth + 1, 2) if begins else nth
                run[2] = nth if begins else 0
                last = chunk
                count += 1
            f = end
    return count


@njit(**OPTIONS)
def list_pixels(i0, i1, m, Q, phase_w, p, q):
    """Coordinates of pixels i0, i0+1, ...; beyond i1 the last one again.

    With phase_w = d > 1 a row is walked residue by residue (0, d, 2d, ..., 1, d+1, ...), so that
    the pixels of a group share the taps that a spread map leaves them.
    """
    if phase_w <= 1:
        row, column = i0 // Q, i0 % Q
        for i in range(m):
            p[i], q[i] = row, column
            if i0 + i + 1 < i1:
                column += 1
                if column == Q:
                    row, column = row + 1, 0
        return
    for i in range(m):
        index = min(i0 + i, i1 - 1)
        p[i], u = index // Q, index % Q
        first = 0
        while u >= (Q - first + phase_w - 1) // phase_w:
            u -= (Q - first + phase_w - 1) // phase_w
            first += 1
        q[i] = first + u * phase_w


def conv_groups(target: Target, emit: type[Emit]):
    """The loop over groups, panels and sources, for one CPU level and kind of operands."""
    MR, HALF, NV, VL, NR = emit.pixels(target), target.half, target.nv, target.vl, target.nr
    full_wide, full_narrow = conv_tile(MR, NV, VL, emit), conv_tile(MR, 1, VL, emit)
    half_wide, half_narrow = conv_tile(HALF, NV, VL, emit), conv_tile(HALF, 1, VL, emit)

    @njit(**OPTIONS)
    def list_length(src):
        """int64 slots of a source's list at its longest: a chunk may begin inside any tap."""
        chunks = (src.S * src.C + SUM_CHUNK - 1) // SUM_CHUNK
        return src.R * (src.S + chunks) * (MR + RUN_HEADER)

    @njit(**OPTIONS)
    def groups(a, n, i0, i1, panel0, panel1, bases, y_base, y_origin, scratch):
        """Output pixels i0..i1 of image n, panels panel0..panel1.

        bases: per source 4 integers (address of row `origin`, origin, row bytes, pixel bytes).
        y_base, y_origin: where a computed map starts; 0 for the caller's own output.
        """
        sources = carray(pointer(a.sources), (a.source_count,), SOURCE)
        panels = carray(pointer(a.panels), (a.panel_count,), PANEL)
        weights = integers(a.weights, a.source_count * a.panel_count)
        p, q = integers(scratch, COORDINATES), integers(scratch + 8 * COORDINATES, COORDINATES)
        out_at = scratch + 16 * COORDINATES
        out = integers(out_at, COORDINATES)
        runs = integers(scratch + 24 * COORDINATES, COORDINATES)
        totals = scratch + 32 * COORDINATES + 8 * 4 * COORDINATES
        lists_at = totals + 4 * COORDINATES * NR
        # Pixels a multiple of 4 KiB apart share one set of L1, whose eight ways hold half a tile.
        crowded = sources[0].S == 1 and bases[3] % 4096 == 0
        i = i0
        while i < i1:
            m = MR if i1 - i > HALF and not crowded else HALF
            list_pixels(i, min(i + m, i1), COORDINATES, a.Q, a.phase_w, p, q)
            at = lists_at
            for k in range(a.source_count):
                src = sources[k]
                runs[k] = list_runs(
                    src, bases[4 * k], bases[4 * k + 1], bases[4 * k + 2], bases[4 * k + 3],
                    a.zero, p, q, m, at,
                )  # fmt: skip
                at += list_length(src) * 8
            for j in range(panel0, panel1):
                panel = panels[j]
                start = y_base + panel.y + n * panel.y_n * 4
                for g in range(m):
                    out[g] = start + ((p[g] - y_origin) * panel.y_h + q[g] * panel.y_w) * 4
                bias = panel.bias if panel.bias != 0 else a.zero
                narrow = panel.lanes <= VL
                at = lists_at
                for k in range(a.source_count):
                    last = k == a.source_count - 1
                    floor = ZERO if a.relu != 0 and last else MINUS_INFINITY
                    add = np.int64(1 if k > 0 or a.accumulate != 0 else 0)
                    w, n_runs, lanes = weights[k * a.panel_count + j], runs[k], panel.lanes
                    if m == MR:
                        if narrow:
                            full_narrow(at, n_runs, w, bias, out_at, lanes, floor, add, totals)
                        else:
                            full_wide(at, n_runs, w, bias, out_at, lanes, floor, add, totals)
                    else:
                        if narrow:
                            half_narrow(at, n_runs, w, bias, out_at, lanes, floor, add, totals)
                        else:
                            half_wide(at, n_runs, w, bias, out_at, lanes, floor, add, totals)
                    at += list_length(sources[k]) * 8
            i += m

    return groups


def conv(target: Target, emit: type[Emit] = Emit):
    """Tile program of args.CONV; tile = (image, pixel tile, panel tile), panels innermost."""
    groups = conv_groups(target, emit)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), CONV)[0]
        rest, panel_tile = tile // a.panel_tiles, tile % a.panel_tiles
        n, pixel_tile = rest // a.pixel_tiles, rest % a.pixel_tiles
        i0 = pixel_tile * a.tile_pixels
        i1 = min(i0 + a.tile_pixels, a.P * a.Q)
        panel0 = panel_tile * a.tile_panels
        panel1 = min(panel0 + a.tile_panels, a.panel_count)
        bases = integers(scratch + 32 * COORDINATES, 4 * COORDINATES)
        sources = carray(pointer(a.sources), (a.source_count,), SOURCE)
        staged = scratch + a.lists
        for k in range(a.source_count):
            src = sources[k]
            bases[4 * k] = src.x + n * src.x_n * 4
            bases[4 * k + 1] = 0
            bases[4 * k + 2], bases[4 * k + 3] = src.x_h * 4, src.x_w * 4
            if src.staged != 0:
                low, high = staged_rows(src, i0 // a.Q, (i1 - 1) // a.Q)
                width = map_width(src, a.Q) if src.merged != 0 else src.W
                stage_copy(src, n, low, high, staged, width)
                bases[4 * k], bases[4 * k + 1] = staged, low
                bases[4 * k + 2], bases[4 * k + 3] = width * src.C * 4, src.C * 4
                staged += (high - low) * width * src.C * 4
        groups(a, n, i0, i1, panel0, panel1, bases, 0, 0, scratch)

    return program


def reduce_conv(target: Target, emit: type[Emit] = Emit):
    """Tile program of args.CONV whose one source is the ReLU of a 1x1, computed tile by tile.

    The rows of the reduced map that a tile needs, clipped to the image, are computed into scratch;
    rows and columns outside the image are zero, not relu(bias).
    """
    groups = conv_groups(target, emit)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), CONV)[0]
        first = carray(pointer(a.reduce), (1,), CONV)[0]
        rest, panel_tile = tile // a.panel_tiles, tile % a.panel_tiles
        n, pixel_tile = rest // a.pixel_tiles, rest % a.pixel_tiles
        i0 = pixel_tile * a.tile_pixels
        i1 = min(i0 + a.tile_pixels, a.P * a.Q)
        panel0 = panel_tile * a.tile_panels
        panel1 = min(panel0 + a.tile_panels, a.panel_count)
        x = carray(pointer(first.sources), (1,), SOURCE)[0]
        src = carray(pointer(a.sources), (1,), SOURCE)[0]
        bases = integers(scratch + 32 * COORDINATES, 4 * COORDINATES)

        low, high = staged_rows(src, i0 // a.Q, (i1 - 1) // a.Q)
        staged, width = scratch + a.lists, map_width(src, a.Q)
        clear_borders(staged, high - low, width, src.pad_w, src.W, src.C)
        bases[0], bases[1] = x.x + n * x.x_n * 4, 0
        bases[2], bases[3] = x.x_h * 4, x.x_w * 4
        inside = staged + src.pad_w * src.C * 4
        groups(
            first, 0, low * src.W, high * src.W, 0, first.panel_count, bases, inside, low, scratch
        )
        bases[0], bases[1] = staged, low
        bases[2], bases[3] = width * src.C * 4, src.C * 4
        groups(a, n, i0, i1, panel0, panel1, bases, 0, 0, scratch)

    return program
