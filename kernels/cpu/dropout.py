"""Dropout by a counter, as a tile program with its plain twin.

    y[n, e] = x[n, e] / (1 - p) where word[n, e] >= round(p 2^32), else +0
    word[n, e] = word e % 4 of Philox4x32-10((e // 4, first_sample + n, step, layer), seed)

e counts a sample's elements in the order H, W, C. The bits depend on the counter alone: neither on
batch nor on threads; the same call on gy is the backward. y may be x itself. Salmon et al.,
Parallel Random Numbers: As Easy as 1, 2, 3 (2011).

Records are args.DROPOUT; a tile is TILE elements of one sample, whose words are made in scratch in
one long loop over counters.
"""

import numpy as np
from numba import carray, cfunc, njit

from ..args import DROPOUT
from .memory import OPTIONS, PROGRAM, ZERO, floats, pointer
from .target import Target

TILE = 4096  # elements; the core counts tiles with the same number
U = np.uint64
WORD, SHIFT = U(0xFFFFFFFF), U(32)
M0, M1 = U(0xD2511F53), U(0xCD9E8D57)  # multipliers and Weyl constants of the paper
W0, W1 = U(0x9E3779B9), U(0xBB67AE85)


@njit(**OPTIONS, inline="always")
def words(address, count):
    """uint32 view of memory."""
    return carray(pointer(address), (count,), np.uint32)


@njit(**OPTIONS, inline="always")
def philox(c0, c1, c2, c3, key):
    """Ten rounds on four 32-bit words, each in a uint64; returns the four words."""
    k0, k1 = key & WORD, key >> SHIFT
    for _ in range(10):
        m0, m1 = M0 * c0, M1 * c2
        c0, c1 = (m1 >> SHIFT) ^ c1 ^ k0, m1 & WORD
        c2, c3 = (m0 >> SHIFT) ^ c3 ^ k1, m0 & WORD
        k0, k1 = (k0 + W0) & WORD, (k1 + W1) & WORD
    return c0, c1, c2, c3


@njit(**OPTIONS)
def make_words(to, block, count, sample, step, layer, seed):
    """Words of `count` counters from `block` on, four each, as uint32 at address `to`."""
    out = words(to, 4 * count)
    for i in range(count):
        c0, c1, c2, c3 = philox(U(block + i), U(sample), U(step), U(layer), U(seed))
        out[4 * i] = np.uint32(c0)
        out[4 * i + 1] = np.uint32(c1)
        out[4 * i + 2] = np.uint32(c2)
        out[4 * i + 3] = np.uint32(c3)


@njit(**OPTIONS)
def keep_or_drop(x_at, y_at, words_at, count, last, divisor):
    """y = x / divisor where the word is above `last` (the threshold less one), else +0."""
    x, y, word = floats(x_at, count), floats(y_at, count), words(words_at, count)
    for i in range(count):
        kept = x[i] / divisor
        y[i] = kept if word[i] > last else ZERO


@njit(**OPTIONS)
def keep_all(x_at, y_at, count, divisor):
    """y = x / divisor."""
    x, y = floats(x_at, count), floats(y_at, count)
    for i in range(count):
        y[i] = x[i] / divisor


def dropout(target: Target):
    """Tile program: words first, then runs of channels that lie together."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), DROPOUT)[0]
        E = a.H * a.W * a.C
        tiles = (E + TILE - 1) // TILE
        n, e = tile // tiles, tile % tiles * TILE
        end = min(e + TILE, E)
        make_words(scratch, e // 4, (end - e + 3) // 4, a.first_sample + n, a.step, a.layer, a.seed)
        last = np.uint32(a.threshold - 1)
        at = scratch
        while e < end:
            pixel, c = e // a.C, e % a.C
            h, w = pixel // a.W, pixel % a.W
            run = min(a.C - c, end - e)
            x = a.x + (n * a.x_n + h * a.x_h + w * a.x_w + c) * 4
            y = a.y + (n * a.y_n + h * a.y_h + w * a.y_w + c) * 4
            if a.threshold > 0:
                keep_or_drop(x, y, at, run, last, a.divisor)
            else:
                keep_all(x, y, run, a.divisor)
            at += 4 * run
            e += run

    return program


def dropout_plain(target: Target):
    """One counter per element; tile = one sample."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), DROPOUT)[0]
        e = 0
        for h in range(a.H):
            for w in range(a.W):
                x = floats(a.x + (tile * a.x_n + h * a.x_h + w * a.x_w) * 4, a.C)
                y = floats(a.y + (tile * a.y_n + h * a.y_h + w * a.y_w) * 4, a.C)
                for c in range(a.C):
                    sample = U(a.first_sample + tile)
                    four = philox(U(e // 4), sample, U(a.step), U(a.layer), U(a.seed))
                    i = e % 4
                    word = four[0] if i == 0 else four[1]
                    word = word if i < 2 else (four[2] if i == 2 else four[3])
                    y[c] = x[c] / a.divisor if word >= U(a.threshold) else ZERO
                    e += 1

    return program
