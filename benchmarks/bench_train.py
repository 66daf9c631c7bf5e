"""A training step of GoogLeNet with both heads: forward, backward, SGD with momentum."""

import math
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import pyinception as pyi
from pyinception import config
from pyinception.session import specs

sys.path.append(str(Path(__file__).resolve().parent))

from figures_rivals import STEPS


@pytest.mark.parametrize("contender", STEPS)
def test_train(measure, settings, contender):
    threads, batch = settings
    if contender.startswith("torch") and find_spec("torch") is None:
        pytest.skip("torch: not installed")
    forward = sum(s.macs for _, _, s in specs(pyi.models.googlenet(), (batch, 224, 224, 3)))
    with config.using(threads=threads):
        step = STEPS[contender](batch)
        assert math.isfinite(step())
        # Either gradient takes as many multiply-adds as the forward; the heads are left out.
        measure(f"googlenet training step, batch {batch}", step, 3 * forward)
