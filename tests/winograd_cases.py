"""What the tests of Winograd share: its matrices, exact filters, equal bits, packing."""

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

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
