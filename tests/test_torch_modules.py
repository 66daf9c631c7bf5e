"""PyTorch modules: the parameters they follow, and networks whose blocks they take over."""

import copy
import gc
import importlib
from pathlib import Path

import pytest
from built import REASON, needs_core
from torch_runs import image, one_thread, relative_error, torch  # noqa: F401

from pyinception.prepack import packs as packed_so_far

if REASON is None:
    import torch.nn.functional as F
    from torch import nn

    from pyinception.interop.torch import (
        Inception,
        ReduceConv2d,
        filters,
        inception,
        reduce_conv2d,
        replace_inception,
    )
    from pyinception.ops.weights import NAMES

pytestmark = [pytest.mark.oracles, needs_core]
WIDTHS = (4, 3, 6, 2, 5, 3)
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def alike():
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def packs():
    return sum(packed_so_far.values())


# --------------------------------------------------------------------------------------- modules


def modules():
    yield (
        ReduceConv2d(5, 3, 4, 3),
        2,
        lambda m, x: reduce_conv2d(x, m.w_reduce, m.b_reduce, m.w, m.b),
    )
    yield (
        ReduceConv2d(5, 3, 4, (1, 5), (1, 2), 0, bias=False),
        2,
        lambda m, x: reduce_conv2d(x, m.w_reduce, None, m.w, None, stride=(1, 2), padding=0),
    )
    for third in (5, 3):
        net = Inception(5, WIDTHS, third)
        yield net, 6, lambda m, x: inception(x, [getattr(m, n) for n in NAMES])


def test_filters_are_packed_once_and_again_when_they_change():
    x = image(2, 5, 7, 6)
    for net, count, function in modules():
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_()
            before = packs()
            right = function(net, x)
            assert packs() == before  # a function keeps nothing
            for _ in range(3):
                assert torch.equal(net(x), right)
            assert packs() == before + count
            assert torch.equal(net(image(3, 5, 9, 8)), net(image(3, 5, 9, 8))) is False
            assert packs() == before + count  # filters know nothing of N, H, W

            next(net.parameters()).mul_(-1)
            changed = function(net, x)
            assert torch.equal(net(x), changed) and not torch.equal(changed, right)
            assert packs() == before + count + 1

            other = {name: 2 * value for name, value in net.state_dict().items()}
            net.load_state_dict(other)
            assert torch.equal(net(x), function(net, x))
            assert packs() == before + 2 * count + 1

            for parameter in net.parameters():  # other memory, the same version
                parameter.data = parameter.data.clone() + 0.5
            assert torch.equal(net(x), function(net, x))

            for parameter in net.parameters():  # PyTorch does not count this
                parameter.data.add_(1)
            net.repack()
            assert torch.equal(net(x), function(net, x))


def test_other_filters_in_memory_that_was_let_go_of():
    """Rounded by `half` and back by `float`: often at the old address, in the old version."""
    x = image(2, 5, 7, 6)
    with torch.no_grad():
        for _ in range(30):
            net = ReduceConv2d(5, 3, 4, 3)
            net(x)
            net.half().float()
            right = reduce_conv2d(x, net.w_reduce, net.b_reduce, net.w, net.b)
            assert torch.equal(net(x), right)


def test_packed_filters_live_as_long_as_their_parameter():
    gc.collect()
    before = len(filters._kept)
    net = Inception(5, WIDTHS)
    with torch.no_grad():
        net(image(1, 5, 7, 7))
        twin = copy.deepcopy(net)
        assert torch.equal(twin(image(1, 5, 7, 7) * 0), net(image(1, 5, 7, 7) * 0))
    assert len(filters._kept) == before + 12
    del net, twin
    gc.collect()
    assert len(filters._kept) == before


def test_inference_mode():
    net, x = Inception(5, WIDTHS), image(2, 5, 7, 6)
    with torch.no_grad():
        right = net(x)
    with torch.inference_mode():
        assert torch.equal(net(x), right)
        made_inside = copy.deepcopy(net)  # its tensors have no version: packed at every call
        assert torch.equal(made_inside(x), right) and torch.equal(made_inside(x), right)


def test_modules_train():
    """Five steps of SGD on each module beside PyTorch's own layers in float64."""
    x, labels = image(8, 5, 6, 6), torch.arange(8) % 3

    def losses(net, x):
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        values = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x)[:, :3].mean((2, 3)), labels)
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        return torch.tensor(values, dtype=torch.float64)

    for net in (ReduceConv2d(5, 3, 4, 3), Inception(5, WIDTHS)):
        double = copy.deepcopy(net).double()  # the NumPy reference
        truth, mine = losses(double, x.double()), losses(net, x)
        assert mine[-1] < mine[0] and float((mine - truth).abs().max()) < 1e-5


def test_bad_arguments():
    for make, words in (
        (
            lambda: Inception(5, (1, 2, 3)),
            r"Inception: widths is \(1, 2, 3\), expected six numbers",
        ),
        (lambda: Inception(5, WIDTHS, 7), "Inception: third is 7, expected 3 or 5"),
        (lambda: ReduceConv2d(5, 0, 4, 3), "ReduceConv2d: reduced_channels is 0"),
        (lambda: ReduceConv2d(5, 3, 4, 2), 'padding is "same", expected an odd kernel'),
        (lambda: ReduceConv2d(5, 3, 4, 3, stride=0), "ReduceConv2d: stride is 0"),
        (
            lambda: Inception(5, WIDTHS)(image(1, 4, 3, 3)),
            r"inception: w1 has shape \(4, 5, 1, 1\)",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert "5 -> (4, 3, 6, 2, 5, 3), third=5" in repr(Inception(5, WIDTHS))
    assert "5 -> 3 -> 4, kernel_size=(3, 3)" in repr(ReduceConv2d(5, 3, 4, 3))


@pytest.mark.parametrize("how", ["aot_eager", "inductor"])
def test_compiled_modules_keep_their_filters(how):
    net = nn.Sequential(Inception(5, WIDTHS), ReduceConv2d(18, 4, 6, 3), nn.AdaptiveAvgPool2d(1))
    x = image(2, 5, 7, 6)
    with torch.no_grad():
        right = net(x)
        compiled = torch.compile(net, fullgraph=True, backend=how)
        before = packs()
        for _ in range(2):
            assert relative_error(compiled(x), right) < 1e-6
        assert packs() == before
        net[0].w3.mul_(2)
        assert relative_error(compiled(x), net(x)) < 1e-6 < relative_error(compiled(x), right)


# --------------------------------------------------------------------------- networks taken over


class BasicConv2d(nn.Module):
    """As torchvision writes it: no bias, batch norm, ReLU."""

    def __init__(self, c, k, **how):
        super().__init__()
        self.conv = nn.Conv2d(c, k, bias=False, **how)
        self.bn = nn.BatchNorm2d(k, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class VisionBlock(nn.Module):
    """As torchvision writes it; its third branch is 3x3."""

    def __init__(self, c, widths, unit=BasicConv2d):
        super().__init__()
        n1, r3, n3, r5, n5, proj = widths
        self.branch1 = unit(c, n1, kernel_size=1)
        self.branch2 = nn.Sequential(
            unit(c, r3, kernel_size=1), unit(r3, n3, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            unit(c, r5, kernel_size=1), unit(r5, n5, kernel_size=3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            unit(c, proj, kernel_size=1),
        )

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class PlainBlock(nn.Module):
    """Convolutions and ReLUs in flat Sequentials, 5x5 in the third branch."""

    def __init__(self, c, widths):
        super().__init__()
        n1, r3, n3, r5, n5, proj = widths
        self.branch1 = nn.Sequential(nn.Conv2d(c, n1, 1), nn.ReLU())
        self.branch2 = nn.Sequential(
            nn.Conv2d(c, r3, 1), nn.ReLU(), nn.Conv2d(r3, n3, 3, padding="same"), nn.ReLU()
        )
        self.branch3 = nn.Sequential(
            nn.Conv2d(c, r5, 1), nn.ReLU(), nn.Conv2d(r5, n5, 5, padding=2), nn.ReLU()
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(c, proj, 1), nn.ReLU())

    forward = VisionBlock.forward


class Net(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.inception3a = block(6, (4, 3, 6, 2, 5, 3))
        self.rest = nn.Sequential(nn.MaxPool2d(2), block(18, (5, 4, 7, 3, 4, 2)))
        self.fc = nn.Linear(18, 10)

    def forward(self, x):
        x = self.rest(self.inception3a(F.relu(self.conv(x))))
        return self.fc(x.mean((2, 3)))


def trained(block):
    """A network whose batch norms have seen something."""
    net = Net(block).train()
    for _ in range(3):
        net(torch.randn(4, 3, 14, 14))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -0.5, 2)
            nn.init.normal_(module.bias)
    return net.eval()


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize("block", [VisionBlock, PlainBlock])
def test_replace(block, layout):
    net = trained(block).to(memory_format=getattr(torch, layout))
    x = torch.randn(4, 3, 14, 12).to(memory_format=getattr(torch, layout))
    with torch.no_grad():
        right = net(x)
        truth = copy.deepcopy(net).double()(x.double())
        assert replace_inception(net) == 2
        assert isinstance(net.inception3a, Inception) and isinstance(net.rest[1], Inception)
        y = net(x)
    assert relative_error(y, right) <= 1e-5
    assert relative_error(y.double(), truth) <= max(2 * relative_error(right.double(), truth), 1e-6)
    assert not any(module.training for module in net.modules())
    third = {VisionBlock: 3, PlainBlock: 5}[block]
    assert net.inception3a.w5.shape == (5, 2, third, third)
    assert net.inception3a.w5.requires_grad is (block is PlainBlock)  # folded norms do not train


def test_a_replaced_network_trains_as_before():
    net = Net(PlainBlock)
    mine = copy.deepcopy(net)
    assert replace_inception(mine) == 2 and mine.inception3a.training
    x = torch.randn(4, 3, 12, 12)
    for each in (net, mine):
        each(x).square().sum().backward()
    assert relative_error(mine.conv.weight.grad, net.conv.weight.grad) < 1e-4
    first = net.inception3a.branch3[2]
    assert relative_error(mine.inception3a.w5.grad, first.weight.grad) < 1e-4
    assert relative_error(mine.inception3a.b5.grad, first.bias.grad) < 1e-4


class NoRelu(BasicConv2d):
    def forward(self, x):
        return self.bn(self.conv(x))


def changed(path, value):
    """A block with one part exchanged."""
    block = VisionBlock(6, WIDTHS).eval()
    *where, last = path.split(".")
    parent = block.get_submodule(".".join(where))
    setattr(parent, last, value) if not last.isdigit() else parent.__setitem__(int(last), value)
    return block


REFUSED = {
    "LeakyReLU": lambda: changed("branch1", nn.Sequential(nn.Conv2d(6, 4, 1), nn.LeakyReLU())),
    "without nn.ReLU": lambda: changed("branch1", nn.Conv2d(6, 4, 1)),
    "not relu": lambda: VisionBlock(6, WIDTHS, NoRelu).eval(),
    "nn.MaxPool2d": lambda: changed("branch4.0", nn.AvgPool2d(3, 1, 1)),
    "expected 3x3 with stride 1": lambda: changed("branch4.0", nn.MaxPool2d(5, 1, 2)),
    "no groups": lambda: changed(
        "branch2.1.conv", nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False)
    ),
    "expected stride 1": lambda: changed(
        "branch2.1.conv", nn.Conv2d(3, 6, 3, padding=2, dilation=2, bias=False)
    ),
    "convolutions of": lambda: changed("branch3.1.conv", nn.Conv2d(2, 5, 7, padding=3, bias=False)),
    "it also has extra": lambda: changed("extra", nn.ReLU()),
    "no running statistics": lambda: changed(
        "branch1.bn", nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "GroupNorm": lambda: changed("branch1.bn", nn.GroupNorm(2, 4)),
    "a Linear": lambda: changed("branch1", nn.Linear(6, 4)),
    "torch.float16": lambda: PlainBlock(6, WIDTHS).half(),
    "fit each other": lambda: changed("branch3.1", BasicConv2d(3, 5, kernel_size=3, padding=1)),
    "call model.eval": lambda: VisionBlock(6, WIDTHS).train(),
}


@pytest.mark.parametrize("words", REFUSED)
def test_other_blocks_are_refused_with_the_reason(words):
    block = REFUSED[words]()
    net = nn.Sequential(block)
    if words == "LeakyReLU":
        words = "without nn.ReLU"
    with pytest.raises(ValueError, match=r"replace_inception: model\.0 is not a block") as caught:
        replace_inception(net)
    assert words in str(caught.value) and net[0] is block
    assert replace_inception(net, strict=False) == 0 and net[0] is block


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="replace_inception: model has no block with branch1"):
        replace_inception(nn.Sequential(nn.Conv2d(3, 4, 1)))
    assert replace_inception(nn.Linear(3, 4), strict=False) == 0


# ---------------------------------------------------------------------------------- the examples


def test_googlenet_example(capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    arguments = ["--batches", "1", "2", "--size", "64", "--rounds", "1", "--compile", "aot_eager"]
    tables = importlib.import_module("torch_googlenet").main([*arguments, "--threads", "1"])
    assert list(tables) == [1, 2]
    for rows in tables.values():
        names = [row["name"] for row in rows]
        assert names[:3] == ["torch", "torch.compile", "blocks replaced"]
        assert names[3:] == ["replaced", "blocks, torch.compile"]
        assert all(row["ms"] > 0 and row["difference"] <= 1e-5 for row in rows)
    assert capsys.readouterr().out.count("blocks, torch.compile") == 2


def test_call_overhead_benchmark(capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.parent / "benchmarks")
    rows = importlib.import_module("call_overhead").main(["--rounds", "2"])
    assert [row["call"] for row in rows] == ["bare", "numpy", "torch", "torch module"]
    assert rows[0]["over_us"] == 0 and "5a/5x5" in capsys.readouterr().out
