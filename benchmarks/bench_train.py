"""A training step of GoogLeNet with both heads: forward, backward, SGD with momentum."""

import math
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import pyinception as pyi
from pyinception.tracing import specs

sys.path.append(str(Path(__file__).resolve().parent))

import training_step

STEPS = {"pyinception": training_step.ours, "torch": training_step.torch}


@pytest.mark.parametrize("contender", STEPS)
def test_train(measure, settings, contender, monkeypatch):
    threads, batch = settings
    if contender == "torch" and find_spec("torch") is None:
        pytest.skip("torch: not installed")
    monkeypatch.setattr(training_step, "THREADS", threads)
    net = pyi.models.googlenet(seed=1)
    forward = sum(spec.macs for _, _, spec in specs(net, (batch, 224, 224, 3)))
    step = STEPS[contender](batch, net.state_dict())
    assert math.isfinite(step())
    # Either gradient takes as many multiply-adds as the forward; the heads are left out.
    measure(f"googlenet training step, batch {batch}", step, 3 * forward)
