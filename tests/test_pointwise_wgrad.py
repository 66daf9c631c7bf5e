"""The filter gradients of 1x1s, alone and of siblings: exact, in one order; packed filters."""

import numpy as np
import pytest
from pyinception.kernels import reference

import pyinception as pyi
from pyinception.backend import built_core

core = built_core()
LEVELS = core.levels()
# (N, H, W, C, K): one chunk of pixels, several, a last one of few; channels beyond whole vectors
SHAPES = [
    (1, 1, 1, 5, 3),
    (2, 9, 8, 48, 16),
    (1, 7, 23, 67, 24),
    (3, 11, 10, 16, 9),
    (5, 8, 8, 97, 56),
]


def sliced(array: np.ndarray, before: int, after: int) -> np.ndarray:
    """The same numbers as a slice of the channels of a wider map of NaN."""
    *where, c = array.shape
    wide = np.full((*where, before + c + after), np.nan, np.float32)
    wide[..., before : before + c] = array
    return wide[..., before : before + c]


def gradients(x, gy, y, level, threads, bias=True):
    k, c = gy.shape[3], x.shape[3]
    gw, gb = np.full((k, 1, 1, c), np.nan, np.float32), np.full(k, np.nan, np.float32)
    where = (1, 1), (1, 1), (0, 0), "auto", level, threads
    core.conv_wgrad(x, gy, y, gw, gb if bias else None, *where)
    return gw, gb


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_integers(shape, level):
    n, h, w, c, k = shape
    draw = np.random.default_rng(n * c)
    x = sliced(draw.integers(-8, 9, (n, h, w, c)).astype(np.float32), 3, 2)
    gy = sliced(draw.integers(-8, 9, (n, h, w, k)).astype(np.float32), 1, 4)
    for y in (None, sliced(draw.integers(-1, 2, (n, h, w, k)).astype(np.float32), 2, 1)):
        want = reference.conv2d_wgrad(x, gy, (k, 1, 1, c), y=y)
        for threads in (1, 3):
            gw, gb = gradients(x, gy, y, level, threads)
            assert (gw == want[0]).all() and (gb == want[1]).all()
            assert np.isnan(gradients(x, gy, y, level, threads, bias=False)[1]).all()
    assert np.count_nonzero(want[0]) > want[0].size / 2 or want[0].size < 100


def test_nothing_is_positive_in_a_mask_of_nan():
    ones = np.ones((1, 3, 3, 20), np.float32)
    gw, gb = gradients(ones, ones, ones * np.nan, "", 1)
    assert not gw.any() and not gb.any()


def test_an_empty_batch_has_gradients_of_zero():
    gw, gb = gradients(
        np.empty((0, 4, 4, 60), np.float32), np.empty((0, 4, 4, 20), np.float32), None, "", 2
    )
    assert not gw.any() and not gb.any()


def test_siblings_have_the_bits_of_each_alone_on_any_number_of_threads():
    draw = np.random.default_rng(4)
    widths = (40, 24, 16, 20, 16, 24)  # of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, projection
    module = pyi.layers.Inception(72, *widths)
    pyi.init.initialise(module, 3)
    x = draw.standard_normal((3, 9, 9, 72)).astype(np.float32)
    gy = draw.standard_normal((3, 9, 9, 96)).astype(np.float32)
    found = []
    for threads in (1, 2, 5):
        with pyi.using(threads=threads):
            y = module(pyi.Tensor(x))
            y.backward(gy)
        found.append({name: p.grad for name, p in module.named_parameters()})
        for p in module.parameters():
            p.grad = None
    for other in found[1:]:
        for name, g in found[0].items():
            assert g.tobytes() == other[name].tobytes(), name
    alone = gradients(x, gy[..., :40], y.data[..., :40], "", 2)
    assert found[0]["conv1x1.weight"].tobytes() == alone[0].tobytes()
    assert found[0]["conv1x1.bias"].tobytes() == alone[1].tobytes()


def test_error_against_float64():
    draw = np.random.default_rng(5)
    x, gy = (draw.standard_normal((4, 28, 28, c)).astype(np.float32) for c in (64, 32))
    gw, gb = gradients(x, gy, None, "", 2)
    want = gy.reshape(-1, 32).astype(np.float64).T @ x.reshape(-1, 64).astype(np.float64)
    rms = np.sqrt(np.square(gw[:, 0, 0] - want).mean() / np.square(want).mean())
    assert rms < 5e-7  # chains of 157 terms, 20 of them; one chain of 3136 has 2e-6
    assert np.allclose(gb, gy.sum((0, 1, 2), dtype=np.float64), rtol=0, atol=1e-3)


PACKED = [
    (33, 1, 1, 40),
    (70, 1, 1, 33),
    (16, 3, 3, 17),
    (48, 2, 1, 1),
    (8, 1, 1, 70),
    (96, 1, 1, 64),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", PACKED)
@pytest.mark.parametrize("direction", ["fprop", "dgrad"])
def test_packed_filters_have_every_number_in_its_lane(shape, direction, level):
    """Lanes side by side, channels side by side, neither; panels beyond K are zero."""
    vl = 16 if level == "x86-64-v4" else 8
    w = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    apart = np.full((*shape[:3], 2 * shape[3]), np.nan, np.float32)[..., ::2]
    apart[...] = w
    f = w if direction == "fprop" else np.flip(w, (1, 2)).transpose(3, 1, 2, 0)
    k, r, s, c = f.shape
    panels = []
    for first in range(0, k, 2 * vl):
        lanes = min(k - first, 2 * vl)
        panel = np.zeros((r, s, c, vl if lanes <= vl else 2 * vl), np.float32)
        panel[..., :lanes] = f[first : first + lanes].transpose(1, 2, 3, 0)
        panels.append(panel.reshape(-1))
    want = np.concatenate(panels)
    for given in (w, apart):
        packed = np.full(want.size, np.nan, np.float32)
        core.pack(given, packed, direction, "direct", level, 2)
        assert packed.tobytes() == want.tobytes()
