"""Batch normalisation with its ReLU, as tile programs with their plain twins.

    mean = sum x / M      var = sum (x - mean)^2 / M      over the M pixels, per channel
    y  = relu(gamma / d (x - mean) + beta)                d = sqrt(var + eps)
    gx = gamma / d (g - gbeta / M - h ggamma / M)         g = gy where y > 0 (or no y), else 0
    ggamma = sum g h      gbeta = sum g                   h = (x - mean) / d

All in float32 and yet accurate: pixels are cut into chunks of whole image rows, a function of the
shape alone; each chunk subtracts its own mean before it squares, and chunks are merged in their
order (Chan, Golub and LeVeque 1979), each mean relative to the first one. So a large common offset
costs nothing, and the bits are the same for any number of threads. Squares all have one sign, so
the error of a chain of them grows: chains are short, and the merge keeps what its sum rounds off.

Programs of a phase, in order; the walker waits between phases. Records are args.BATCH_NORM.

    statistics     tile = chunk       partial[chunk] = (mean, sum of squared deviations)
    merge          tile = channels    mean, var
    inference      tile = chunk       y, from mean and var
    gradient_sums  tile = chunk       partial[chunk] = (sum g, sum g h)
    gradient_merge tile = channels    gbeta, ggamma
    gradient       tile = chunk       gx
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import BATCH_NORM
from .elementary import divide, square_root
from .memory import ONE, OPTIONS, PROGRAM, ZERO, clear, floats, fma, pointer, relu
from .sums import two_sum
from .target import Target

BLOCK = 64  # channels of a merge tile; the core counts tiles with the same number
CHAIN = 64  # pixels, about, whose squares are one chain
F = np.float32


@njit(**OPTIONS)
def chunk_rows(a, chunk):
    """Image rows [first, last) of a chunk, counted over the batch."""
    first = chunk * a.chunk_rows
    return first, min(first + a.chunk_rows, a.N * a.H)


@njit(**OPTIONS)
def add_row(x_at, step, pixels, C, sums_at):
    """sums[c] += x of each pixel in turn."""
    sums = floats(sums_at, C)
    for w in range(pixels):
        x = floats(x_at + w * step * 4, C)
        for c in range(C):
            sums[c] += x[c]


@njit(**OPTIONS)
def add_deviations(x_at, step, pixels, C, mean_at, sums_at, squares_at):
    """sums[c] += x - mean, squares[c] += (x - mean)^2, of each pixel in turn."""
    mean, sums, squares = floats(mean_at, C), floats(sums_at, C), floats(squares_at, C)
    for w in range(pixels):
        x = floats(x_at + w * step * 4, C)
        for c in range(C):
            deviation = x[c] - mean[c]
            sums[c] += deviation
            squares[c] = fma(deviation, deviation, squares[c])


@njit(**OPTIONS)
def move_sums(from_at, to_at, C):
    """to[c] += from[c], and from[c] = 0."""
    part, to = floats(from_at, C), floats(to_at, C)
    for c in range(C):
        to[c] += part[c]
        part[c] = ZERO


@njit(**OPTIONS)
def correct(C, count, mean_at, sums_at, squares_at):
    """Move mean by what the deviations left, and take that out of the squares."""
    mean, sums, squares = floats(mean_at, C), floats(sums_at, C), floats(squares_at, C)
    for c in range(C):
        left = sums[c] / count
        mean[c] += left
        squares[c] = fma(-left, sums[c], squares[c])


def batch_norm_statistics(target: Target):
    """partial[chunk] = (mean of the chunk, sum of squared deviations from it); tile = chunk."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        first, last = chunk_rows(a, tile)
        count = F((last - first) * a.W)
        mean = a.partial + tile * 2 * a.C * 4
        squares = mean + a.C * 4
        clear(mean, 2 * a.C)
        clear(scratch, 2 * a.C)
        rows = max(CHAIN // a.W, 1)
        chain = scratch + a.C * 4 if last - first > rows else squares
        for row in range(first, last):
            x = a.x + (row // a.H * a.x_n + row % a.H * a.x_h) * 4
            add_row(x, a.x_w, a.W, a.C, mean)
        divide(mean, a.C, count)
        for row in range(first, last):
            x = a.x + (row // a.H * a.x_n + row % a.H * a.x_h) * 4
            add_deviations(x, a.x_w, a.W, a.C, mean, scratch, chain)
            if chain != squares and ((row + 1 - first) % rows == 0 or row + 1 == last):
                move_sums(chain, squares, a.C)
        correct(a.C, count, mean, scratch, squares)

    return program


def batch_norm_merge(target: Target):
    """mean and var of BLOCK channels, chunk after chunk; tile = block of channels."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        c0 = tile * BLOCK
        pixels = F(max(a.N * a.H * a.W, 1))
        mean, var = floats(a.mean, a.C), floats(a.var, a.C)
        for c in range(c0, min(c0 + BLOCK, a.C)):
            # (mean, squares) of chunk i stand at 2 C i + c and C further on.
            partial = floats(a.partial + c * 4, 2 * a.C * a.chunks)
            origin = partial[0] if a.chunks > 0 else ZERO
            total = ZERO
            for i in range(a.chunks):
                first, last = chunk_rows(a, i)
                total = fma(F((last - first) * a.W), partial[2 * a.C * i] - origin, total)
            middle = origin + total / pixels
            squares, rest = ZERO, ZERO
            for i in range(a.chunks):
                first, last = chunk_rows(a, i)
                away = partial[2 * a.C * i] - middle
                chunk = fma(F((last - first) * a.W) * away, away, partial[2 * a.C * i + a.C])
                squares, lost = two_sum(squares, chunk)
                rest += lost
            mean[c] = middle
            total = squares + rest
            var[c] = (total if total == total else squares) / pixels  # an infinity has no rest

    return program


@njit(**OPTIONS)
def scales(a, to_at, gamma_at):
    """to[c] = gamma / sqrt(var + eps), or 1 / sqrt(var + eps) where gamma is 0 (no array)."""
    var, to, eps = floats(a.var, a.C), floats(to_at, a.C), a.eps
    if gamma_at != 0:
        gamma = floats(gamma_at, a.C)
        for c in range(a.C):
            to[c] = gamma[c] / square_root(var[c] + eps)
    else:
        for c in range(a.C):
            to[c] = ONE / square_root(var[c] + eps)


@njit(**OPTIONS)
def normalise(a, x_at, y_at, scale_at):
    """One pixel of y."""
    x, y, scale = floats(x_at, a.C), floats(y_at, a.C), floats(scale_at, a.C)
    mean, beta = floats(a.mean, a.C), floats(a.beta, a.C)
    if a.relu != 0:
        for c in range(a.C):
            y[c] = relu(fma(x[c] - mean[c], scale[c], beta[c]))
    else:
        for c in range(a.C):
            y[c] = fma(x[c] - mean[c], scale[c], beta[c])


def batch_norm_inference(target: Target):
    """y from mean and var; tile = chunk."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        scales(a, scratch, a.gamma)
        first, last = chunk_rows(a, tile)
        for row in range(first, last):
            n, h = row // a.H, row % a.H
            for w in range(a.W):
                x = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4
                y = a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 4
                normalise(a, x, y, scratch)

    return program


@njit(**OPTIONS)
def masked_gradient(a, n, h, w, to_at):
    """to[c] = gy where y > 0, else 0; gy itself without y."""
    gy = floats(a.gy + (n * a.gy_n + h * a.gy_h + w * a.gy_w) * 4, a.C)
    to = floats(to_at, a.C)
    if a.y != 0:
        y = floats(a.y + (n * a.y_n + h * a.y_h + w * a.y_w) * 4, a.C)
        for c in range(a.C):
            g = gy[c]
            to[c] = g if y[c] > ZERO else ZERO
    else:
        for c in range(a.C):
            to[c] = gy[c]


@njit(**OPTIONS)
def add_gradients(a, x_at, g_at, inverse_at, sums_at):
    """One pixel: sums[c] += g, sums[C + c] += g h."""
    x, g, inverse = floats(x_at, a.C), floats(g_at, a.C), floats(inverse_at, a.C)
    mean = floats(a.mean, a.C)
    sum_g, sum_gh = floats(sums_at, a.C), floats(sums_at + a.C * 4, a.C)
    for c in range(a.C):
        sum_g[c] += g[c]
        sum_gh[c] = fma(g[c], (x[c] - mean[c]) * inverse[c], sum_gh[c])


def batch_norm_gradient_sums(target: Target):
    """partial[chunk] = (sum g, sum g h); tile = chunk."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        inverse, g = scratch, scratch + a.C * 4
        scales(a, inverse, 0)
        sums = a.partial + tile * 2 * a.C * 4
        clear(sums, 2 * a.C)
        first, last = chunk_rows(a, tile)
        for row in range(first, last):
            n, h = row // a.H, row % a.H
            for w in range(a.W):
                masked_gradient(a, n, h, w, g)
                x = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4
                add_gradients(a, x, g, inverse, sums)

    return program


def batch_norm_gradient_merge(target: Target):
    """gbeta and ggamma of BLOCK channels, chunk after chunk; tile = block of channels."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        c0 = tile * BLOCK
        ggamma, gbeta = floats(a.ggamma, a.C), floats(a.gbeta, a.C)
        for c in range(c0, min(c0 + BLOCK, a.C)):
            partial = floats(a.partial + c * 4, 2 * a.C * a.chunks)
            sum_g, sum_gh = ZERO, ZERO
            for i in range(a.chunks):
                sum_g += partial[2 * a.C * i]
                sum_gh += partial[2 * a.C * i + a.C]
            gbeta[c], ggamma[c] = sum_g, sum_gh

    return program


@njit(**OPTIONS)
def gradient_pixel(a, x_at, gx_at, g_at, inverse_at, scale_at, pixels):
    """One pixel of gx = scale (g - gbeta / M - h ggamma / M)."""
    x, gx, g = floats(x_at, a.C), floats(gx_at, a.C), floats(g_at, a.C)
    inverse, scale, mean = floats(inverse_at, a.C), floats(scale_at, a.C), floats(a.mean, a.C)
    ggamma, gbeta = floats(a.ggamma, a.C), floats(a.gbeta, a.C)
    for c in range(a.C):
        h = (x[c] - mean[c]) * inverse[c]
        gx[c] = scale[c] * (g[c] - (gbeta[c] + h * ggamma[c]) / pixels)


def batch_norm_gradient(target: Target):
    """gx; tile = chunk."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        inverse, scale, g = scratch, scratch + a.C * 4, scratch + a.C * 8
        scales(a, inverse, 0)
        scales(a, scale, a.gamma)
        pixels = F(a.N * a.H * a.W)
        first, last = chunk_rows(a, tile)
        for row in range(first, last):
            n, h = row // a.H, row % a.H
            for w in range(a.W):
                masked_gradient(a, n, h, w, g)
                x = a.x + (n * a.x_n + h * a.x_h + w * a.x_w) * 4
                gx = a.gx + (n * a.gx_n + h * a.gx_h + w * a.gx_w) * 4
                gradient_pixel(a, x, gx, g, inverse, scale, pixels)

    return program


@njit(**OPTIONS)
def element(address, n_stride, h_stride, w_stride, H, W, i, c):
    """Address of channel c of pixel i of the batch."""
    n, h, w = i // W // H, i // W % H, i % W
    return address + (n * n_stride + h * h_stride + w * w_stride + c) * 4


def batch_norm_statistics_plain(target: Target):
    """mean and var in two loops over the pixels; tile = one channel."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        count, total, squares = a.N * a.H * a.W, ZERO, ZERO
        pixels = F(max(count, 1))
        for i in range(count):
            total += floats(element(a.x, a.x_n, a.x_h, a.x_w, a.H, a.W, i, tile), 1)[0]
        mean = total / pixels
        for i in range(count):
            deviation = floats(element(a.x, a.x_n, a.x_h, a.x_w, a.H, a.W, i, tile), 1)[0] - mean
            squares += deviation * deviation
        floats(a.mean, a.C)[tile] = mean
        floats(a.var, a.C)[tile] = squares / pixels

    return program


def batch_norm_inference_plain(target: Target):
    """y from mean and var; tile = one channel."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        mean, beta = floats(a.mean, a.C)[tile], floats(a.beta, a.C)[tile]
        deviation = square_root(floats(a.var, a.C)[tile] + a.eps)
        scale = floats(a.gamma, a.C)[tile] / deviation
        for i in range(a.N * a.H * a.W):
            x = floats(element(a.x, a.x_n, a.x_h, a.x_w, a.H, a.W, i, tile), 1)[0]
            y = fma(x - mean, scale, beta)
            y = relu(y) if a.relu != 0 else y
            floats(element(a.y, a.y_n, a.y_h, a.y_w, a.H, a.W, i, tile), 1)[0] = y

    return program


def batch_norm_dgrad_plain(target: Target):
    """gx, ggamma and gbeta of one channel; tile = channel."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), BATCH_NORM)[0]
        mean = floats(a.mean, a.C)[tile]
        deviation = square_root(floats(a.var, a.C)[tile] + a.eps)
        inverse, scale = ONE / deviation, floats(a.gamma, a.C)[tile] / deviation
        count = a.N * a.H * a.W
        sum_g, sum_gh = ZERO, ZERO
        for write in range(2):
            for i in range(count):
                x = floats(element(a.x, a.x_n, a.x_h, a.x_w, a.H, a.W, i, tile), 1)[0]
                g = floats(element(a.gy, a.gy_n, a.gy_h, a.gy_w, a.H, a.W, i, tile), 1)[0]
                if a.y != 0:
                    y = floats(element(a.y, a.y_n, a.y_h, a.y_w, a.H, a.W, i, tile), 1)[0]
                    g = g if y > ZERO else ZERO
                h = (x - mean) * inverse
                if write == 0:
                    sum_g += g
                    sum_gh = fma(g, h, sum_gh)
                else:
                    gx = scale * (g - (sum_g + h * sum_gh) / F(count))
                    floats(element(a.gx, a.gx_n, a.gx_h, a.gx_w, a.H, a.W, i, tile), 1)[0] = gx
        floats(a.gbeta, a.C)[tile] = sum_g
        floats(a.ggamma, a.C)[tile] = sum_gh

    return program
