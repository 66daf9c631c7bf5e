"""What the tests of Winograd share: matrices, exact filters, guarded memory, bits, packing."""

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

GUARD = np.uint32(0x7FC0BEEF)  # a NaN that no arithmetic makes
EXACT = 576
KERNELS = [(3, 3), (5, 5), (1, 3), (3, 1), (1, 7), (7, 1)]

# The transforms as matrices, for the bound on partial sums: points 0, 1, -1, 2, -2, infinity.
B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def same(a, b):
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes(), f"{(a != b).sum()} of {a.size} differ"


def packed(w, direction, algorithm, level=""):
    k, r, s, c = w.shape
    out = np.full(core.packed_size(k, r, s, c, direction, algorithm, level), np.nan, np.float32)
    core.pack(w, out, direction, algorithm, level, 1)
    return out


def inside(array, rng=None):
    """A buffer of guards, and the array as a slice of its channels and rows; margins by chance."""
    n, h, w, c = array.shape
    left, right, row = (3, 2, 1) if rng is None else (int(e) for e in rng.integers(0, 5, 3))
    wide = np.full((n, h, w + row, left + c + right), GUARD).view(np.float32)
    view = wide[:, :, :w, left : left + c]
    view[...] = array
    return wide, view


def guarded(*shape):
    """An array of NaN between two bands of guards, and both bands."""
    size = int(np.prod(shape))
    flat = np.full(size + 64, GUARD).view(np.float32)
    return flat[32 : 32 + size].reshape(shape), (flat[:32], flat[32 + size :])


def untouched(*bands):
    return all((band.view(np.uint32) == GUARD).all() for band in bands)
