"""Depthwise convolution, forward and backward, as tile programs.

    y[n, p, q, k]  = relu(b[k] + sum over r, s of w[k, r, s] x[n, p sh - ph + r, q sw - pw + s, c])
    gx[n, h, w, c] (+)= sum over p, q and the k of c of g[n, p, q, k] w[k, r, s]

c = k // M with M = K / C, the channel multiplier; g = gy where y > 0 (a mask of 0: everywhere).
Records are args.DEPTHWISE: x is the map of H W (or its gradient), y that of P Q.

Each channel is by itself, so lanes are channels, and a panel is NR of them (with M > 1 the M
filters of one c, whose x is broadcast). Weights are packed as a convolution's with one input
channel: [panel][tap][lane]. Taps outside the image are left out of the sum: at the borders of a row
a pixel has a list of its own, between them PIXELS pixels share one; 3x3 of stride 1 needs no list
(`depthwise_stencil`). Backward to x is a gather like that of pooling, one phase of the stride at a
time, with M = 1; M > 1 is the plain twin's. The filter gradient stands in `depthwise_wgrad`.
"""

from numba import carray, cfunc, njit

from ..args import DEPTHWISE
from .depthwise_stencil import is_stencil, stencil_rows
from .depthwise_tile import ENTRY, PIXELS, fprop_tile
from .memory import MINUS_INFINITY, OPTIONS, PROGRAM, ZERO, integers, pointer
from .pool import clipped, map_pixel
from .target import Target


def panels_of(target: Target):
    """panel_of(a, panel) -> k, c, lanes, address of its weights, bytes from tap to tap."""
    NR, VL = target.nr, target.vl

    @njit(**OPTIONS)
    def panel_of(a, panel):
        if a.K == a.C:
            k = panel * NR
            lanes = min(NR, a.K - k)
            step = (VL if lanes <= VL else NR) * 4
            return k, k, lanes, a.w + k * a.R * a.S * 4, step
        M = a.K // a.C
        panels = (M + NR - 1) // NR
        c, m = panel // panels, panel % panels * NR
        lanes = min(NR, M - m)
        width = (VL if lanes <= VL else NR) * 4
        at = a.w + m * a.R * a.S * a.C * 4 + c * width
        return c * M + m, c, lanes, at, a.C * width

    return panel_of


def row_of(target: Target, *, broadcast=False, gated=False):
    """row(a, taps, count, pixels, step, mask_step, out, out_step, floor, start, end).

    Neighbouring outputs of one list, for panels start..end of their channels.
    """
    NR, VL = target.nr, target.vl
    panel_of = panels_of(target)
    how = {"broadcast": broadcast, "gated": gated}
    whole = fprop_tile(PIXELS, target.nv, VL, whole=not broadcast, **how)
    part, narrow = fprop_tile(PIXELS, target.nv, VL, **how), fprop_tile(PIXELS, 1, VL, **how)
    one, one_narrow = fprop_tile(1, target.nv, VL, **how), fprop_tile(1, 1, VL, **how)
    one_whole = fprop_tile(1, target.nv, VL, whole=not broadcast, **how)

    @njit(**OPTIONS)
    def row(a, taps, count, pixels, step, mask_step, out, out_step, floor, start, end):
        """The last tile is moved back onto its neighbour's pixels, which get the same bits again,
        unless they would be added twice."""
        i = 0
        while i < pixels:
            if i + PIXELS > pixels and pixels >= PIXELS and a.accumulate == 0:
                i = pixels - PIXELS
            four = i + PIXELS <= pixels
            for panel in range(start, end):
                k, c, lanes, w, w_step = panel_of(a, panel)
                # fprop reads x at channel c and writes k; the gradient of x, k being c, both at k
                x, m, y = i * step + c * 4, i * mask_step + k * 4, out + i * out_step + k * 4
                bias = a.bias + k * 4 if a.bias != 0 else a.zero
                if four and lanes == NR:
                    whole(taps, count, x, step, m, mask_step, w, w_step, y, out_step, bias, lanes,
                          floor, a.accumulate)  # fmt: skip
                elif four and lanes > VL:
                    part(taps, count, x, step, m, mask_step, w, w_step, y, out_step, bias, lanes,
                         floor, a.accumulate)  # fmt: skip
                elif four:
                    narrow(taps, count, x, step, m, mask_step, w, w_step, y, out_step, bias, lanes,
                           floor, a.accumulate)  # fmt: skip
                elif lanes == NR:
                    one_whole(taps, count, x, 0, m, 0, w, w_step, y, 0, bias, lanes, floor,
                              a.accumulate)  # fmt: skip
                elif lanes > VL:
                    one(taps, count, x, 0, m, 0, w, w_step, y, 0, bias, lanes, floor, a.accumulate)
                else:
                    one_narrow(taps, count, x, 0, m, 0, w, w_step, y, 0, bias, lanes, floor,
                               a.accumulate)  # fmt: skip
            i += PIXELS if four else 1

    return row


@njit(**OPTIONS)
def tile_ranges(a, tile, rows):
    """(image, first and last row, first and last panel) of a tile over a map of so many rows."""
    panel = tile % a.panel_tiles * a.tile_panels
    tile //= a.panel_tiles
    first = tile % a.row_tiles * a.tile_rows
    return (
        tile // a.row_tiles, first, min(first + a.tile_rows, rows), panel,
        min(panel + a.tile_panels, a.panels),
    )  # fmt: skip


@njit(**OPTIONS)
def between(value, low, high):
    """value, moved into [low, high]."""
    return max(low, min(value, high))


def depthwise_fprop(target: Target):
    """Tile program; tile = (tile_panels panels, tile_rows output rows of one image)."""
    row, broadcast_row = row_of(target), row_of(target, broadcast=True)
    stencil = stencil_rows(target)

    @njit(**OPTIONS)
    def list_taps(a, n, h, w, r0, r1, s0, s1, taps):
        """List the taps inside the image of the output whose window starts at (h, w)."""
        count = 0
        for r in range(r0, r1):
            x = map_pixel(a.x, a.x_n, a.x_h, a.x_w, n, h + r, w + s0)
            for s in range(s0, s1):
                taps[ENTRY * count] = x
                taps[ENTRY * count + 1] = r * a.S + s
                x += a.x_w * 4
                count += 1
        return count

    @njit(**OPTIONS)
    def output_row(a, n, p, start, end, taps, scratch):
        floor = ZERO if a.relu != 0 else MINUS_INFINITY
        x_step, y_step = a.stride_w * a.x_w * 4, a.y_w * 4
        y = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, 0)
        h = p * a.stride_h - a.pad_h
        r0, r1 = clipped(h, a.R, a.H)
        room = a.W + a.pad_w - a.S
        inner = min((a.pad_w + a.stride_w - 1) // a.stride_w, a.Q)
        outer = between(room // a.stride_w + 1, inner, a.Q) if room >= 0 else inner
        q = 0
        while q < a.Q:
            w = q * a.stride_w - a.pad_w
            pixels = outer - inner if q == inner and outer > inner else 1
            s0, s1 = clipped(w, a.S, a.W)
            count = list_taps(a, n, h, w, r0, r1, s0, s1, taps)
            at = y + q * y_step
            if a.K == a.C:
                row(a, scratch, count, pixels, x_step, 0, at, y_step, floor, start, end)
            else:
                broadcast_row(a, scratch, count, pixels, x_step, 0, at, y_step, floor, start, end)
            q += pixels

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), DEPTHWISE)[0]
        taps = integers(scratch, ENTRY * a.R * a.S)
        n, first, last, start, end = tile_ranges(a, tile, a.P)
        if is_stencil(a, a.pad_h, a.pad_w, last - first, a.Q):
            floor = ZERO if a.relu != 0 else MINUS_INFINITY
            x, y = a.x + n * a.x_n * 4, a.y + n * a.y_n * 4
            stencil(a, x, a.x_h * 4, a.x_w * 4, 0, 0, 0, a.H, a.W, y, a.y_h * 4, a.y_w * 4, a.Q,
                    a.pad_h, a.pad_w, first, last, start, end, floor, 0)  # fmt: skip
            return
        for p in range(first, last):
            output_row(a, n, p, start, end, taps, scratch)

    return program


def depthwise_dgrad(target: Target):
    """Tile program, M = 1; tile = (tile_panels panels, tile_rows input rows of one image)."""
    row, gated_row = row_of(target), row_of(target, gated=True)
    stencil, gated_stencil = stencil_rows(target), stencil_rows(target, gated=True)

    @njit(**OPTIONS)
    def list_outputs(a, n, h, phase, j, i0, i1, taps):
        """List the outputs that saw pixel (h, phase + j sw), rising, taps i0..i1 of the phase."""
        first_s = (phase + a.pad_w) % a.stride_w
        base = (phase + a.pad_w) // a.stride_w + j
        first_r, base_p = (h + a.pad_h) % a.stride_h, (h + a.pad_h) // a.stride_h
        rows = (a.R - first_r + a.stride_h - 1) // a.stride_h
        count = 0
        for i_r in range(rows - 1, -1, -1):
            p = base_p - i_r
            if 0 <= p < a.P:
                for i in range(i1 - 1, i0 - 1, -1):
                    r, s = first_r + i_r * a.stride_h, first_s + i * a.stride_w
                    taps[ENTRY * count] = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, base - i)
                    taps[ENTRY * count + 1] = r * a.S + s
                    mask = map_pixel(a.mask, a.m_n, a.m_h, a.m_w, n, p, base - i)
                    taps[ENTRY * count + 2] = mask
                    count += 1
        return count

    @njit(**OPTIONS)
    def input_row(a, n, h, start, end, taps, scratch):
        y_step, m_step, x_step = a.y_w * 4, a.m_w * 4, a.stride_w * a.x_w * 4
        for phase in range(min(a.stride_w, a.W)):
            first_s = (phase + a.pad_w) % a.stride_w
            base = (phase + a.pad_w) // a.stride_w
            S = max((a.S - first_s + a.stride_w - 1) // a.stride_w, 0)
            J = (a.W - phase + a.stride_w - 1) // a.stride_w
            inner = between(S - 1 - base, 0, J)
            outer = between(a.Q - base, inner, J)
            gx = map_pixel(a.x, a.x_n, a.x_h, a.x_w, n, h, phase)
            j = 0
            while j < J:
                pixels = outer - inner if j == inner and outer > inner else 1
                i0, i1 = max(0, base + j - a.Q + 1), min(S, base + j + 1)
                count = list_outputs(a, n, h, phase, j, i0, i1, taps)
                at, none = gx + j * x_step, MINUS_INFINITY
                if a.mask == 0:
                    row(a, scratch, count, pixels, y_step, 0, at, x_step, none, start, end)
                else:
                    gated_row(a, scratch, count, pixels, y_step, m_step, at, x_step, none, start,
                              end)  # fmt: skip
                j += pixels

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), DEPTHWISE)[0]
        taps = integers(scratch, ENTRY * a.R * a.S)
        n, first, last, start, end = tile_ranges(a, tile, a.H)
        pad_h, pad_w = a.R - 1 - a.pad_h, a.S - 1 - a.pad_w
        if is_stencil(a, pad_h, pad_w, last - first, a.W):
            # The gradient of a stencil of stride 1 is the stencil turned round.
            y, x = a.y + n * a.y_n * 4, a.x + n * a.x_n * 4
            if a.mask == 0:
                stencil(a, y, a.y_h * 4, a.y_w * 4, 0, 0, 0, a.P, a.Q, x, a.x_h * 4, a.x_w * 4, a.W,
                        pad_h, pad_w, first, last, start, end, MINUS_INFINITY, 1)  # fmt: skip
            else:
                m = a.mask + n * a.m_n * 4
                gated_stencil(a, y, a.y_h * 4, a.y_w * 4, m, a.m_h * 4, a.m_w * 4, a.P, a.Q, x,
                              a.x_h * 4, a.x_w * 4, a.W, pad_h, pad_w, first, last, start, end,
                              MINUS_INFINITY, 1)  # fmt: skip
            return
        for h in range(first, last):
            input_row(a, n, h, start, end, taps, scratch)

    return program
