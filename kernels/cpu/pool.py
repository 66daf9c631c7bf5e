"""Max and average pooling, forward and backward, as tile programs with their plain twins.

    max   y[n, p, q, c] = max over taps (r, s) of x[n, p sh - ph + r, q sw - pw + s, c]
    avg   y[n, p, q, c] = (sum over the same taps) / cells

Windows are clipped to the image; a padded pixel is never read. Max: the first maximum in row-major
order wins, a NaN wins over numbers and the first NaN over later ones; argmax (uint8, tap r S + s,
contiguous (N, P, Q, C), or 0) says who won. cells: pixels of the window inside the image, or with
count_include_pad the padding up to H + ph, W + pw too.

Backward is a gather: a pixel of gx looks at the windows that contain it, in rising order of taps,
so nothing is scattered and no two tiles write one pixel. gx is `=`, or `+=` with accumulate.
Records are args.POOL: x is the map of H W, y that of P Q, of the values or of their gradients.

The channel loops run over three taps at once: with one, y would be read and written per tap; with
more, the compiler would need too many overlap checks and would not vectorise. A window whose taps
are no multiple of three is filled up with a tap that changes nothing.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import POOL
from .elementary import divide
from .memory import OPTIONS, PROGRAM, ZERO, clear, floats, integers, pointer
from .target import Target

GROUP = 3
NO_TAP = 255  # no window has a tap of this number
# The tap list in scratch: int64 triples (address, tap or cells, address of argmax).
ENTRY = 3
F = np.float32


@njit(**OPTIONS, inline="always")
def octets(address, count):
    """uint8 view of memory."""
    return carray(pointer(address), (count,), np.uint8)


@njit(**OPTIONS)
def map_pixel(address, n_stride, h_stride, w_stride, n, h, w):
    """Address of pixel (n, h, w) of a float32 map."""
    return address + (n * n_stride + h * h_stride + w * w_stride) * 4


@njit(**OPTIONS)
def clipped(start, extent, limit):
    """Taps [first, last) of a window that starts at `start` that lie in [0, limit)."""
    return max(0, -start), min(extent, limit - start)


@njit(**OPTIONS)
def count_cells(a, p, q):
    """Divisor of the average of window (p, q)."""
    h, w = p * a.stride_h - a.pad_h, q * a.stride_w - a.pad_w
    if a.count_include_pad != 0:
        return (min(h + a.R, a.H + a.pad_h) - h) * (min(w + a.S, a.W + a.pad_w) - w)
    return (min(h + a.R, a.H) - max(h, 0)) * (min(w + a.S, a.W) - max(w, 0))


@njit(**OPTIONS)
def list_taps(a, n, p, q, taps, size):
    """List (address, tap, -) of the window's pixels inside the image; returns how many.

    size: bytes of an element.
    """
    h, w = p * a.stride_h - a.pad_h, q * a.stride_w - a.pad_w
    r0, r1 = clipped(h, a.R, a.H)
    s0, s1 = clipped(w, a.S, a.W)
    count = 0
    for r in range(r0, r1):
        x = a.x + (n * a.x_n + (h + r) * a.x_h + (w + s0) * a.x_w) * size
        for s in range(s0, s1):
            taps[ENTRY * count] = x
            taps[ENTRY * count + 1] = r * a.S + s
            x += a.x_w * size
            count += 1
    return count


@njit(**OPTIONS)
def list_windows(a, n, h, w, taps):
    """List (address of gy, tap, address of argmax) of the windows that contain a pixel of gx."""
    top, left = h + a.pad_h, w + a.pad_w
    count = 0
    p = min(top // a.stride_h, a.P - 1)
    while p >= 0 and top - p * a.stride_h < a.R:
        q = min(left // a.stride_w, a.Q - 1)
        while q >= 0 and left - q * a.stride_w < a.S:
            tap = (top - p * a.stride_h) * a.S + left - q * a.stride_w
            taps[ENTRY * count] = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, q)
            if a.argmax != 0:
                taps[ENTRY * count + 1] = tap
                taps[ENTRY * count + 2] = a.argmax + ((n * a.P + p) * a.Q + q) * a.C
            else:
                taps[ENTRY * count + 1] = count_cells(a, p, q)
            count += 1
            q -= 1
        p -= 1
    return count


@njit(**OPTIONS)
def fill_up(taps, count, address, tap, argmax):
    """Repeat one entry until the list is a multiple of GROUP."""
    while count % GROUP != 0:
        taps[ENTRY * count] = address
        taps[ENTRY * count + 1] = tap
        taps[ENTRY * count + 2] = argmax
        count += 1
    return count


def fold_max(first: bool, argmax: bool):
    """fold(list_at, y, won, C): y = max(y, three taps), won = who it was.

    `first`: y starts at the first tap.

    `not (v <= best)` is v > best or a NaN among the two; `best == best` keeps the first NaN.
    """

    @njit(**OPTIONS)
    def fold(list_at, y_at, won_at, C):
        taps = integers(list_at, ENTRY * GROUP)
        x0, x1, x2 = floats(taps[0], C), floats(taps[ENTRY], C), floats(taps[2 * ENTRY], C)
        t0, t1 = np.uint8(taps[1]), np.uint8(taps[ENTRY + 1])
        t2 = np.uint8(taps[2 * ENTRY + 1])
        y, won = floats(y_at, C), octets(won_at, C)
        for c in range(C):
            if first:
                best, tap = x0[c], t0
            else:
                best, tap = y[c], won[c] if argmax else t0
                v = x0[c]
                better = (not v <= best) & (best == best)
                best, tap = v if better else best, t0 if better else tap
            v = x1[c]
            better = (not v <= best) & (best == best)
            best, tap = v if better else best, t1 if better else tap
            v = x2[c]
            better = (not v <= best) & (best == best)
            y[c] = v if better else best
            if argmax:
                won[c] = t2 if better else tap

    return fold


def max_pool_fprop(target: Target):
    """Tile program of the maximum; tile = one output row (n, p)."""
    first, more = fold_max(True, False), fold_max(False, False)
    first_argmax, more_argmax = fold_max(True, True), fold_max(False, True)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, p = tile // a.P, tile % a.P
        taps = integers(scratch, ENTRY * (a.R * a.S + GROUP))
        for q in range(a.Q):
            y = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, q)
            count = list_taps(a, n, p, q, taps, 4)
            # The last tap again is no better than itself.
            last = ENTRY * (count - 1)
            count = fill_up(taps, count, taps[last], taps[last + 1], 0)
            i = GROUP
            if a.argmax != 0:
                won = a.argmax + (tile * a.Q + q) * a.C
                first_argmax(scratch, y, won, a.C)
                while i < count:
                    more_argmax(scratch + 8 * ENTRY * i, y, won, a.C)
                    i += GROUP
            else:
                first(scratch, y, y, a.C)
                while i < count:
                    more(scratch + 8 * ENTRY * i, y, y, a.C)
                    i += GROUP

    return program


def max_pool_fprop_plain(target: Target):
    """The maximum, pixel by pixel; tile = one output row (n, p)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, p = tile // a.P, tile % a.P
        for q in range(a.Q):
            y = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 4, a.C)
            for c in range(a.C):
                best, winner = ZERO, -1
                for r in range(a.R):
                    for s in range(a.S):
                        h, w = p * a.stride_h - a.pad_h + r, q * a.stride_w - a.pad_w + s
                        if 0 <= h < a.H and 0 <= w < a.W:
                            x = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w + c) * 4, 1)[0]
                            if winner < 0 or x > best or (x != x and best == best):
                                best, winner = x, r * a.S + s
                y[c] = best
                if a.argmax != 0:
                    octets(a.argmax + (tile * a.Q + q) * a.C, a.C)[c] = winner

    return program


def fold_max_gradient(first: bool):
    """fold(list_at, gx, C): gx (+)= gy of the three windows whose argmax is this pixel's tap."""

    @njit(**OPTIONS)
    def fold(list_at, gx_at, C):
        taps = integers(list_at, ENTRY * GROUP)
        g0, g1, g2 = floats(taps[0], C), floats(taps[ENTRY], C), floats(taps[2 * ENTRY], C)
        a0, a1 = octets(taps[2], C), octets(taps[ENTRY + 2], C)
        a2 = octets(taps[2 * ENTRY + 2], C)
        t0, t1 = np.uint8(taps[1]), np.uint8(taps[ENTRY + 1])
        t2 = np.uint8(taps[2 * ENTRY + 1])
        gx = floats(gx_at, C)
        for c in range(C):
            total = ZERO if first else gx[c]
            # The value is chosen, not the sum: a select of loads needs no branch.
            g = total + g0[c]
            total = g if a0[c] == t0 else total
            g = total + g1[c]
            total = g if a1[c] == t1 else total
            g = total + g2[c]
            gx[c] = g if a2[c] == t2 else total

    return fold


def gather(first, more, filler: int):
    """Tile program of a gradient by its two folds; tile = one input row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, h = tile // a.H, tile % a.H
        taps = integers(scratch, ENTRY * (a.R * a.S + GROUP))
        for w in range(a.W):
            gx = map_pixel(a.x, a.x_n, a.x_h, a.x_w, n, h, w)
            count = list_windows(a, n, h, w, taps)
            if count == 0 and a.accumulate == 0:
                clear(gx, a.C)
            count = fill_up(taps, count, a.zero, filler, a.zero)
            i = 0
            if count > 0 and a.accumulate == 0:
                first(scratch, gx, a.C)
                i = GROUP
            while i < count:
                more(scratch + 8 * ENTRY * i, gx, a.C)
                i += GROUP

    return program


def max_pool_dgrad(target: Target):
    """Tile program of the maximum's gradient; no pixel is the filler's tap."""
    return gather(fold_max_gradient(True), fold_max_gradient(False), NO_TAP)


def max_pool_dgrad_plain(target: Target):
    """The maximum's gradient, pixel by pixel; tile = one input row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, h = tile // a.H, tile % a.H
        for w in range(a.W):
            gx = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
            for c in range(a.C):
                total = gx[c] if a.accumulate != 0 else ZERO
                for r in range(a.R):
                    for s in range(a.S):
                        p, q = h + a.pad_h - r, w + a.pad_w - s
                        if p % a.stride_h != 0 or q % a.stride_w != 0:
                            continue
                        p, q = p // a.stride_h, q // a.stride_w
                        if 0 <= p < a.P and 0 <= q < a.Q:
                            at = ((n * a.P + p) * a.Q + q) * a.C + c
                            if octets(a.argmax + at, 1)[0] == r * a.S + s:
                                at = n * a.y_n + p * a.y_h + q * a.y_w + c
                                total += floats(a.y + at * 4, 1)[0]
                gx[c] = total

    return program


def fold_sum(first: bool):
    """fold(list_at, y, C): y (+)= the sum of three taps, one after the other."""

    @njit(**OPTIONS)
    def fold(list_at, y_at, C):
        taps = integers(list_at, ENTRY * GROUP)
        x0, x1, x2 = floats(taps[0], C), floats(taps[ENTRY], C), floats(taps[2 * ENTRY], C)
        y = floats(y_at, C)
        for c in range(C):
            y[c] = (((ZERO if first else y[c]) + x0[c]) + x1[c]) + x2[c]

    return fold


def avg_pool_fprop(target: Target):
    """Tile program of the average; tile = one output row (n, p)."""
    first, more = fold_sum(True), fold_sum(False)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, p = tile // a.P, tile % a.P
        taps = integers(scratch, ENTRY * (a.R * a.S + GROUP))
        for q in range(a.Q):
            y = map_pixel(a.y, a.y_n, a.y_h, a.y_w, n, p, q)
            # The sum starts at +0 and so is never -0: adding zeros changes no bit.
            count = fill_up(taps, list_taps(a, n, p, q, taps, 4), a.zero, 0, 0)
            first(scratch, y, a.C)
            i = GROUP
            while i < count:
                more(scratch + 8 * ENTRY * i, y, a.C)
                i += GROUP
            divide(y, a.C, F(count_cells(a, p, q)))

    return program


def avg_pool_fprop_plain(target: Target):
    """The average, pixel by pixel; tile = one output row (n, p)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, p = tile // a.P, tile % a.P
        for q in range(a.Q):
            y = floats(a.y + (n * a.y_n + p * a.y_h + q * a.y_w) * 4, a.C)
            cells = F(count_cells(a, p, q))
            for c in range(a.C):
                total = ZERO
                for r in range(a.R):
                    for s in range(a.S):
                        h, w = p * a.stride_h - a.pad_h + r, q * a.stride_w - a.pad_w + s
                        if 0 <= h < a.H and 0 <= w < a.W:
                            at = n * a.x_n + h * a.x_h + w * a.x_w + c
                            total += floats(a.x + at * 4, 1)[0]
                y[c] = total / cells

    return program


def fold_shares(first: bool):
    """fold(list_at, gx, C): gx (+)= the sum over three windows of gy / cells."""

    @njit(**OPTIONS)
    def fold(list_at, gx_at, C):
        taps = integers(list_at, ENTRY * GROUP)
        g0, g1, g2 = floats(taps[0], C), floats(taps[ENTRY], C), floats(taps[2 * ENTRY], C)
        n0, n1, n2 = F(taps[1]), F(taps[ENTRY + 1]), F(taps[2 * ENTRY + 1])
        gx = floats(gx_at, C)
        for c in range(C):
            start = ZERO if first else gx[c]
            gx[c] = ((start + g0[c] / n0) + g1[c] / n1) + g2[c] / n2

    return fold


def avg_pool_dgrad(target: Target):
    """Tile program of the average's gradient; the filler adds 0 / 1."""
    return gather(fold_shares(True), fold_shares(False), 1)


def avg_pool_dgrad_plain(target: Target):
    """The average's gradient, pixel by pixel; tile = one input row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), POOL)[0]
        n, h = tile // a.H, tile % a.H
        for w in range(a.W):
            gx = floats(a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
            for c in range(a.C):
                total = gx[c] if a.accumulate != 0 else ZERO
                for r in range(a.R):
                    for s in range(a.S):
                        p, q = h + a.pad_h - r, w + a.pad_w - s
                        if p % a.stride_h != 0 or q % a.stride_w != 0:
                            continue
                        p, q = p // a.stride_h, q // a.stride_w
                        if 0 <= p < a.P and 0 <= q < a.Q:
                            at = n * a.y_n + p * a.y_h + q * a.y_w + c
                            total += floats(a.y + at * 4, 1)[0] / F(count_cells(a, p, q))
                gx[c] = total

    return program
