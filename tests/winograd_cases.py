"""What the tests of Winograd share: the exact filters' multiple, equal bits, packed filters."""

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

EXACT = 576


def same(a, b):
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes(), f"{(a != b).sum()} of {a.size} differ"


def packed(w, direction, algorithm, level=""):
    k, r, s, c = w.shape
    out = np.full(core.packed_size(k, r, s, c, direction, algorithm, level), np.nan, np.float32)
    core.pack(w, out, direction, algorithm, level, 1)
    return out
