"""Direct convolutions on real data: one order of the sum for every tile, level and twin; its error.

Integers cannot see an order, so these operands are rounded at every step.
"""

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LEVELS = core.levels()
# H, C, K, filter, stride: filter rows that share a chunk, that fill one, that are cut into several.
CASES = [
    (9, 3, 33, 7, 2), (8, 16, 32, 5, 1), (8, 24, 40, 5, 1), (7, 96, 48, 3, 1), (7, 130, 17, 3, 1),
    (6, 257, 33, 3, 2), (5, 300, 32, 1, 1), (5, 832, 40, 1, 1),
]  # fmt: skip


def problem(H, C, K, R, stride):
    draw = np.random.default_rng(H * C + K)
    P = (H + 2 * (R // 2) - R) // stride + 1
    x = np.maximum(draw.standard_normal((2, H, H, C)), 0).astype(np.float32)
    w = (draw.standard_normal((K, R, R, C)) / np.sqrt(R * R * C / 2)).astype(np.float32)
    y, gy = (draw.standard_normal((2, P, P, K)).astype(np.float32) for _ in range(2))
    return x, w, draw.standard_normal(K).astype(np.float32), y, gy


def fprop(x, w, b, y, R, stride, algorithm, level, threads=2):
    out, geometry = np.empty_like(y), ((R, R), (stride,) * 2, (R // 2,) * 2)
    core.conv_fprop(x, w, b, out, *geometry, False, algorithm, level, threads)
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_order_for_levels_and_twins(case):
    *_, R, stride = case
    x, w, b, y, gy = problem(*case)
    expected = fprop(x, w, b, y, R, stride, "plain", LEVELS[0])
    geometry, gradients = ((R, R), (stride,) * 2, (R // 2,) * 2), []
    for level in LEVELS:
        assert np.array_equal(fprop(x, w, b, y, R, stride, "direct", level), expected), level
        slice_of_wider = np.concatenate([x, x], axis=3)[..., : x.shape[3]]
        assert np.array_equal(fprop(slice_of_wider, w, b, y, R, stride, "direct", level), expected)
        for mask in (None, y):  # unmasked maps are read in place, masked ones staged
            for algorithm in ("plain", "direct"):
                gx = np.empty_like(x)
                core.conv_dgrad(gy, w, mask, gx, *geometry, False, algorithm, level, 2)
                gradients.append((mask is None, gx))
    for kind in (True, False):
        first, *others = [gx for without, gx in gradients if without is kind]
        assert all(np.array_equal(gx, first) for gx in others)


@pytest.mark.parametrize("case", [(14, 96, 64, 3, 1), (14, 832, 64, 1, 1)], ids=str)
def test_the_error_does_not_grow_with_the_filter(case):
    """One chain over these 864 and 832 terms has an rms error of 3e-7 and more."""
    *_, R, stride = case
    x, w, b, y, _ = problem(*case)
    got = fprop(x, w, b, y, R, stride, "direct", LEVELS[0]).astype(np.float64)
    wide = np.pad(x.astype(np.float64), ((0, 0), (R // 2,) * 2, (R // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (R, R), axis=(1, 2))
    truth = np.einsum("npqcrs,krsc->npqk", windows, w.astype(np.float64)) + b
    rms = np.sqrt(((got - truth) ** 2).mean() / (truth**2).mean())
    assert 0 < rms < 2e-7
