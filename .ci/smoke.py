"""An installed wheel: kernels against the reference, a network, and nothing loaded but NumPy."""

import sys

import numpy as np

import pyinception as pyi

draw = np.random.default_rng(0)
x = draw.integers(-3, 4, (2, 9, 9, 8)).astype(np.float32)
wr = draw.integers(-3, 4, (4, 1, 1, 8)).astype(np.float32)
w = draw.integers(-3, 4, (6, 3, 3, 4)).astype(np.float32)
fused = pyi.reduce_conv2d(x, wr, None, w, None, backend="cpu")
truth = pyi.reduce_conv2d(x, wr, None, w, None, backend="reference")
assert np.array_equal(fused, truth)
assert not {"numba", "llvmlite", "torch"} & set(sys.modules)
if pyi.doctor()["backends"]["emulated"] is None:
    assert np.array_equal(pyi.reduce_conv2d(x, wr, None, w, None, backend="emulated"), truth)
net = pyi.models.googlenet(num_classes=10)
logits = pyi.Session(net, input_shape=(1, 224, 224, 3))(np.zeros((1, 224, 224, 3), np.float32))
assert logits.shape == (1, 10)
sys.stdout.write(f"the wheel runs with NumPy alone: {pyi.__file__}\n")
