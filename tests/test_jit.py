"""JIT mode: the tile programs compiled live take the place of the linked ones."""

import subprocess
import sys

import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")
pytest.importorskip("numba", reason="extra `jit`")

SCRIPT = """
import sys
import numpy as np
import pyinception._C as core
from pyinception.kernels import reference
from pyinception.kernels.cpu import live

draw = np.random.default_rng(0)
x = draw.integers(-3, 4, (2, 7, 6, 5)).astype(np.float32)
w = draw.integers(-3, 4, (9, 3, 3, 5)).astype(np.float32)
replaced = live.install(core, core.host_level(), ("pack", "conv_fprop_plain"))
assert sorted(replaced) == ["conv_fprop_plain", "pack"]
assert "numba" in sys.modules
for algorithm in ("direct", "plain"):
    y = np.full((2, 7, 6, 9), np.nan, np.float32)
    core.conv_fprop(x, w, None, y, (3, 3), (1, 1), (1, 1), False, algorithm, "", 2)
    assert np.array_equal(y, reference.conv2d_fprop(x, w, padding=(1, 1)))
"""


def test_live_programs_run_in_the_core():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_replacing_an_unknown_program_is_refused():
    with pytest.raises(ValueError, match="no program nonsense"):
        core.replace_program(core.host_level(), "nonsense", 0)
