"""Layers that stand in for PyTorch's own: same names and numbers, one pass instead of several."""

import copy

import pytest

from pyinception import backend
from pyinception.prepack import packs as packed_so_far

torch = pytest.importorskip("torch", reason="torch is not installed (extra `oracles`)")
REASON = backend.why_not("cpu")
if REASON is None:
    from torch import nn

    from pyinception.interop.torch import Conv2dReLU, LocalResponseNorm, kernels, replace_layers

pytestmark = [pytest.mark.oracles, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def network():
    torch.manual_seed(0)
    norm = nn.LocalResponseNorm(5, 1e-2, 0.75)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(inplace=True)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        norm,
        nn.Conv2d(8, 12, (1, 3), padding=(0, 1), bias=False),
        nn.ReLU(),
        norm,
        nn.Conv2d(12, 5, 3, padding="same"),
    )


def image(*shape):
    return torch.randn(shape).to(memory_format=torch.channels_last)


def error(mine, right):
    return float((mine - right).abs().max() / right.abs().max())


@pytest.fixture
def launched(monkeypatch):
    """The ops that our kernels ran."""
    ops, run = [], kernels._run
    monkeypatch.setattr(kernels, "_run", lambda plan, o: ops.append(plan.op) or run(plan, o))
    return ops


@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
def test_values_gradients_and_names_are_the_same(layout, launched):
    net = network()
    mine = copy.deepcopy(net)
    assert replace_layers(mine) == 3
    assert list(mine.state_dict()) == list(net.state_dict())
    kinds = [type(module) for module in mine.modules()]
    assert kinds.count(Conv2dReLU) == 2 and kinds.count(LocalResponseNorm) == 1
    assert replace_layers(mine) == 0
    x = torch.randn(2, 3, 23, 20).to(memory_format=getattr(torch, layout))
    with torch.no_grad():
        assert error(mine(x), net(x)) <= 1e-5
    assert launched == ["conv", "lrn", "conv", "lrn"]
    for one in (mine, net):
        one(x).square().sum().backward()
    assert launched.count("lrn") == 2  # with gradients it is PyTorch's
    for (name, p), q in zip(mine.named_parameters(), net.parameters(), strict=True):
        assert error(p.grad, q.grad) <= 1e-5, name


def test_filters_are_kept_and_followed():
    net = network()
    mine, x = copy.deepcopy(net), image(1, 3, 17, 17)
    replace_layers(mine)
    with torch.no_grad():
        mine(x)
        before = sum(packed_so_far.values())
        mine(x)
        assert sum(packed_so_far.values()) == before
        for one in (mine, net):
            one[0][0].weight.mul_(-1)
        assert error(mine(x), net(x)) <= 1e-5
        assert sum(packed_so_far.values()) == before + 1


def test_what_does_not_fit_stays_with_pytorch(launched):
    shared, relu = nn.Conv2d(4, 4, 1), nn.ReLU()
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2), relu,
        nn.Conv2d(4, 4, 3, dilation=2), relu,
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), relu,
        nn.Conv2d(4, 4, 2, padding="same"), relu,
        nn.Conv2d(4, 4, 1), nn.LocalResponseNorm(4), relu,
        shared, relu, shared,
        nn.Conv2d(4, 6, 1), nn.LeakyReLU(),
    )  # fmt: skip
    kinds = [type(module) for module in net]
    assert replace_layers(net) == 0 and [type(module) for module in net] == kinds
    double = network().double()
    x = image(1, 3, 15, 15).double()
    right = double(x)
    assert replace_layers(double) == 3
    with torch.no_grad():
        assert torch.equal(double(x), right) and launched == []


def test_a_relu_that_is_used_twice():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), relu)
    net.eval()
    mine, x = copy.deepcopy(net), image(1, 3, 6, 6)
    assert replace_layers(mine) == 1 and isinstance(mine[1], nn.Identity)
    with torch.no_grad():
        assert error(mine(x), net(x)) <= 1e-5


def test_compiled():
    mine, x = network(), image(2, 3, 19, 19)
    with torch.no_grad():
        right = mine(x)
        replace_layers(mine)
        compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
        assert error(compiled(x), right) <= 1e-5
    torch._dynamo.reset()
