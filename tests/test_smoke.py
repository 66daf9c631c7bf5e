"""One tiny forward and backward through every layer of the house; runs before each commit."""

import numpy as np
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import layers, losses, optim, rng


def test_reduce_conv_forward_and_backward() -> None:
    """The fused branch against the float64 reference; ReLU masks are those of the run itself."""
    shapes = (2, 7, 6, 9), (5, 1, 1, 9), (5,), (11, 3, 3, 5), (11,)
    x, wr, br, w, b = (rng.uniform(s, -1, 1, seed=i, purpose="smoke") for i, s in enumerate(shapes))
    y, r = pyi.reduce_conv2d(x, wr, br, w, b, return_reduced=True)
    exact = [a.astype(np.float64) for a in (x, wr, br, w, b)]
    y64, r64 = reference.reduce_conv_fprop(*exact, padding=(1, 1))
    gy = rng.uniform(y.shape, -1, 1, seed=9, purpose="smoke")
    found = pyi.reduce_conv2d_backward(gy, x, wr, w, r=r, y=y)
    given = [a.astype(np.float64) for a in (gy, x, wr, w, r, y)]
    wanted = reference.reduce_conv_backward(*given, stride=(1, 1), padding=(1, 1))
    assert 0.1 < np.mean(y > 0) < 0.9  # the masks have work to do
    # 200 roundings at the largest value: coarse, the derived bounds stand in the suites of the ops.
    for name, a, b64 in zip(
        ("y", "r", "gx", "gwr", "gbr", "gw", "gb"), (y, r, *found), (y64, r64, *wanted), strict=True
    ):
        assert a.dtype == np.float32 and a.shape == b64.shape, name
        assert np.abs(a - b64).max() <= 200 * 2**-24 * np.abs(b64).max(), name


def test_two_steps_of_a_small_network_lower_its_loss() -> None:
    """Convolution, module, pools, linear, dropout, loss, SGD: every gradient arrives."""
    net = pyi.module.Sequential(
        layers.Conv2d(3, 8, 3, padding=1, relu=True),
        layers.MaxPool2d(3, 2, ceil_mode=True),
        layers.Inception(8, 4, 4, 8, 2, 4, 4),
        layers.GlobalAvgPool(),
        layers.Dropout(0.1),
        layers.Linear(20, 4),
    )
    pyi.init.initialise(net, 0)
    optimizer = optim.SGD(net, lr=0.05)
    x = rng.uniform((4, 8, 8, 3), -1, 1, seed=3, purpose="smoke")
    labels = np.arange(4)
    before = float(losses.cross_entropy(net.eval()(x), labels).data)
    for _ in range(2):
        losses.cross_entropy(net.train()(x), labels).backward()
        missing = [name for name, p in net.named_parameters() if p.grad is None]
        assert missing == []
        optimizer.step()
    assert float(losses.cross_entropy(net.eval()(x), labels).data) < before
