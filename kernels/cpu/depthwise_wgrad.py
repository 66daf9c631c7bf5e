"""Filter gradient of a depthwise convolution, as tile programs; see `depthwise`.

    gw[k, r, s] = sum over n, p, q of g[n, p, q, k] x[n, p sh - ph + r, q sw - pw + s, c]
    gb[k]       = sum over n, p, q of g[n, p, q, k]

Each image has its own sums, each a sum of chains of whole rows; images are added in order. So the
bits depend neither on the threads nor on how many images' sums are held at a time.
"""

from numba import carray, cfunc, njit

from ..args import DEPTHWISE
from .depthwise import between, panels_of
from .depthwise_tile import TAPS, wgrad_tile
from .memory import ONE, OPTIONS, PROGRAM, ZERO, clear, floats, pointer
from .pool import clipped, map_pixel
from .sums import sum_rows
from .target import Target


def sums_of(target: Target, *, broadcast=False):
    """add(x, x_step, tap_step, taps, gy, gy_step, mask, mask_step, pixels, sums, lanes).

    Adds g x of a run of pixels to the sums of TAPS neighbouring taps, or of one.
    """
    NR, VL, NV = target.nr, target.vl, target.nv
    how = {"broadcast": broadcast, "gated": True}
    whole, part = wgrad_tile(1, NV, VL, whole=not broadcast, **how), wgrad_tile(1, NV, VL, **how)
    wide = wgrad_tile(TAPS, NV, VL, whole=not broadcast, **how)
    wide_part, narrow = wgrad_tile(TAPS, NV, VL, **how), wgrad_tile(1, 1, VL, **how)

    @njit(**OPTIONS)
    def add(x, x_step, tap_step, taps, gy, gy_step, mask, mask_step, pixels, sums, lanes):
        step = NR * 4
        if taps == TAPS:
            if lanes == NR:
                wide(x, x_step, tap_step, gy, gy_step, mask, mask_step, pixels, sums, step, lanes)
            else:
                wide_part(x, x_step, tap_step, gy, gy_step, mask, mask_step, pixels, sums, step,
                          lanes)  # fmt: skip
        elif lanes == NR:
            whole(x, x_step, 0, gy, gy_step, mask, mask_step, pixels, sums, 0, lanes)
        elif lanes > VL:
            part(x, x_step, 0, gy, gy_step, mask, mask_step, pixels, sums, 0, lanes)
        else:
            narrow(x, x_step, 0, gy, gy_step, mask, mask_step, pixels, sums, 0, lanes)

    return add


def depthwise_wgrad(target: Target):
    """Tile program: the sums of one image, partial[n, k, tap, lane], gb's after the last tap.

    Tile = (image, panel); k is the panel's first channel, lane one of its channels. A chain runs
    over the pixels of `sum_rows` rows, in scratch, and is added to the image's sum.
    """
    NR, VL = target.nr, target.vl
    panel_of = panels_of(target)
    plain, broadcast = sums_of(target), sums_of(target, broadcast=True)

    @njit(**OPTIONS)
    def first_output(a, s):
        """The first output of a row whose tap s lies in the image."""
        return max(0, -((s - a.pad_w) // a.stride_w))

    @njit(**OPTIONS)
    def last_output(a, s):
        """One more than the last."""
        return between((a.W - 1 + a.pad_w - s) // a.stride_w + 1, 0, a.Q)

    @njit(**OPTIONS)
    def add_run(a, n, h, p, c, k, s, taps, q0, q1, ones, sums, lanes):
        """Add outputs q0..q1 of row p to the sums of taps s.. of the filter row that sees row h."""
        if q1 <= q0:
            return
        x = map_pixel(a.x, a.x_n, a.x_h, a.x_w, n, h, q0 * a.stride_w - a.pad_w + s) + c * 4
        gy = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, q0) + k * 4
        mask, m_step = ones, 0
        if a.mask != 0:
            mask = map_pixel(a.mask, a.m_n, a.m_h, a.m_w, n, p, q0) + k * 4
            m_step = a.m_w * 4
        x_step, x_w, y_step = a.stride_w * a.x_w * 4, a.x_w * 4, a.y_w * 4
        if a.K == a.C:
            plain(x, x_step, x_w, taps, gy, y_step, mask, m_step, q1 - q0, sums, lanes)
        else:
            broadcast(x, x_step, x_w, taps, gy, y_step, mask, m_step, q1 - q0, sums, lanes)

    @njit(**OPTIONS)
    def add_filter_row(a, n, h, p, c, k, ones, sums, lanes):
        """Add output row p to the sums of one filter row: TAPS taps at a time over the outputs that
        all of them see, and each by itself over those before and after."""
        s = 0
        while s < a.S:
            taps = TAPS if s + TAPS <= a.S and lanes > VL else 1
            until = last_output(a, s + taps - 1)
            since = min(first_output(a, s), until)
            if taps > 1:
                for t in range(s, s + taps):
                    end = min(since, last_output(a, t))
                    to = sums + t * NR * 4
                    add_run(a, n, h, p, c, k, t, 1, first_output(a, t), end, ones, to, lanes)
            add_run(a, n, h, p, c, k, s, taps, since, until, ones, sums + s * NR * 4, lanes)
            if taps > 1:
                for t in range(s, s + taps):
                    start = max(until, first_output(a, t))
                    to = sums + t * NR * 4
                    add_run(a, n, h, p, c, k, t, 1, start, last_output(a, t), ones, to, lanes)
            s += taps

    @njit(**OPTIONS)
    def add_bias_row(a, n, p, k, ones, sums, lanes):
        gy = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, 0) + k * 4
        mask, m_step = ones, 0
        if a.mask != 0:
            mask, m_step = map_pixel(a.mask, a.m_n, a.m_h, a.m_w, n, p, 0) + k * 4, a.m_w * 4
        plain(ones, 0, 0, 1, gy, a.y_w * 4, mask, m_step, a.Q, sums, lanes)

    @njit(**OPTIONS)
    def add_chains(total_at, chains_at, count, lanes):
        """total[t, 0:lanes] += chains[t, 0:lanes], and chains = 0."""
        total, chains = floats(total_at, count * lanes), floats(chains_at, count * NR)
        for t in range(count):
            for i in range(lanes):
                total[t * lanes + i] += chains[t * NR + i]
        clear(chains_at, count * NR)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), DEPTHWISE)[0]
        n, panel, count = tile // a.panels, tile % a.panels, a.R * a.S + 1
        k, c, lanes, _, _ = panel_of(a, panel)
        ones = floats(scratch, NR)
        for i in range(NR):
            ones[i] = ONE
        total, sums, rows = a.partial + (n * a.K + k) * count * 4, scratch + NR * 4, sum_rows(a.Q)
        clear(total, count * lanes)
        clear(sums, count * NR)
        for p in range(a.P):
            h = p * a.stride_h - a.pad_h
            r0, r1 = clipped(h, a.R, a.H)
            for r in range(r0, r1):
                to = sums + r * a.S * NR * 4
                add_filter_row(a, n, h + r, p, c, k, scratch, to, lanes)
            if a.gb != 0:
                add_bias_row(a, n, p, k, scratch, sums + a.R * a.S * NR * 4, lanes)
            if (p + 1) % rows == 0 or p + 1 == a.P:
                add_chains(total, sums, count, lanes)

    return program


def depthwise_wgrad_merge(target: Target):
    """gw, gb (+)= the images' sums, added in order. Tile = panel."""
    panel_of = panels_of(target)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), DEPTHWISE)[0]
        k, _, lanes, _, _ = panel_of(a, tile)
        taps = a.R * a.S
        for t in range(taps + 1 if a.gb != 0 else taps):
            for i in range(lanes):
                at = a.gw + ((k + i) * taps + t) * 4 if t < taps else a.gb + (k + i) * 4
                to = floats(at, 1)
                total = to[0] if a.accumulate != 0 else ZERO
                for n in range(a.N):
                    at = (n * a.K + k) * (taps + 1) + t * lanes + i
                    total += floats(a.partial + at * 4, 1)[0]
                to[0] = total

    return program
