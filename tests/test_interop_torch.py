"""The fused branch as a function of PyTorch tensors, against PyTorch's own two convolutions."""

import copy

import numpy as np
import pytest
from built import REASON, needs_core
from torch_runs import one_thread, relative_error, torch  # noqa: F401

from pyinception import config, workspace

if REASON is None:
    import torch.nn.functional as F

    from pyinception.interop.torch import kernels, prepack, reduce_conv2d

pytestmark = [pytest.mark.oracles, needs_core]
NAMES = ("x", "w_reduce", "b_reduce", "w", "b")
#          N   C  H  W  Cr  K  R  S  stride  padding
CASES = [
    (2, 24, 7, 9, 16, 20, 3, 3, 1, "same"),
    (1, 33, 6, 5, 17, 40, 5, 5, 1, "same"),
    (3, 5, 8, 8, 3, 4, 3, 3, 2, 1),
    (2, 6, 6, 6, 6, 6, 3, 3, 1, "same"),  # C = H = W: only the convention tells the axes apart
    (2, 8, 5, 9, 4, 7, 1, 5, (1, 2), (0, 2)),
    (1, 1, 1, 1, 1, 1, 3, 3, 1, 1),
    (2, 4, 6, 7, 3, 5, 3, 2, 1, "valid"),
]


def tensors(case, dtype=torch.float32, channels_last=False, grad=True):
    n, c, h, w, cr, k, r, s = case[:8]
    draw = torch.Generator().manual_seed(sum(case[:8]))
    shapes = (n, c, h, w), (cr, c, 1, 1), (cr,), (k, cr, r, s), (k,)
    scales = 1, (2 / c) ** 0.5, 0.1, (2 / (r * s * cr)) ** 0.5, 0.1
    made = [torch.randn(s, generator=draw, dtype=torch.float64) * f for s, f in zip(shapes, scales)]
    made = [t.to(dtype) for t in made]
    if channels_last:
        made[0] = made[0].to(memory_format=torch.channels_last)
    return [t.requires_grad_(grad) for t in made]


def chain(x, wr, br, w, b, stride=1, padding="same"):
    return F.relu(F.conv2d(F.relu(F.conv2d(x, wr, br)), w, b, stride, padding))


def run(function, arguments, gy, **window):
    """y and the gradients of sum(gy y)."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format) for t in arguments]
    leaves = [t.requires_grad_() for t in leaves]
    y = function(*leaves, **window)
    y.backward(gy.to(y.dtype))
    return [y.detach(), *(t.grad for t in leaves)]


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_torch(case, channels_last, algorithm):
    window = {"stride": case[8], "padding": case[9]}
    arguments = tensors(case, channels_last=channels_last)
    double = [t.detach().double() for t in arguments]
    shape = chain(*double, **window).shape
    gy = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    truth = run(chain, double, gy, **window)
    with config.using(algorithm=algorithm):
        ours = run(reduce_conv2d, arguments, gy, **window)
    theirs = run(chain, arguments, gy, **window)
    for name, mine, torchs, right in zip(("y", *NAMES), ours, theirs, truth, strict=True):
        assert mine.shape == right.shape
        assert mine.dtype == torch.float32
        # As exact as torch in the same precision. Four roundings are allowed where torch happens
        # to have fewer: a sum of a few terms may be exact by luck.
        limit = max(2 * relative_error(torchs, right), 4 * 2.0**-24)
        if algorithm == "auto":  # Winograd's documented error
            limit = max(limit, 1.5e-5)
        assert relative_error(mine, right) <= limit, name
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_gradients_the_bits_are_the_same(case):
    window = {"stride": case[8], "padding": case[9]}
    arguments = tensors(case)
    y = reduce_conv2d(*arguments, **window)
    assert y.grad_fn is not None
    with torch.no_grad():
        fused = reduce_conv2d(*arguments, **window)
    assert fused.grad_fn is None and not fused.requires_grad
    assert torch.equal(fused, y.detach())


def test_without_gradients_the_reduced_map_is_not_stored(monkeypatch):
    stored = []
    run = kernels._run

    def spy(plan, operands):
        stored.append([tuple(pair[0].shape) for pair in operands[5:] if pair is not None])
        run(plan, operands)

    monkeypatch.setattr(kernels, "_run", spy)
    reduce_conv2d(*tensors(CASES[0], grad=False))
    reduce_conv2d(*tensors(CASES[0]))
    assert stored == [[(2, 20, 7, 9)], [(2, 20, 7, 9), (2, 16, 7, 9)]]


def test_gradcheck():
    arguments = tensors((2, 3, 4, 5, 2, 3, 3, 3), torch.float64)
    for window in ({}, {"stride": (2, 1), "padding": 1}, {"padding": "valid"}):
        assert torch.autograd.gradcheck(lambda *t, w=window: reduce_conv2d(*t, **w), arguments)
    last = [arguments[0].detach().to(memory_format=torch.channels_last).requires_grad_()]
    assert torch.autograd.gradcheck(reduce_conv2d, last + arguments[1:])


def test_channels_last_is_not_copied():
    x, *weights = tensors((2, 24, 7, 9, 16, 20, 3, 3), channels_last=True)
    wide = torch.randn(2, 40, 7, 9).to(memory_format=torch.channels_last)
    for given in (x.detach(), wide[:, 8:32], x.detach()[:, :, 1:6, 2:7]):
        before = workspace.copies["reduce_conv2d: x"]
        y = reduce_conv2d(given.requires_grad_(), *weights)
        assert workspace.copies["reduce_conv2d: x"] == before
        assert relative_error(y, chain(given, *weights).detach().double()) < 1e-5


def test_contiguous_is_copied_once_for_both_directions():
    x, *weights = tensors(CASES[0])
    before = workspace.copies["reduce_conv2d: x"], workspace.copies["reduce_conv2d_backward: x"]
    y = reduce_conv2d(x, *weights)
    y.backward(torch.ones_like(y))
    after = workspace.copies["reduce_conv2d: x"], workspace.copies["reduce_conv2d_backward: x"]
    assert after == (before[0] + 1, before[1])


@pytest.mark.parametrize("kind", ["contiguous", "transposed", "expanded", "slice"])
def test_any_memory_of_gy(kind):
    arguments = tensors((2, 5, 6, 6, 4, 8, 3, 3))
    gy = {
        "contiguous": lambda: torch.randn(2, 8, 6, 6),
        "transposed": lambda: torch.randn(2, 8, 6, 6).transpose(2, 3),
        "expanded": lambda: torch.randn(2, 8, 1, 1).expand(2, 8, 6, 6),
        "slice": lambda: torch.randn(2, 20, 6, 6).to(memory_format=torch.channels_last)[:, 3:11],
    }[kind]()
    right = run(chain, [t.detach().double() for t in arguments], gy)
    for mine, truth in zip(run(reduce_conv2d, arguments, gy), right, strict=True):
        assert relative_error(mine, truth) < 1e-5


def test_empty_batch():
    arguments = tensors((0, 5, 6, 7, 3, 4, 3, 3))
    y = reduce_conv2d(*arguments)
    assert y.shape == (0, 4, 6, 7)
    y.sum().backward()
    assert arguments[0].grad.shape == (0, 5, 6, 7)
    for tensor in arguments[1:]:
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (3,), (4,), (0, 3, 4)])
def test_some_gradients(wanted):
    every = tensors(CASES[0])
    some = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(every)]
    for arguments in (every, some):
        reduce_conv2d(*arguments).square().sum().backward()
    for i, (all_of, one) in enumerate(zip(every, some, strict=True)):
        assert one.grad is None if i not in wanted else torch.equal(one.grad, all_of.grad)


def test_without_biases():
    x, wr, _, w, _ = tensors(CASES[0])
    y = reduce_conv2d(x, wr, None, w, None)
    truth = chain(x.double(), wr.double(), None, w.double(), None).detach()
    assert relative_error(y, truth) < 1e-5
    y.sum().backward()
    assert x.grad is not None and wr.grad is not None and w.grad is not None


def test_packed_filters():
    x, wr, br, w, b = tensors(CASES[0], grad=False)
    plain = reduce_conv2d(x, wr, br, w, b)
    assert torch.equal(reduce_conv2d(x, prepack(wr), br, prepack(w), b), plain)
    with pytest.raises(TypeError, match="w is packed, expected a tensor where gradients"):
        reduce_conv2d(x.requires_grad_(), wr, br, prepack(w), b)


def test_threads_follow_torch(monkeypatch):
    seen = []
    with_threads = config.with_threads

    def spy(count, function, *arguments):
        seen.append((count, with_threads(count, config.get, "threads")))
        return with_threads(count, function, *arguments)

    monkeypatch.setattr(config, "with_threads", spy)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with config.using(threads=3):
            reduce_conv2d(*tensors(CASES[0])).sum().backward()
    assert seen == [(1, 1), (1, 1), (2, 2), (2, 2)]


def test_second_derivatives_are_refused():
    arguments = tensors(CASES[0])
    y = reduce_conv2d(*arguments)
    (gx,) = torch.autograd.grad(y.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gx.sum().backward()


def test_errors_name_argument_expected_and_actual():
    x, wr, br, w, b = tensors((2, 5, 6, 7, 3, 4, 3, 3), grad=False)
    cases = [
        ((x.numpy(), wr, br, w, b), TypeError, "x is a ndarray, expected a torch.Tensor"),
        ((x.half(), wr, br, w, b), TypeError, "x has dtype torch.float16, expected torch.float32"),
        ((x, wr.double(), br, w, b), TypeError, "w_reduce has dtype torch.float64, expected torch"),
        ((x, wr, br, w, None if b is None else b.long()), TypeError, "b has dtype torch.int64"),
        ((x[0], wr, br, w, b), ValueError, r"x has shape \(5, 6, 7\), expected \(N, C, H, W\)"),
        (
            (x, wr[:, :4], br, w, b),
            ValueError,
            r"w_reduce has shape \(3, 4, 1, 1\), expected \(Cr, C, 1, 1\) = \(3, 5, 1, 1\)",
        ),
        ((x, wr, br[:2], w, b), ValueError, r"b_reduce has shape \(2,\), expected \(Cr\) = \(3,\)"),
        (
            (x, wr, br, w[:, :2], b),
            ValueError,
            r"w has shape \(4, 2, 3, 3\), expected \(K, Cr, R, S\) = \(4, 3, 3, 3\)",
        ),
        ((x, wr, br, w, b[:3]), ValueError, r"b has shape \(3,\), expected \(K\) = \(4,\)"),
        ((x.to("meta"), wr, br, w, b), TypeError, "on meta, expected a dense tensor on the cpu"),
        ((x.to_sparse(), wr, br, w, b), TypeError, "x is a torch.sparse_coo tensor"),
        ((x, None, br, w, b), TypeError, "w_reduce is a NoneType, expected a torch.Tensor"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            reduce_conv2d(*arguments)
        assert str(caught.value).startswith("reduce_conv2d: ")
    with pytest.raises(ValueError, match="reduce_conv2d: stride is 0"):
        reduce_conv2d(x, wr, br, w, b, stride=0)


class Branch(torch.nn.Module):
    """A tiny classifier whose features are one fused branch."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.reduce, self.conv = torch.nn.Conv2d(6, 4, 1), torch.nn.Conv2d(4, 8, 3)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        first, last = self.reduce, self.conv
        y = self.function(x, first.weight, first.bias, last.weight, last.bias)
        return self.head(y.mean((2, 3)))


def test_a_module_trains():
    torch.manual_seed(0)
    x, labels = torch.randn(12, 6, 9, 9), torch.arange(12) % 3
    mine = Branch(reduce_conv2d)
    double = copy.deepcopy(mine).double()
    double.function = chain
    single = copy.deepcopy(mine)
    single.function = chain

    def train(net, x):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return np.array(losses)

    truth = train(double, x.double())
    losses, theirs = train(mine, x), train(single, x)
    assert losses[-1] < losses[0]
    limit = max(4 * np.abs(theirs - truth).max(), 1e-6)
    assert np.abs(losses - truth).max() <= limit
