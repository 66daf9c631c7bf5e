"""Pools, normalisation, linear, loss and dropout of the compiled core against the NumPy reference.

Every case runs at each CPU level, fast and plain, on 1, 2 and 3 threads. Each run lays its operands
out anew (dense at an odd offset, a channel slice, padded rows); outputs start as a NaN of its own
bits inside a guarded buffer. All runs of an algorithm must agree to the bit, so must a sample
alone. Pools and linear equal the reference exactly on small integers; the rest has derived bounds:
u = 2^-24 is half an ulp of 1, and each constant counts roundings.
"""

import math

import numpy as np
import pytest
from op_runs import (
    CHANNELS,
    COUNT,
    LEAST,
    Out,
    call,
    core,
    map_shape,
    per_level,
    real,
    run,
    same,
    u,
    whole,
    within,
)
from pyinception.kernels import reference

# -------------------------------------------------------------------------------------------- pools


def pools(seed):
    """(rng, x shape, (kernel, stride, padding), ceil_mode), awkward ones first."""
    rng = np.random.default_rng(seed)
    yield rng, (2, 1, 1, 17), ((1, 1), (1, 1), (0, 0)), False
    yield rng, (1, 7, 7, 70), ((7, 7), (1, 1), (0, 0)), False
    yield rng, (1, 112 // 8, 112 // 8, 64), ((3, 3), (2, 2), (0, 0)), True
    yield rng, (2, 3, 3, 3), ((3, 3), (1, 1), (1, 1)), False
    yield rng, (1, 15, 17, 3), ((15, 17), (1, 1), (0, 0)), False  # 255 taps
    yield rng, (1, 2, 9, 5), ((2, 2), (5, 3), (1, 0)), True  # pixels that no window sees
    for _ in range(COUNT):
        shape, kernel = map_shape(rng), rng.integers(1, 5, 2)
        padding = [int(rng.integers(0, k)) for k in kernel]
        kernel = [
            min(int(k), n + 2 * p) for k, n, p in zip(kernel, shape[1:3], padding, strict=True)
        ]
        padding = [min(p, k - 1) for p, k in zip(padding, kernel, strict=True)]
        kernel = [min(k, n + 2 * p) for k, n, p in zip(kernel, shape[1:3], padding, strict=True)]
        stride = tuple(map(int, rng.integers(1, 4, 2)))
        yield rng, shape, (tuple(kernel), stride, tuple(padding)), bool(rng.integers(2))


@per_level
def test_max_pool(level):
    for rng, shape, where, ceil in pools(1):
        x = whole(rng, *shape)
        y, argmax = reference.max_pool_fprop(x, *where, ceil)
        made = [x, Out(y.shape), Out(y.shape, dtype=np.uint8)]
        (got, who), _ = run("max_pool_fprop", made, where, level, rng, alone=(0, 1, 2))
        same(got, y)
        same(who, argmax)
        (got,), _ = run("max_pool_fprop", [*made[:2], None], where, level, rng, alone=(0, 1))
        same(got, y)
        gy, start = whole(rng, *y.shape), whole(rng, *shape)
        gx = reference.max_pool_dgrad(gy, argmax, shape, *where)
        (got,), _ = run(
            "max_pool_dgrad", [gy, argmax, Out(shape)], where, level, rng, alone=(0, 1, 2)
        )
        same(got, gx)
        operands = [gy, argmax, Out(shape, start)]
        (got,), _ = run("max_pool_dgrad", operands, where, level, rng, accumulate=True)
        same(got, start + gx)


@per_level
def test_max_pool_takes_the_first_nan_and_the_first_maximum(level):
    rng, where = np.random.default_rng(2), ((3, 3), (1, 1), (1, 1))
    for _ in range(COUNT):
        values = np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1.0, 2.0], np.float32)
        x = rng.choice(values, (2, 4, 5, 19), p=[0.08, 0.3, 0.02, 0.2, 0.2, 0.1, 0.1])
        y, argmax = reference.max_pool_fprop(x, *where)
        made = [x, Out(y.shape), Out(y.shape, dtype=np.uint8)]
        (got, who), _ = run("max_pool_fprop", made, where, level, rng)
        same(who, argmax)
        same(got, y)
    assert np.isnan(y).any() and (argmax > 0).any()


@per_level
def test_avg_pool(level):
    for rng, shape, where, ceil in pools(3):
        for include in (True, False):
            x = whole(rng, *shape)
            y = reference.avg_pool_fprop(x, *where, ceil, include)
            (got,), _ = run(
                "avg_pool_fprop", [x, Out(y.shape)], (*where, include), level, rng, alone=(0, 1)
            )
            same(got, y)
            gy, start = whole(rng, *y.shape), whole(rng, *shape)
            gx = reference.avg_pool_dgrad(gy, shape, *where, include)
            operands = [gy, Out(shape)]
            (got,), _ = run("avg_pool_dgrad", operands, (*where, include), level, rng, alone=(0, 1))
            same(got, gx)
            # Multiples of every count of cells: each share, and so each sum, is exact.
            gy *= 144 if math.prod(where[0]) <= 16 else math.prod(where[0])
            gx = reference.avg_pool_dgrad(gy, shape, *where, include)
            operands, scalars = [gy, Out(shape, start)], (*where, include)
            (got,), _ = run("avg_pool_dgrad", operands, scalars, level, rng, accumulate=True)
            same(got, start + gx)


# ---------------------------------------------------------------------------------------------- lrn


@per_level
def test_lrn(level):
    rng = np.random.default_rng(4)
    for case in range(COUNT):
        shape = map_shape(rng)
        size, alpha = int(rng.choice([1, 3, 5, 5, 5, 9])), float(rng.choice([1e-4, 0.25, 1.0]))
        beta, k = (0.75, 1.0) if case % 3 else (float(rng.choice([0.5, 1.25, 0.0])), 2.0)
        scalars = size, alpha, beta, k
        x, gy = real(rng, *shape, scale=4), real(rng, *shape)
        xd, gd = x.astype(np.float64), gy.astype(np.float64)
        y = reference.lrn_fprop(xd, *scalars)
        gx = reference.lrn_dgrad(gd, xd, *scalars)
        (got,), _ = run("lrn_fprop", [x, Out(shape)], scalars, level, rng, alone=(0, 1))
        # s: size + 1 roundings of the sum, 6 of alpha / size, its product and k; all positive.
        s = k + alpha / size * reference._channel_sums(xd * xd, size)
        power = 5 if beta == 0.75 else 2 * (3 + 2 * beta * np.abs(np.log(s)))
        e = beta * (size + 7) + power + 2
        within(got, y, e * u * np.abs(y) + LEAST)
        operands = [gy, x, Out(shape)]
        (got,), _ = run("lrn_dgrad", operands, scalars, level, rng, alone=(0, 1, 2))
        direct = np.abs(gd) * s**-beta
        t = direct * np.abs(xd) / s
        spread = 2 * alpha * beta / size * np.abs(xd)
        worst = (np.max(e, initial=0) + 2 * size + 16) * reference._channel_sums(t, size) * spread
        within(got, gx, u * ((e + 2) * direct + worst) + LEAST)


@per_level
@pytest.mark.parametrize("channels", [3, 7, 17, 30, 32])
def test_lrn_without_a_constant(channels, level):
    """k = 0 and two last channels of zeros: past the end s is 0, and nothing of it comes back."""
    rng = np.random.default_rng(5)
    shape = 2, 3, 2, channels
    x = rng.choice([-2, -1, 1, 2], shape).astype(np.float32)
    x[..., -2:] = 0
    gy, scalars = real(rng, *shape), (5, 1.0, 0.75, 0.0)
    for op, inputs, truth in (
        ("lrn_fprop", [x], reference.lrn_fprop(x, *scalars)),
        ("lrn_dgrad", [gy, x], reference.lrn_dgrad(gy, x, *scalars)),
    ):
        (got,), _ = run(op, [*inputs, Out(shape)], scalars, level, rng)
        np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------- linear


@per_level
def test_linear(level):
    rng = np.random.default_rng(5)
    for case in range(COUNT):
        N, C, K = int(rng.integers(9)), int(rng.choice(CHANNELS)), int(rng.choice(CHANNELS))
        x, w, gy = whole(rng, N, C), whole(rng, K, C), whole(rng, N, K)
        b, relu = (whole(rng, K), True) if case % 2 else (None, False)
        y = reference.linear_fprop(x, w, b, relu=relu)
        (got,), _ = run("linear_fprop", [x, w, b, Out(y.shape)], (relu,), level, rng, alone=(0, 3))
        assert np.array_equal(got, y)
        mask = y if relu else None
        gx = reference.linear_dgrad(gy, w, y=mask)
        batched = (0, 2, 3) if relu else (0, 3)
        (got,), _ = run("linear_dgrad", [gy, w, mask, Out(x.shape)], (), level, rng, alone=batched)
        assert np.array_equal(got, gx)
        gw, gb = reference.linear_wgrad(x, gy, y=mask)
        buffers = np.full((K, C), np.nan, np.float32), np.full(K, np.nan, np.float32)
        for algorithm in ("auto", "plain"):
            core.linear_wgrad(x, gy, mask, *buffers, algorithm, level, 2)
            assert np.array_equal(buffers[0], gw) and np.array_equal(buffers[1], gb)
        core.linear_wgrad(x, gy, mask, buffers[0], None, "auto", level, 1)
        for direction, operands in (("fprop", [x, b, y]), ("dgrad", [gy, mask, gx])):
            packed = np.empty(core.packed_size(K, 1, 1, C, direction, level=level), np.float32)
            core.pack(w.reshape(K, 1, 1, C), packed, direction, level=level)
            scalars = (relu,) if direction == "fprop" else ()
            made = [operands[0], packed, operands[1], Out(operands[2].shape)]
            (got,) = call(f"linear_{direction}", made, scalars, level, "auto", 2, rng)
            assert np.array_equal(got, operands[2])


# ------------------------------------------------------------------------------------ loss, dropout


@per_level
def test_softmax_cross_entropy(level):
    rng = np.random.default_rng(6)
    op = "softmax_cross_entropy_"
    for case in range(COUNT):
        N, K = int(rng.integers(5)), int(rng.choice([1, 2, 10, 15, 16, 17, 100, 1000]))
        logits = real(rng, N, K, scale=[1, 20, 1e4][case % 3]) + np.float32(1e5 * (case % 5 == 0))
        labels = rng.integers(0, K, N)
        loss, probs = reference.softmax_cross_entropy_fprop(logits.astype(np.float64), labels)
        both = run(
            op + "fprop", [logits, labels, Out((N,)), Out((N, K))], (), level, rng, agree=False
        )
        z = np.abs(logits - logits.max(axis=1, keepdims=True, initial=-np.inf), dtype=np.float64)
        # A term: its z and exp; the sum: its terms and K additions.
        total = np.sum(np.minimum(probs * z, 1e30), axis=1, keepdims=True) + K + 3
        z_label = np.take_along_axis(z, labels[:, None], axis=1)[:, 0]
        log_total = np.log(np.exp(-z).sum(axis=1))
        loss_bound = u * (total[:, 0] + 2 * log_total + z_label + loss)
        for got_loss, got_probs in both:
            within(got_probs, probs, u * probs * (z + 3 + total) + 2 * LEAST)
            within(got_loss, loss, 1.01 * loss_bound)
        g, p = real(rng, N), both[0][1]
        (got,), _ = run(op + "dgrad", [p, labels, g, Out((N, K))], (), level, rng)
        assert np.array_equal(got, reference.softmax_cross_entropy_dgrad(p, labels, g))


@per_level
def test_softmax_of_odd_rows(level):
    rows = np.zeros((5, 37), np.float32)
    rows[0, 3] = np.nan
    rows[1] = 3e38
    rows[2, 5] = np.inf
    rows[3, :36] = -np.inf
    for algorithm in ("auto", "plain"):
        loss, probs = np.empty(5, np.float32), np.empty_like(rows)
        labels = np.array([0, 1, 2, 36, 36])
        core.softmax_cross_entropy_fprop(rows, labels, loss, probs, algorithm, level, 1)
        assert np.isnan(probs[0]).all() and np.isnan(loss[[0, 2]]).all()
        same(probs[1], np.full(37, np.float32(1) / np.float32(37)))
        assert probs[3].tolist() == [0.0] * 36 + [1.0] and loss[3] == 0
        # A recorded list meets labels that have changed since: nothing is read or written beyond.
        with core.record() as launches:
            core.softmax_cross_entropy_fprop(rows, labels, loss, probs, algorithm, level, 1)
            glogits, g = np.empty_like(rows), np.ones(5, np.float32)
            core.softmax_cross_entropy_dgrad(probs, labels, g, glogits, algorithm, level, 1)
        labels[1], labels[4] = 1 << 40, -1
        launches.run(1)
        assert np.isnan(loss[[1, 4]]).all() and loss[3] == 0
        assert np.isnan(glogits[[1, 4]]).all() and not np.isnan(glogits[3]).any()


@per_level
def test_dropout(level):
    rng = np.random.default_rng(7)
    for case in range(COUNT):
        shape = map_shape(rng) if case % 2 else (int(rng.integers(4)), int(rng.integers(1, 9999)))
        p = [0.0, 0.4, 0.5, 0.999, 1e-12, 1 - 2.0**-40][case % 6]
        seed, step, layer = (
            int(rng.integers(2**64, dtype=np.uint64)),
            *map(int, rng.integers(2**32, size=2)),
        )
        first = 0 if case % 3 else 2**32 - shape[0]
        if shape[0] and first == 2**32:
            first -= shape[0]
        x = real(rng, *shape)
        x.flat[: x.size // 9] = np.inf
        first = min(first, 2**32 - 1)
        y = reference.dropout(x, p, seed=seed, step=step, layer=layer, first_sample=first)
        scalars = p, seed, step, layer, first
        (got,), _ = run("dropout", [x, Out(shape)], scalars, level, rng)
        same(got, y)
        core.dropout(x, x, *scalars, "auto", level, 2)  # in place
        same(x, y)


# ------------------------------------------------------------------------------ batch normalisation


@per_level
def test_batch_norm(level):
    rng = np.random.default_rng(8)
    for case in range(COUNT):
        shape = (
            map_shape(rng) if case % 3 else (int(rng.integers(1, 99)), int(rng.choice(CHANNELS)))
        )
        C, M, relu = shape[-1], math.prod(shape[:-1]), bool(case % 2)
        eps = float(np.float32(1e-3))
        x, gy = real(rng, *shape, scale=3) + np.float32(case % 4), real(rng, *shape)
        gamma, beta = real(rng, C), real(rng, C)
        xd, gd, gammad, betad = (v.astype(np.float64) for v in (x, gy, gamma, beta))
        _, mean, var = reference.batch_norm_fprop(xd, gammad, betad, eps=eps)
        operands = [x, gamma, beta, Out(shape), Out((C,)), Out((C,))]
        both = run("batch_norm_fprop", operands, (eps, relu), level, rng, agree=False)
        axes = tuple(range(len(shape) - 1))
        size = np.abs(xd).sum(axis=axes) / max(M, 1)
        for y, m, v in both:
            within(m, mean, (M + 2) * u * size)
            # (x - mean)^2, its sum, and what the mean's error adds.
            within(v, var, (M + 6) * u * var + 2 * ((M + 2) * u * size) ** 2 + LEAST)
            given = m.astype(np.float64), v.astype(np.float64)
            exact = reference.batch_norm_inference(xd, gammad, betad, *given, eps=eps, relu=relu)
            term = np.abs(gammad * (xd - given[0])) / np.sqrt(given[1] + eps)
            within(y, exact, u * (5 * term + np.abs(exact)) + LEAST)
        y, m, v = both[0]
        operands = [x, gamma, beta, m, v, Out(shape)]
        (got,), _ = run("batch_norm_inference", operands, (eps, relu), level, rng, alone=(0, 5))
        same(got, y)
        mask = y if relu else None
        operands = [gy, x, gamma, m, v, mask, Out(shape), Out((C,)), Out((C,))]
        both = run("batch_norm_dgrad", operands, (eps,), level, rng, agree=False)
        given = m.astype(np.float64), v.astype(np.float64)
        blocked = None if mask is None else mask.astype(np.float64)
        exact = reference.batch_norm_dgrad(gd, xd, gammad, *given, eps=eps, y=blocked)
        h = np.abs(xd - given[0]) / np.sqrt(given[1] + eps)
        g = np.abs(gd) if mask is None else np.abs(gd) * (mask > 0)
        G, GH = g.sum(axis=axes), (g * h).sum(axis=axes)
        scale = np.abs(gammad) / np.sqrt(given[1] + eps)
        gx_bound = scale * (7 * g + ((M + 9) * G + (M + 17) * h * GH) / max(M, 1))
        for gx, ggamma, gbeta in both:
            within(gx, exact[0], u * gx_bound + LEAST)
            within(ggamma, exact[1], (M + 6) * u * GH + LEAST)
            within(gbeta, exact[2], M * u * G + LEAST)


@per_level
def test_batch_norm_is_accurate_beside_a_large_offset(level):
    """Many chunks, mean 1000 times the deviation: only the chunk's own sums may lose digits."""
    rng, shape = np.random.default_rng(9), (3, 56, 56, 48)
    x, C, M = real(rng, *shape) + np.float32(1000), 48, 3 * 56 * 56
    one, (y, m, v) = np.ones(C, np.float32), (np.empty(s, np.float32) for s in (shape, C, C))
    _, mean, var = reference.batch_norm_fprop(*(a.astype(np.float64) for a in (x, one, one)), eps=0)
    results = []
    for threads in (1, 2, 3):
        core.batch_norm_fprop(x, one, one, y, m, v, 0.0, False, "auto", level, threads)
        results.append((y.copy(), m.copy(), v.copy()))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same(a, b)
    chunk = (128 << 10) // (4 * 56 * 48) * 56  # pixels
    assert M > 4 * chunk
    within(m, mean, 4 * u * np.abs(mean))
    within(v, var, (chunk + M / chunk + 10) * u * var)


@per_level
def test_batch_norm_variance_of_many_equal_squares(level):
    """Equal squares are rounded to one side: a chain of all 32,768 would err by thousands of u.

    Two rows of 32 make a chain and 512 chains a sum; one rounding each, and those of the square.
    """
    x = np.full((1, 1024, 32, 1), 0.7, np.float32)
    x[:, :, ::2] *= -1
    one, (y, m, v) = np.ones(1, np.float32), (np.empty(s, np.float32) for s in (x.shape, 1, 1))
    core.batch_norm_fprop(x, one, one, y, m, v, 0.0, False, "auto", level, 2)
    exact = float(x[0, 0, 0, 0]) ** 2
    within(v, np.array([exact]), (64 + 512 + 10) * u * exact)


# ----------------------------------------------------------------------------- elementary functions


def test_exp_and_log_within_an_ulp():
    """A fine sweep of both against float64; the ulp is that of the exact result."""
    numba = pytest.importorskip("numba")
    from pyinception.kernels.cpu import elementary

    apply = {}
    for name in ("exp", "log"):
        function = getattr(elementary, name)

        @numba.njit
        def sweep(x, y, function=function):
            for i in range(x.size):
                y[i] = function(x[i])

        apply[name] = sweep
    normal = np.linspace(-87.3, 88.7, 2_000_003).astype(np.float32)
    denormal = np.linspace(-104.5, -87.3, 200_003).astype(np.float32)
    positive = np.arange(1, 0x7F800000, 1021, dtype=np.uint32).view(np.float32)
    near_one = np.arange(0x3F000000, 0x40000000, 17, dtype=np.uint32).view(np.float32)
    sweeps = ("exp", normal), ("exp", denormal), ("log", positive), ("log", near_one)
    for name, x in sweeps:
        y = np.empty_like(x)
        apply[name](x, y)
        exact = getattr(np, name)(x.astype(np.float64))
        ulp = np.spacing(np.maximum(np.abs(exact), 2.0**-126).astype(np.float32)).astype(np.float64)
        assert np.max(np.abs(y - exact) / ulp) <= 1, name
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 200.0, -200.0, -1.0], np.float32)
    with np.errstate(all="ignore"):
        for name in ("exp", "log"):
            y = np.empty_like(odd)
            apply[name](odd, y)
            np.testing.assert_allclose(y, getattr(np, name)(odd), rtol=4 * u, atol=0)
