"""A step of SGD with momentum, in place, as a tile program with its plain twin.

    v = momentum v + rate (g + decay w);  w = w - v

Each product and sum is rounded by itself, as NumPy does it. Records are args.SGD; a tile is TILE
neighbouring numbers.
"""

from numba import carray, cfunc, njit

from ..args import SGD
from .memory import OPTIONS, PROGRAM, ZERO, floats, pointer
from .target import Target

TILE = 16384  # numbers; the core counts tiles with the same number


@njit(**OPTIONS)
def decayed_run(w_at, v_at, g_at, rate, momentum, decay, count):
    w, v, g = floats(w_at, count), floats(v_at, count), floats(g_at, count)
    for i in range(count):
        moved = momentum * v[i] + rate * (g[i] + decay * w[i])
        v[i] = moved
        w[i] = w[i] - moved


@njit(**OPTIONS)
def run(w_at, v_at, g_at, rate, momentum, count):
    w, v, g = floats(w_at, count), floats(v_at, count), floats(g_at, count)
    for i in range(count):
        moved = momentum * v[i] + rate * g[i]
        v[i] = moved
        w[i] = w[i] - moved


def sgd(target: Target):
    """Tile program; tile = a run of numbers."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        r = carray(pointer(args), (1,), SGD)[0]
        at, count = tile * TILE, min(TILE, r.count - tile * TILE)
        w, v, g = r.w + 4 * at, r.v + 4 * at, r.g + 4 * at
        if r.decay != ZERO:
            decayed_run(w, v, g, r.rate, r.momentum, r.decay, count)
        else:  # not 0 w: NaN and infinity of w stay where they are
            run(w, v, g, r.rate, r.momentum, count)

    return program


def sgd_plain(target: Target):
    """The step, number by number."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        r = carray(pointer(args), (1,), SGD)[0]
        for i in range(tile * TILE, min((tile + 1) * TILE, r.count)):
            w, v = floats(r.w + 4 * i, 1), floats(r.v + 4 * i, 1)
            g = floats(r.g + 4 * i, 1)[0]
            if r.decay != ZERO:
                g = g + r.decay * w[0]
            v[0] = r.momentum * v[0] + r.rate * g
            w[0] = w[0] - v[0]

    return program
