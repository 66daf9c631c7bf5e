"""One training step of GoogLeNet and of the small Inception, emulated beside the CPU's kernels.

The figure `emulated` (`benchmarks/figures.py emulated`) takes twenty.
"""

import sys
from pathlib import Path

import pytest

from pyinception import backend

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import figures_emulated


def test_a_step_of_both_networks() -> None:
    figure = figures_emulated.emulated(quick=True)
    assert figure.passed, figure.table()
    assert [row["net"] for row in figure.rows] == ["small_inception", "googlenet"]
    for row in figure.rows:
        assert min(row[what] for what in ("logits", "gradients", "weights")) > 0, "nothing compared"
