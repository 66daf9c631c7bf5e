"""Softmax cross-entropy, as tile programs with their plain twins.

    z_k     = logits[n, k] - max over k of logits[n, k]
    loss[n] = log(sum over k of e^z_k) - z_label          probs[n, k] = e^z_k / sum over k of e^z_k
    glogits[n, k] = g[n] (probs[n, k] - [k = label])

Large logits are harmless: the largest z is 0 and the sum is at least 1. A NaN among the logits
makes the row NaN. Records are args.SOFTMAX; a tile is one row n. Labels are checked by the caller;
should they have changed since (a recorded list runs later), the row is NaN and nothing is read or
written beyond it.

The maximum and the sum run over LANES running values, one per column modulo LANES, combined in the
order of lanes: the same bits at every CPU level.
"""

from numba import carray, cfunc, njit

from ..args import SOFTMAX
from .elementary import NAN, exp, log
from .memory import MINUS_INFINITY, ONE, OPTIONS, PROGRAM, ZERO, floats, integers, pointer
from .target import Target

LANES = 16


@njit(**OPTIONS)
def largest(row_at, K, lanes_at):
    """max of K floats, NaN left out."""
    lanes = floats(lanes_at, LANES)
    for i in range(LANES):
        lanes[i] = MINUS_INFINITY
    k = 0
    while k < K:
        values = floats(row_at + 4 * k, LANES)
        if k + LANES <= K:
            for i in range(LANES):
                lanes[i] = values[i] if values[i] > lanes[i] else lanes[i]
        else:
            for i in range(K - k):
                lanes[i] = values[i] if values[i] > lanes[i] else lanes[i]
        k += LANES
    best = lanes[0]
    for i in range(1, LANES):
        best = lanes[i] if lanes[i] > best else best
    return best


@njit(**OPTIONS)
def total_of(row_at, K, lanes_at):
    """Sum of K floats over LANES running sums."""
    lanes = floats(lanes_at, LANES)
    for i in range(LANES):
        lanes[i] = ZERO
    k = 0
    while k < K:
        values = floats(row_at + 4 * k, LANES)
        if k + LANES <= K:
            for i in range(LANES):
                lanes[i] += values[i]
        else:
            for i in range(K - k):
                lanes[i] += values[i]
        k += LANES
    total = lanes[0]
    for i in range(1, LANES):
        total += lanes[i]
    return total


@njit(**OPTIONS)
def exponentials(logits_at, K, best, probs_at):
    """probs[k] = e^(logits[k] - best)."""
    logits, probs = floats(logits_at, K), floats(probs_at, K)
    for k in range(K):
        probs[k] = exp(logits[k] - best)


@njit(**OPTIONS)
def finish(a, n, best, total):
    """probs[n] /= total, and loss[n]."""
    probs, loss = floats(a.probs + n * a.p_n * 4, a.K), floats(a.loss, a.N)
    for k in range(a.K):
        probs[k] /= total
    label = integers(a.labels, a.N)[n]
    if 0 <= label < a.K:
        loss[n] = log(total) - (floats(a.logits + (n * a.l_n + label) * 4, 1)[0] - best)
    else:
        loss[n] = NAN


def softmax_cross_entropy_fprop(target: Target):
    """Tile program of loss and probabilities."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), SOFTMAX)[0]
        logits, probs = a.logits + tile * a.l_n * 4, a.probs + tile * a.p_n * 4
        best = largest(logits, a.K, scratch)
        exponentials(logits, a.K, best, probs)
        finish(a, tile, best, total_of(probs, a.K, scratch))

    return program


def softmax_cross_entropy_fprop_plain(target: Target):
    """Loss and probabilities in three loops over the row, one chain of sums."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), SOFTMAX)[0]
        logits = floats(a.logits + tile * a.l_n * 4, a.K)
        probs = floats(a.probs + tile * a.p_n * 4, a.K)
        best, total = MINUS_INFINITY, ZERO
        for k in range(a.K):
            best = logits[k] if logits[k] > best else best
        for k in range(a.K):
            probs[k] = exp(logits[k] - best)
            total += probs[k]
        finish(a, tile, best, total)

    return program


def softmax_cross_entropy_dgrad(target: Target):
    """Tile program of the gradient: one loop for all columns, then the label's."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), SOFTMAX)[0]
        probs = floats(a.probs + tile * a.p_n * 4, a.K)
        glogits = floats(a.logits + tile * a.l_n * 4, a.K)
        label = integers(a.labels, a.N)[tile]
        known = 0 <= label < a.K
        g = floats(a.g, a.N)[tile] if known else NAN
        for k in range(a.K):
            glogits[k] = g * probs[k]
        if known:
            glogits[label] = g * (probs[label] - ONE)

    return program


def softmax_cross_entropy_dgrad_plain(target: Target):
    """The gradient, as its formula says it."""

    @cfunc(PROGRAM, **OPTIONS)
    def program(args, tile, scratch):
        a = carray(pointer(args), (1,), SOFTMAX)[0]
        probs = floats(a.probs + tile * a.p_n * 4, a.K)
        glogits = floats(a.logits + tile * a.l_n * 4, a.K)
        label = integers(a.labels, a.N)[tile]
        g = floats(a.g, a.N)[tile] if 0 <= label < a.K else NAN
        for k in range(a.K):
            glogits[k] = g * (probs[k] - (ONE if k == label else ZERO))

    return program
