"""Private names of PyTorch that decide about short cuts: without one, calls go the long way."""

import pytest
from torch_runs import relative_error, torch

from pyinception import backend

if REASON := backend.why_not("cpu"):
    pytest.skip(REASON, allow_module_level=True)

from torch.autograd import forward_ad

from pyinception.interop.torch import (
    conv2d,
    prepack,
    reduce_conv2d,
    replace_layers,
    watch,
)

pytestmark = pytest.mark.oracles


def arguments():
    shapes = (2, 5, 7, 6), (3, 5, 1, 1), (3,), (4, 3, 3, 3), (4,)
    return [torch.randn(s, generator=torch.Generator().manual_seed(sum(s))) for s in shapes]


PRIVATE = {
    "_C._len_torch_dispatch_stack": "_modes",
    "_C._len_torch_function_stack": "_function_modes",
    "_C._functorch.peek_interpreter_stack": "_transform",
    "_C._get_tracing_state": "_traced",
    "autograd._profiler_enabled": "_profiled",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_a_pytorch_without_a_private_name_takes_the_long_way(name, monkeypatch):
    assert watch._named(name) is getattr(watch, PRIVATE[name])
    assert watch._named(f"{name}_of_old") is None
    x, *rest = arguments()
    right = reduce_conv2d(x, *rest)
    assert not watch.watched()
    monkeypatch.setattr(watch, PRIVATE[name], None)
    assert watch.watched()
    for grad in (False, True):
        y = reduce_conv2d(x.clone().requires_grad_(grad), *rest)
        assert torch.equal(y, right) and y.requires_grad == grad
    assert torch.equal(reduce_conv2d(x, prepack(rest[0]), *rest[1:]), right)
    net = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3), torch.nn.ReLU()).eval()
    with torch.no_grad():
        before = net(x)
        assert replace_layers(net) == 1
        assert relative_error(net(x), before.double()) <= 1e-6


def test_a_pytorch_without_a_level_of_tangents_is_asked_in_public(monkeypatch):
    x, w, b, *_ = arguments()
    b = torch.zeros(len(w))
    monkeypatch.delattr(forward_ad, "_current_level")
    monkeypatch.setattr(forward_ad, "make_dual", _refuse)
    assert not watch.in_forward_mode()
    assert torch.equal(conv2d(x, prepack(w), b), conv2d(x, w, b))
    monkeypatch.setattr(forward_ad, "make_dual", lambda t, d: t)
    assert watch.in_forward_mode()


def _refuse(tensor, tangent):
    raise RuntimeError("no level exists")


def test_make_dual_tells_whether_there_is_a_level():
    t = torch.zeros(0)
    with pytest.raises(RuntimeError):
        forward_ad.make_dual(t, t)
    with forward_ad.dual_level():
        forward_ad.make_dual(t, t)
        assert watch.in_forward_mode()
