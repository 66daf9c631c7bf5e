"""Depthwise convolution, separable layers and Xception against torch in float64."""

import numpy as np
import pytest
from reference_cases import relative_error

torch = pytest.importorskip("torch", reason="torch is not installed (extra `oracles`)")

import torch_xception  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_family import randomised  # noqa: E402

import pyinception as pyi  # noqa: E402
from pyinception import models  # noqa: E402
from pyinception.layers import fold_batch_norms  # noqa: E402


@pytest.mark.parametrize(
    ("channels", "multiplier", "kernel", "stride", "padding"),
    [(728, 1, (3, 3), 1, 1), (32, 1, (5, 3), (2, 1), (2, 0)), (3, 8, (7, 7), 2, 3)],
)
def test_depthwise_and_its_gradients(channels, multiplier, kernel, stride, padding) -> None:
    torch.manual_seed(0)
    k = channels * multiplier
    x, w = torch.randn(2, channels, 19, 17), torch.randn(k, 1, *kernel)
    b = torch.randn(k)
    leaves = [a.double().requires_grad_() for a in (x, w, b)]
    truth = F.relu(F.conv2d(*leaves, stride, padding, groups=channels))
    gy = torch.randn(truth.shape)
    gradients = torch.autograd.grad(truth, leaves, gy.double())
    given = x.numpy(), w.numpy()
    how = {"stride": stride, "padding": padding, "layout": "NCHW"}
    y = pyi.depthwise_conv2d(*given, b.numpy(), relu=True, **how)
    assert relative_error(y, truth.detach().numpy()) <= 1e-5
    mine = pyi.depthwise_conv2d_backward(gy.numpy(), *given, y=y, **how)
    for a, expected in zip(mine, gradients, strict=True):
        assert relative_error(a, expected.numpy()) <= 1e-5


def pair(classes: int) -> tuple[pyi.Module, torch.nn.Module]:
    """Xception twice, with the same weights and statistics."""
    torch.manual_seed(0)
    theirs = randomised(torch_xception.Xception(classes))
    net = models.xception(classes).eval()
    state = {
        name: torch_xception.as_ours(value).numpy()
        for key, value in theirs.state_dict().items()
        if (name := torch_xception.own_name(key)) is not None
    }
    net.load_state_dict(state)
    return net, theirs


def test_xception_forward_folded_and_session() -> None:
    net, theirs = pair(7)
    x = torch.randn(2, 3, 107, 107)
    with torch.no_grad():
        truth = theirs.double()(x.double()).numpy()
    images = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
    assert relative_error(net(images).data, truth) <= 1e-5
    folded = fold_batch_norms(net)
    assert relative_error(folded(images).data, truth) <= 1e-5
    session = pyi.Session(folded, images.shape)
    assert relative_error(session(images), truth) <= 1e-5
    assert session._launches is not None  # every call is the core's own
