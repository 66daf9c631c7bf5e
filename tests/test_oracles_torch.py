"""Ops and whole networks against PyTorch in float64, written without any code of ours.

Run where torch is installed (extra ``oracles``); skipped with a reason elsewhere.
"""

from typing import Any

import numpy as np
import pytest
from built import BACKENDS

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'oracles')")

import torch.nn.functional as F  # noqa: E402

import pyinception as pyi  # noqa: E402
from pyinception import losses, ops  # noqa: E402
from pyinception.tensor import Tensor  # noqa: E402

pytestmark = pytest.mark.oracles

DRAW = np.random.default_rng(21)
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def normal(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape)


def to_torch(a: np.ndarray, grad: bool = True) -> Any:
    """NHWC or KRSC to torch's NCHW or KCRS, in float64."""
    turned = a.transpose(0, 3, 1, 2) if a.ndim == 4 else a
    return torch.tensor(np.array(turned, order="C"), dtype=torch.float64, requires_grad=grad)


def to_numpy(t: Any) -> np.ndarray:
    a = t.detach().numpy()
    return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a


def compare(ours: Any, theirs: Any, *inputs: np.ndarray, **tolerance: float) -> None:
    """Results and the gradients of all inputs, in float64 through the reference."""
    limits = tolerance or TIGHT
    leaves = [Tensor(a, requires_grad=True) for a in inputs]
    twins = [to_torch(a) for a in inputs]
    with pyi.using(backend="reference"):
        y = ours(*leaves)
        z = theirs(*twins)
        np.testing.assert_allclose(y.data, to_numpy(z), **limits)
        gy = normal(*y.shape)
        y.backward(gy)
        z.backward(to_torch(gy, grad=False))
    for leaf, twin in zip(leaves, twins, strict=True):
        np.testing.assert_allclose(leaf.grad, to_numpy(twin.grad), **limits)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("geometry", [(1, 0), (1, 1), (2, 3), ((2, 1), (0, 2))])
def test_conv(geometry: Any, relu: bool) -> None:
    stride, padding = geometry
    compare(
        lambda x, w, b: ops.Conv(stride, padding, relu)(x, w, b),
        lambda x, w, b: _relu(F.conv2d(x, w, b, stride, padding), relu),
        normal(2, 9, 8, 3), normal(4, 3, 3, 3), normal(4),
    )  # fmt: skip


def _relu(x: Any, wanted: bool = True) -> Any:
    return F.relu(x) if wanted else x


def test_reduce_conv() -> None:
    compare(
        lambda *a: ops.ReduceConv()(*a),
        lambda x, wr, br, w, b: F.relu(F.conv2d(F.relu(F.conv2d(x, wr, br)), w, b, padding=1)),
        normal(2, 7, 6, 5), normal(3, 1, 1, 5), normal(3), normal(4, 3, 3, 3), normal(4),
    )  # fmt: skip


def module(x: Any, *p: Any) -> Any:
    """GoogLeNet's module in torch."""
    three = F.relu(F.conv2d(F.relu(F.conv2d(x, p[2], p[3])), p[4], p[5], padding=1))
    five = F.relu(F.conv2d(F.relu(F.conv2d(x, p[6], p[7])), p[8], p[9], padding=2))
    pooled = F.relu(F.conv2d(F.max_pool2d(x, 3, 1, 1), p[10], p[11]))
    return torch.cat([F.relu(F.conv2d(x, p[0], p[1])), three, five, pooled], 1)


def test_inception() -> None:
    shapes = ((2, 1, 5), (3, 1, 5), (4, 3, 3), (2, 1, 5), (3, 5, 2), (4, 1, 5))
    weights = [a for k, s, c in shapes for a in (normal(k, s, s, c), normal(k))]
    compare(lambda *a: ops.Inception()(*a), module, normal(2, 7, 6, 5), *weights)


@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool(ceil: bool) -> None:
    compare(
        lambda x: ops.Pool("max", 3, 2, 1, ceil)(x),
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil),
        normal(2, 8, 7, 3),
    )


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
def test_avg_pool(ceil: bool, include: bool) -> None:
    compare(
        lambda x: ops.Pool("avg", 3, 2, 1, ceil, include)(x),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil, include),
        normal(2, 8, 7, 3),
    )


def test_lrn() -> None:
    compare(
        lambda x: ops.Lrn(5, 0.2, 0.75, 1.5)(x),
        lambda x: F.local_response_norm(x, 5, 0.2, 0.75, 1.5),
        normal(2, 4, 3, 9),
    )


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm(relu: bool) -> None:
    compare(
        lambda x, g, b: ops.BatchNorm(1e-3, relu)(x, g, b),
        lambda x, g, b: _relu(F.batch_norm(x, None, None, g, b, True, 0.1, 1e-3), relu),
        normal(3, 4, 5, 6), normal(6), normal(6),
        rtol=1e-9, atol=1e-11,
    )  # fmt: skip


def test_batch_norm_layer_keeps_torchs_running_statistics() -> None:
    layer, twin = pyi.layers.BatchNorm(4).astype(np.float64), torch.nn.BatchNorm2d(4).double()
    with pyi.using(backend="reference"):
        for _ in range(3):
            x = normal(2, 3, 5, 4)
            layer(x)
            twin(to_torch(x, grad=False))
        np.testing.assert_allclose(layer.mean.data, twin.running_mean.numpy(), **TIGHT)
        np.testing.assert_allclose(layer.var.data, twin.running_var.numpy(), **TIGHT)
        x = normal(2, 3, 5, 4)
        np.testing.assert_allclose(
            layer.eval()(x).data, to_numpy(twin.eval()(to_torch(x))), rtol=1e-9, atol=1e-11
        )


def test_softmax_cross_entropy() -> None:
    labels = np.array([0, 4, 2, 2])
    compare(
        lambda x: losses.cross_entropy(x, labels),
        lambda x: F.cross_entropy(x, torch.tensor(labels)),
        3 * normal(4, 5),
    )


def test_linear() -> None:
    compare(
        lambda x, w, b: ops.Linear(True)(x, w, b),
        lambda x, w, b: F.relu(F.linear(x, w, b)),
        normal(4, 6), normal(3, 6), normal(3),
    )  # fmt: skip


def test_sgd() -> None:
    """Momentum and weight decay agree with torch's where the multipliers are one."""
    net = pyi.layers.Linear(5, 3)
    twin = torch.nn.Linear(5, 3)
    pyi.init.initialise(net, seed=1)
    for (_, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        ours.lr_mult = ours.decay_mult = 1.0
        theirs.data = torch.tensor(ours.data.copy())
    sgd = pyi.optim.SGD(net, 0.1, momentum=0.9, weight_decay=0.01)
    other = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            ours.grad = normal(*ours.shape).astype(np.float32)
            theirs.grad = torch.tensor(ours.grad.copy())
        sgd.step()
        other.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def googlenet(x: Any, p: dict[str, Any]) -> tuple[Any, Any, Any]:
    """GoogLeNet with heads, dropout off, in torch's own functions."""

    def conv(x: Any, name: str, **geometry: int) -> Any:
        return F.relu(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **geometry))

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def head(x: Any, name: str) -> Any:
        x = conv(F.avg_pool2d(x, 5, 3), f"{name}.conv")
        x = x.permute(0, 2, 3, 1).flatten(1)  # our linear layers read H, W, C
        return linear(F.relu(linear(x, f"{name}.fc1")), f"{name}.fc2")

    def inception(x: Any, name: str) -> Any:
        parts = "conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool_proj"
        return module(x, *(p[f"{name}.{part}.{k}"] for part in parts for k in ("weight", "bias")))

    def pool(x: Any) -> Any:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def lrn(x: Any) -> Any:
        return F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)

    x = lrn(pool(conv(x, "conv1", stride=2, padding=3)))
    x = pool(lrn(conv(conv(x, "conv2_reduce"), "conv2", padding=1)))
    x = pool(inception(inception(x, "inception_3a"), "inception_3b"))
    tap1 = x = inception(x, "inception_4a")
    for block in "bcd":
        x = inception(x, f"inception_4{block}")
    tap2 = x
    x = pool(inception(x, "inception_4e"))
    x = inception(inception(x, "inception_5a"), "inception_5b")
    x = F.avg_pool2d(x, 7, 1).flatten(1)
    return linear(x, "fc"), head(tap1, "aux1"), head(tap2, "aux2")


def test_googlenet_with_heads() -> None:
    """Logits of all three classifiers and every gradient of the weighted loss, at 224x224."""
    net = pyi.models.googlenet(num_classes=11, seed=3).astype(np.float64)
    net.drop.p = net.aux1.drop.p = net.aux2.drop.p = 0.0
    x, labels = 60 * normal(1, 224, 224, 3), np.array([7])
    twins = {name: to_torch(p.data) for name, p in net.named_parameters()}
    expected = googlenet(to_torch(x, grad=False), twins)
    with pyi.using(backend="reference"):
        outputs = net(x)
        for y, z in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(y.data, to_numpy(z), rtol=1e-10, atol=1e-11)
        losses.cross_entropy(outputs, labels).backward()
    target = torch.tensor(labels)
    main, aux1, aux2 = (F.cross_entropy(z, target) for z in expected)
    (main + 0.3 * (aux1 + aux2)).backward()
    for name, parameter in net.named_parameters():
        twin = to_numpy(twins[name].grad)
        error = np.linalg.norm(parameter.grad - twin) / np.linalg.norm(twin)
        assert error < 1e-10, (name, error)


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize(("algorithm", "limit"), [("direct", 2e-6), ("auto", 2e-5)])
def test_googlenet_logits_in_float32(where: str, algorithm: str, limit: float) -> None:
    """Largest error of three classifiers' logits over their largest number, batch 2."""
    net = pyi.models.googlenet(seed=3)
    net.drop.p = net.aux1.drop.p = net.aux2.drop.p = 0.0
    x = (60 * normal(2, 224, 224, 3)).astype(np.float32)
    twins = {name: to_torch(p.data, grad=False) for name, p in net.named_parameters()}
    expected = googlenet(to_torch(x, grad=False), twins)
    with pyi.using(backend=where, algorithm=algorithm), pyi.no_grad():
        outputs = net(x)
    for y, z in zip(outputs, expected, strict=True):
        z64 = to_numpy(z)
        assert np.abs(y.data - z64).max() / np.abs(z64).max() <= limit


def test_small_inception() -> None:
    net = pyi.models.small_inception(num_classes=4, seed=1).astype(np.float64)
    twins = {name: to_torch(p.data) for name, p in net.named_parameters()}

    def cbr(x: Any, name: str, stride: int = 1) -> Any:
        w = twins[f"{name}.conv.weight"]
        x = F.conv2d(x, w, twins[f"{name}.conv.bias"], stride, w.shape[2] // 2)
        gamma, beta = twins[f"{name}.norm.gamma"], twins[f"{name}.norm.beta"]
        return F.relu(F.batch_norm(x, None, None, gamma, beta, True))

    x, labels = normal(3, 28, 28, 3), np.array([3, 0, 1])
    y = cbr(to_torch(x, grad=False), "conv1")
    for name in ("inc1a", "inc1b", "down1", "inc2a", "inc2b", "inc2c", "inc2d", "down2",
                 "inc3a", "inc3b"):  # fmt: skip
        if name.startswith("down"):
            halves = cbr(y, f"{name}.conv3x3", 2), F.max_pool2d(y, 3, 2, 1)
        else:
            halves = cbr(y, f"{name}.conv1x1"), cbr(y, f"{name}.conv3x3")
        y = torch.cat(halves, 1)
    y = F.linear(y.mean((2, 3)), twins["fc.weight"], twins["fc.bias"])
    loss = F.cross_entropy(y, torch.tensor(labels))
    loss.backward()
    with pyi.using(backend="reference"):
        logits = net(x)
        np.testing.assert_allclose(logits.data, to_numpy(y), rtol=1e-8, atol=1e-9)
        losses.cross_entropy(logits, labels).backward()
    for name, parameter in net.named_parameters():
        twin = to_numpy(twins[name].grad)
        # A bias before batch norm has no gradient: what is left is rounding.
        if name.endswith("conv.bias"):
            assert np.abs(parameter.grad).max() < 1e-9
            continue
        error = np.linalg.norm(parameter.grad - twin) / np.linalg.norm(twin)
        assert error < 1e-8, (name, error)


def test_torch_tensors_at_the_border() -> None:
    """A torch tensor in, a torch tensor out, sharing memory; channels_last needs no copy."""
    from pyinception import workspace

    x = torch.randn(2, 3, 8, 7)
    w, b = torch.randn(4, 3, 3, 3), torch.randn(4)
    expected = F.relu(F.conv2d(x, w, b, padding=1))
    how = {"padding": 1, "relu": True, "layout": "NCHW"}
    counted = workspace.copies["conv2d: x"]
    y = pyi.conv2d(x, w, b, **how)
    assert isinstance(y, torch.Tensor)
    assert workspace.copies["conv2d: x"] == counted + 1
    torch.testing.assert_close(y, expected)
    last = x.to(memory_format=torch.channels_last)
    y = pyi.conv2d(last, w, b, **how)
    assert workspace.copies["conv2d: x"] == counted + 1
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)
    out = torch.empty_like(y)
    assert pyi.conv2d(last, w, b, out=out, **how) is out
    torch.testing.assert_close(out, expected)
    with pytest.raises(ValueError, match="out has strides"):
        pyi.conv2d(last, w, b, out=torch.empty(2, 4, 8, 7), **how)
    with pytest.raises(ValueError, match="fits both NHWC and NCHW"):
        pyi.conv2d(torch.randn(1, 3, 5, 3), torch.randn(2, 3, 3, 3))
    with pytest.raises(TypeError, match="does not export its memory"):
        pyi.conv2d(x.requires_grad_(), w, b, **how)
