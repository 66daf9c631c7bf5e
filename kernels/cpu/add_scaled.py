"""The residual sum, forward and backward, as tile programs with their plain twins.

    y  = relu(a + scale b)                          b of 0: y = relu(a)
    ga = g, gb = scale g, g = gy where y > 0        either may be 0: not wanted

Product and sum are rounded one by one, as NumPy rounds them. Records are args.ADD_SCALED. Dense
maps arrive as rows of one long pixel, the last of which ends at `count` floats.
"""

from numba import carray, cfunc, njit

from ..args import ADD_SCALED
from .memory import ONE, OPTIONS, PROGRAM, ZERO, floats, pointer, relu
from .pool import map_pixel
from .target import Target


@njit(**OPTIONS)
def add_run(a_at, b_at, y_at, scale, count):
    """y = a + scale b."""
    a, b, y = floats(a_at, count), floats(b_at, count), floats(y_at, count)
    for i in range(count):
        y[i] = a[i] + scale * b[i]


@njit(**OPTIONS)
def relu_run(a_at, y_at, count):
    """y = relu(a)."""
    a, y = floats(a_at, count), floats(y_at, count)
    for i in range(count):
        y[i] = ZERO if a[i] <= ZERO else a[i]


@njit(**OPTIONS)
def add_relu_run(a_at, b_at, y_at, scale, count):
    """y = relu(a + scale b)."""
    a, b, y = floats(a_at, count), floats(b_at, count), floats(y_at, count)
    for i in range(count):
        v = a[i] + scale * b[i]
        y[i] = ZERO if v <= ZERO else v


@njit(**OPTIONS)
def gate_run(g_at, y_at, to_at, scale, count):
    """to = scale g where y > 0, else scale 0."""
    g, y, to = floats(g_at, count), floats(y_at, count), floats(to_at, count)
    for i in range(count):
        v = g[i]
        to[i] = scale * (v if y[i] > ZERO else ZERO)


@njit(**OPTIONS)
def scale_run(g_at, to_at, scale, count):
    """to = scale g."""
    g, to = floats(g_at, count), floats(to_at, count)
    for i in range(count):
        to[i] = scale * g[i]


def add_scaled_fprop(target: Target):
    """Tile program; tile = one row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        r = carray(pointer(args), (1,), ADD_SCALED)[0]
        n, h = tile // r.H, tile % r.H
        for w in range(r.W):
            a = map_pixel(r.a, r.a_n, r.a_h, r.a_w, n, h, w)
            b = map_pixel(r.b, r.b_n, r.b_h, r.b_w, n, h, w)
            y = map_pixel(r.y, r.y_n, r.y_h, r.y_w, n, h, w)
            count = min(r.C, r.count - tile * r.C)
            if r.b == 0:
                relu_run(a, y, count)
            elif r.relu != 0:
                add_relu_run(a, b, y, r.scale, count)
            else:
                add_run(a, b, y, r.scale, count)

    return program


def add_scaled_fprop_plain(target: Target):
    """The sum, element by element; tile = one row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        r = carray(pointer(args), (1,), ADD_SCALED)[0]
        n, h = tile // r.H, tile % r.H
        for w in range(r.W):
            for c in range(min(r.C, r.count - tile * r.C)):
                v = floats(map_pixel(r.a, r.a_n, r.a_h, r.a_w, n, h, w) + c * 4, 1)[0]
                if r.b != 0:
                    b = floats(map_pixel(r.b, r.b_n, r.b_h, r.b_w, n, h, w) + c * 4, 1)[0]
                    v = v + r.scale * b
                y = floats(map_pixel(r.y, r.y_n, r.y_h, r.y_w, n, h, w) + c * 4, 1)
                y[0] = relu(v) if r.relu != 0 or r.b == 0 else v

    return program


def add_scaled_dgrad(target: Target):
    """Tile program; tile = one row (n, h). a and b are ga and gb, g is gy, y the mask or 0."""

    @njit(**OPTIONS)
    def gradient_run(g, y, to, scale, count):
        if y != 0:
            gate_run(g, y, to, scale, count)
        else:
            scale_run(g, to, scale, count)

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        r = carray(pointer(args), (1,), ADD_SCALED)[0]
        n, h = tile // r.H, tile % r.H
        count = min(r.C, r.count - tile * r.C)
        for w in range(r.W):
            g = map_pixel(r.g, r.g_n, r.g_h, r.g_w, n, h, w)
            y = map_pixel(r.y, r.y_n, r.y_h, r.y_w, n, h, w) if r.y != 0 else 0
            if r.a != 0:
                to = map_pixel(r.a, r.a_n, r.a_h, r.a_w, n, h, w)
                gradient_run(g, y, to, ONE, count)
            if r.b != 0:
                to = map_pixel(r.b, r.b_n, r.b_h, r.b_w, n, h, w)
                gradient_run(g, y, to, r.scale, count)

    return program


def add_scaled_dgrad_plain(target: Target):
    """The gradients, element by element; tile = one row (n, h)."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        r = carray(pointer(args), (1,), ADD_SCALED)[0]
        n, h = tile // r.H, tile % r.H
        for w in range(r.W):
            for c in range(min(r.C, r.count - tile * r.C)):
                g = floats(map_pixel(r.g, r.g_n, r.g_h, r.g_w, n, h, w) + c * 4, 1)[0]
                if r.y != 0:
                    y = floats(map_pixel(r.y, r.y_n, r.y_h, r.y_w, n, h, w) + c * 4, 1)[0]
                    g = g if y > ZERO else ZERO
                if r.a != 0:
                    floats(map_pixel(r.a, r.a_n, r.a_h, r.a_w, n, h, w) + c * 4, 1)[0] = g
                if r.b != 0:
                    at = map_pixel(r.b, r.b_n, r.b_h, r.b_w, n, h, w) + c * 4
                    floats(at, 1)[0] = r.scale * g

    return program
