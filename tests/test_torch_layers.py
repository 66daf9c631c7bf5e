"""Layers that stand in for PyTorch's own: same names and numbers, one pass instead of several."""

import copy

import pytest
from built import REASON, needs_core
from torch_runs import image, relative_error, torch

from pyinception import config
from pyinception.prepack import packs as packed_so_far

if REASON is None:
    from torch import nn
    from torch.autograd import forward_ad

    from pyinception.interop.torch import (
        Conv2dReLU,
        LocalResponseNorm,
        functions,
        kernels,
        replace_layers,
    )

pytestmark = [pytest.mark.oracles, needs_core]


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
        assert relative_error(mine(x), net(x)) <= 1e-5
    assert launched == ["conv", "lrn", "conv", "lrn"]
    for one in (mine, net):
        one(x).square().sum().backward()
    assert launched.count("lrn") == 2  # with gradients it is PyTorch's
    for (name, p), q in zip(mine.named_parameters(), net.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) <= 1e-5, name


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
        assert relative_error(mine(x), net(x)) <= 1e-5
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
        assert relative_error(mine(x), net(x)) <= 1e-5


def test_compiled():
    mine, x = network(), image(2, 3, 19, 19)
    with torch.no_grad():
        right = mine(x)
        replace_layers(mine)
        compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
        assert relative_error(compiled(x), right) <= 1e-5
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_steps_of_a_fused_optimizer_are_seen(kind):
    """They change parameters without counting it."""
    mine, x = network(), image(2, 3, 15, 15)
    replace_layers(mine)
    with torch.no_grad():
        before = mine(x)
    optimizer = kind(mine.parameters(), 0.1, fused=True)
    mine(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = mine(x)
        assert relative_error(after, before) > 1e-3
        assert relative_error(after, copy.deepcopy(mine)(x)) <= 1e-5


def test_transforms_and_autocast_are_pytorchs():
    plain, x = network().requires_grad_(False), image(1, 3, 15, 15)
    mine, t = copy.deepcopy(plain), torch.randn(1, 3, 15, 15)
    replace_layers(mine)
    value, tangent = torch.func.jvp(plain, (x,), (t,))
    ours = torch.func.jvp(mine, (x,), (t,))
    assert tangent.abs().max() > 0
    assert relative_error(ours[0], value) <= 1e-5 and relative_error(ours[1], tangent) <= 1e-5
    slopes = [torch.func.grad(lambda x, net=net: net(x).sum())(x) for net in (plain, mine)]
    assert relative_error(slopes[1], slopes[0]) <= 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        first, own = plain[0](x), mine[0](x)  # the next layers would cast what ours gave
        assert own.dtype == first.dtype == torch.bfloat16


def test_tangents_are_never_lost():
    x, w = image(1, 4, 6, 6), torch.randn(4, 4, 3, 3)
    with pytest.raises(RuntimeError):
        torch.func.jvp(lambda w: functions.conv2d(x, w), (w,), (torch.randn_like(w),))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.randn_like(x))
        with pytest.raises(RuntimeError):
            functions.conv2d(dual, w)
        with pytest.raises(RuntimeError, match="no derivative"):
            torch.ops.pyinception.conv2d(dual, w, None, [1, 1], [0, 0], False, False)


def test_hooks_and_constants_that_are_not_ours_stay():
    seen = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    net[1].register_forward_hook(lambda *_: seen.append(1))
    assert replace_layers(net) == 0
    net(image(1, 3, 6, 6))
    assert seen == [1]
    for how in ({"k": 0.0}, {"alpha": -1e-4}, {"beta": -0.5}):
        assert replace_layers(nn.Sequential(nn.LocalResponseNorm(5, **how))) == 0


def test_the_plain_switch_reads_filters_as_they_are():
    layer, x = Conv2dReLU(16, 16, 3, padding=1), image(1, 16, 6, 6)
    with torch.no_grad():
        kept = layer(x)
        with config.using(algorithm="plain"):
            assert relative_error(layer(x), kept) < 1e-5


def test_a_strided_bias_is_copied():
    x, w, b = image(1, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(8)[::2]
    right = torch.nn.functional.conv2d(x, w, b)
    assert relative_error(functions.conv2d(x, w, b), right) < 1e-5
