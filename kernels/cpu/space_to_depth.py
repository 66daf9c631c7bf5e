"""The four phases of a map side by side as channels, as a tile program.

    y[n, i, j, (2 u + v) C + c] = x[n, 2 i - pad_h + u, 2 j - pad_w + v, c]     u, v = 0, 1

0 outside x. A filter of stride 2 over x is one of half the taps and stride 1, without padding, over
y (see winograd.py). y: (N, P, Q, 4 C), contiguous; `size` bytes an element in both. Record
args.SPACE_TO_DEPTH; a tile is a row of y.
"""

from numba import carray, cfunc

from ..args import SPACE_TO_DEPTH
from .memory import OPTIONS, PROGRAM, clear, pointer
from .staging import WIDTH, copy8, copy_bytes
from .target import Target


def space_to_depth(target: Target):
    """Both rows of x that a row of y sees are framed in scratch, then interleaved there."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), SPACE_TO_DEPTH)[0]
        n, i = tile // a.P, tile % a.P
        pixel, pair = a.C * a.size, 2 * a.C * a.size  # bytes; a pair is made of whole words
        out = scratch + 2 * a.row
        first = -a.pad_w  # the column of x where a framed row begins
        w0, w1 = max(0, first), min(a.W, first + 2 * a.Q)
        for u in range(2):
            framed, h = scratch + u * a.row, 2 * i - a.pad_h + u
            clear(framed, a.Q * pair // 4)
            if 0 <= h < a.H and w0 < w1:
                at = a.x + (n * a.x_n + h * a.x_h + w0 * a.x_w) * a.size
                to = framed + (w0 - first) * pixel
                if a.x_w == a.C:
                    copy_bytes(to, at, (w1 - w0) * pixel)
                else:
                    for w in range(w1 - w0):
                        copy_bytes(to + w * pixel, at + w * a.x_w * a.size, pixel)
        # Ascending, for a copy's last register may reach beyond its pair.
        for j in range(a.Q):
            for u in range(2):
                at, to = scratch + u * a.row + j * pair, out + (2 * j + u) * pair
                for word in range(0, pair // 4, WIDTH):
                    copy8(to + word * 4, at + word * 4, 0, min(WIDTH, pair // 4 - word))
        copy_bytes(a.y + tile * a.Q * 2 * pair, out, a.Q * 2 * pair)

    return program
