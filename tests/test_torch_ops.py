"""The ops registered with PyTorch: schemas, tracing, compilation, copies, refusals."""

import subprocess
import sys

import pytest
from built import REASON, needs_core
from torch_runs import one_thread, relative_error, torch  # noqa: F401

from pyinception import config, workspace

if REASON is None:
    import torch.nn.functional as F
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    import pyinception as pyi
    from pyinception.interop.torch import conv2d, inception, ops, prepack, reduce_conv2d
    from pyinception.ops.weights import NAMES, weight_shapes

pytestmark = [pytest.mark.oracles, needs_core]
WIDTHS = (4, 3, 6, 2, 5, 3)


def draw(*shape, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(sum(shape))
    value = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    value = value.to(dtype)
    return value.to(memory_format=torch.channels_last) if value.ndim == 4 else value


def conv_arguments(dtype=torch.float32):
    return draw(2, 5, 7, 6, dtype=dtype), draw(4, 5, 3, 3, dtype=dtype), draw(4, dtype=dtype)


def branch_arguments(dtype=torch.float32):
    shapes = (2, 5, 7, 6), (3, 5, 1, 1), (3,), (4, 3, 3, 3), (4,)
    return tuple(draw(*shape, dtype=dtype) for shape in shapes)


def module_arguments(dtype=torch.float32, third=5, channels=5):
    shapes = [
        s if len(s) == 1 else (s[0], s[3], *s[1:3]) for s in weight_shapes(channels, WIDTHS, third)
    ]
    return draw(2, channels, 7, 6, dtype=dtype), tuple(draw(*s, dtype=dtype) for s in shapes)


def torch_module(x, w1, b1, wr3, br3, w3, b3, wr5, br5, w5, b5, wp, bp):
    """GoogLeNet's module as PyTorch writes it."""
    r3, r5 = F.relu(F.conv2d(x, wr3, br3)), F.relu(F.conv2d(x, wr5, br5))
    parts = (
        F.conv2d(x, w1, b1),
        F.conv2d(r3, w3, b3, padding="same"),
        F.conv2d(r5, w5, b5, padding="same"),
        F.conv2d(F.max_pool2d(x, 3, 1, 1), wp, bp),
    )
    return F.relu(torch.cat(parts, 1))


# ---------------------------------------------------------------------------------- registration


def samples(dtype):
    """(op name, arguments) of every registered op."""
    x, w, b = conv_arguments(dtype)
    window = (1, 2), (1, 0)
    y = ops.op("conv2d")(x, w, b, *window, True)
    yield "conv2d", (x, w, b, *window, True)
    yield "conv2d", (x, w, None, *window, False)
    yield "conv2d_backward", (torch.ones_like(y), x, w, y, *window)
    yield "conv2d_backward", (torch.ones_like(y), x, w, None, *window)
    branch = branch_arguments(dtype)
    x, wr, _, w, _ = branch
    window = (1, 1), (1, 1)
    y, r = ops.op("reduce_conv2d_saved")(*branch, *window)
    yield "reduce_conv2d", (*branch, *window)
    yield "reduce_conv2d", (*branch, *window, True)
    yield "reduce_conv2d_saved", (x, wr, None, w, None, *window)
    yield "reduce_conv2d_backward", (torch.ones_like(y), x, wr, w, r, y, *window)
    for third in (5, 3):
        x, weights = module_arguments(dtype, third)
        y, *saved = ops.op("inception_saved")(x, list(weights))
        yield "inception", (x, list(weights))
        yield "inception_saved", (x, list(weights))
        yield "inception_backward", (torch.ones_like(y), x, list(weights), y, saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(dtype):
    """Schema, aliasing, agreement with the traced shapes and strides, dynamic shapes."""
    seen = set()
    for name, arguments in samples(dtype):
        torch.library.opcheck(ops.op(name), arguments)
        seen.add(name)
    assert seen == set(ops.NAMES)


@pytest.mark.parametrize("shape", [(0, 5, 7, 6), (1, 5, 1, 1), (2, 1, 3, 1), (1, 1, 1, 1)], ids=str)
def test_traced_strides_are_the_real_ones_where_extents_are_0_or_1(shape):
    x, c = draw(*shape), shape[1]
    arguments = (x, draw(3, c, 1, 1), draw(3), draw(1, 3, 3, 3), draw(1), (1, 1), (1, 1))
    torch.library.opcheck(ops.op("reduce_conv2d_saved"), arguments)
    for result in ops.op("reduce_conv2d_saved")(*arguments):
        again = torch.empty(result.shape, memory_format=torch.channels_last)
        assert result.stride() == again.stride()


def test_gradcheck():
    """Every gradient against central differences, in float64 (the NumPy reference)."""
    for arguments, function in (
        (conv_arguments(torch.float64), lambda *t: conv2d(*t, stride=(2, 1), padding=1, relu=True)),
        (conv_arguments(torch.float64), lambda x, w, b: conv2d(x, w, padding="same")),
        (branch_arguments(torch.float64), lambda *t: reduce_conv2d(*t, padding=(2, 0))),
    ):
        leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in arguments]
        assert torch.autograd.gradcheck(function, leaves, fast_mode=False)
    for third in (5, 3):
        x, weights = module_arguments(torch.float64, third)
        leaves = [t.clone().requires_grad_() for t in (x, *weights)]
        assert torch.autograd.gradcheck(lambda x, *w: inception(x, w), leaves, fast_mode=True)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("third", [5, 3])
def test_inception_against_torch(third, algorithm):
    """y and all gradients, at most twice torch's own error against float64."""
    x, weights = module_arguments(third=third, channels=9)
    gy = draw(2, sum(WIDTHS[i] for i in (0, 2, 4, 5)), 7, 6)

    def run(function, dtype):
        leaves = [t.to(dtype).clone().requires_grad_() for t in (x, *weights)]
        y = function(*leaves)
        y.backward(gy.to(dtype))
        return [y, *(t.grad for t in leaves)]

    truth = run(torch_module, torch.float64)
    theirs = run(torch_module, torch.float32)
    with config.using(algorithm=algorithm):
        ours = run(lambda x, *w: inception(x, w), torch.float32)
        with torch.no_grad():
            alone = inception(x, weights)
    for name, mine, yours, right in zip(("y", "x", *NAMES), ours, theirs, truth, strict=True):
        limit = max(2 * relative_error(yours, right.detach()), 4 * 2.0**-24)
        limit = limit if algorithm == "direct" else max(limit, 1.5e-5)  # Winograd's own
        assert relative_error(mine, right.detach()) <= limit, name
    assert torch.equal(alone, ours[0].detach())
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


def test_channels_last_is_read_where_it_lies():
    """No byte is copied of channels_last maps, slices of them, or filters, in either direction."""
    x, weights = module_arguments()
    wide = draw(2, 12, 7, 6)
    before = dict(workspace.copied_bytes)
    for given in (x, wide[:, 3:8], wide[:, 3:8, 1:6, 2:]):
        for contiguous in (False, True):  # PyTorch's own order of a filter is an order like another
            order = torch.contiguous_format if contiguous else torch.channels_last
            filters = [
                w.contiguous(memory_format=order) if w.ndim == 4 else w.clone() for w in weights
            ]
            leaves = [given.detach().requires_grad_(), *(w.requires_grad_() for w in filters)]
            y = inception(leaves[0], leaves[1:])
            y.backward(torch.ones_like(y))
            with torch.no_grad():
                assert torch.equal(inception(given, filters), y)
        conv2d(given, weights[0], weights[1], relu=True)
        reduce_conv2d(given, *weights[2:6])
    assert dict(workspace.copied_bytes) == before
    inception(x.contiguous(), weights)
    assert workspace.copied_bytes["inception: x"] - before.get("inception: x", 0) == x.nbytes


# ------------------------------------------------------------------------------------ compilation


def fresh_compile(function, how):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=how)


@pytest.mark.parametrize("how", ["aot_eager", "inductor"])
@pytest.mark.parametrize("grad", [False, True])
def test_compile(how, grad):
    """One graph, with what PyTorch fuses around it; results and gradients as in eager mode."""
    x, weights = module_arguments()
    branch = branch_arguments()[1:]

    def net(x, weights, branch):
        y = inception(2 * x, weights).mean((2, 3))
        return (
            y.sum(1)
            + reduce_conv2d(x.contiguous(), *branch).amax((1, 2, 3))
            + conv2d(x, weights[0], relu=True).sum((1, 2, 3))
        )

    def run(function):
        leaves = [t.clone().requires_grad_(grad) for t in (x, *weights, *branch)]
        y = function(leaves[0], tuple(leaves[1:13]), tuple(leaves[13:]))
        if grad:
            y.sum().backward()
        return [y.detach(), *(t.grad for t in leaves if grad)]

    eager = run(net)
    compiled = run(fresh_compile(net, how))
    for a, b in zip(compiled, eager, strict=True):
        assert relative_error(a, b.double()) <= 1e-6


def test_compile_with_dynamic_shapes():
    _, *branch = branch_arguments()
    function = torch.compile(
        lambda x: reduce_conv2d(x, *branch) + 1, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n, h in ((2, 7), (3, 9), (5, 4)):
        x = draw(n, 5, h, 6)
        assert torch.equal(function(x), reduce_conv2d(x, *branch) + 1)


# --------------------------------------------------------------------------------------- refusals


def test_an_op_without_backward_says_so():
    x, *rest = branch_arguments()
    window = (1, 1), (1, 1)
    for leaves in ((x.requires_grad_(), *rest), (x.detach(), rest[0].requires_grad_(), *rest[1:])):
        with pytest.raises(
            RuntimeError, match="reduce_conv2d: the op has no derivative and a tensor"
        ):
            torch.ops.pyinception.reduce_conv2d(*leaves, *window)
        with torch.no_grad():
            assert not torch.ops.pyinception.reduce_conv2d(*leaves, *window).requires_grad
    x, weights = module_arguments()
    weights[3].requires_grad_()
    with pytest.raises(RuntimeError, match="inception_saved: the op has no derivative"):
        torch.ops.pyinception.inception_saved(x, weights)


def test_second_derivatives_are_refused():
    x, weights = module_arguments()
    for function, leaf in (
        (lambda x: inception(x, weights), x.clone()),
        (lambda x: conv2d(x, weights[0], relu=True), x.clone()),
    ):
        leaf.requires_grad_()
        (gx,) = torch.autograd.grad(function(leaf).square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gx.sum().backward()


def test_errors_name_argument_expected_and_actual():
    x, w, b = conv_arguments()
    y = conv2d(x, w, b)
    _, weights = module_arguments()
    w5 = NAMES.index("w5")
    seven = (*weights[:w5], draw(5, 2, 7, 7), *weights[w5 + 1 :])
    cases = [
        (lambda: conv2d(x.numpy(), w, b), TypeError, "conv2d: x is a ndarray, expected a torch"),
        (lambda: conv2d(x, w.numpy(), b), TypeError, "conv2d: w is a ndarray, expected a torch"),
        (lambda: conv2d(x, None, b), TypeError, "conv2d: w is a NoneType"),
        (lambda: conv2d(x.half(), w.half(), b), TypeError, "conv2d: x has dtype torch.float16"),
        (lambda: conv2d(x, w.double(), b), TypeError, "conv2d: w has dtype torch.float64"),
        (lambda: conv2d(x.to("meta"), w, b), TypeError, "on meta, expected a dense tensor on the"),
        (lambda: conv2d(x[0], w, b), ValueError, r"x has shape \(5, 7, 6\), expected \(N, C, H, W"),
        (
            lambda: conv2d(x, w[:, :3], b),
            ValueError,
            r"conv2d: w has shape \(4, 3, 3, 3\), expected \(K, C, R, S\) = \(4, 5, 3, 3\)",
        ),
        (lambda: conv2d(x, w, b, stride=0), ValueError, "conv2d: stride is 0"),
        (lambda: conv2d(x, draw(4, 5, 9, 3)), ValueError, r"conv2d: kernel .* larger"),
        (lambda: conv2d(x, w[0]), ValueError, r"w has shape \(5, 3, 3\), expected \(K, C, R, S\)"),
        (lambda: inception(x, weights[:11]), ValueError, "inception: weights has 11 arrays"),
        (lambda: inception(x, (None, *weights[1:])), TypeError, "inception: w1 is a NoneType"),
        (
            lambda: inception(x, (weights[0], weights[1][:2], *weights[2:])),
            ValueError,
            r"inception: b1 has shape \(2,\), expected \(K1\) = \(4,\)",
        ),
        (lambda: inception(x, seven), ValueError, r"inception: w5 has shape \(5, 7, 7, 2\), exp"),
        (
            lambda: ops.op("conv2d_backward")(y[:, :3], x, w, None, (1, 1), (0, 0)),
            ValueError,
            r"conv2d_backward: w has shape \(4, 5, 3, 3\), expected \(K, C, R, S\) = \(3, 5, 3, 3",
        ),
        (
            lambda: ops.op("conv2d_backward")(y, x, w, None, (1, 1), (1, 1)),
            ValueError,
            r"conv2d_backward: gy has shape \(2, 4, 5, 4\), expected \(N, K, P, Q\) = \(2, 4, 7, 6",
        ),
        (lambda: prepack(w.double()), TypeError, "prepack: w has dtype torch.float64"),
        (
            lambda: conv2d(x.clone().requires_grad_(), prepack(w), b),
            TypeError,
            "conv2d: w is packed, expected a tensor where gradients are asked for",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_packed_filters():
    x, w, b = conv_arguments()
    assert torch.equal(conv2d(x, prepack(w), b, relu=True), conv2d(x, w, b, relu=True))
    x, weights = module_arguments()
    packed = [prepack(w) if w.ndim == 4 else w for w in weights]
    assert torch.equal(inception(x, packed), inception(x, weights))


def test_what_watches_ops_sees_them():
    """Calls go to the kernels directly, but for modes, profilers, traces and transforms."""
    x, *rest = branch_arguments()
    right = reduce_conv2d(x, *rest)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
            seen.append(str(function))
            return function(*arguments, **(kwargs or {}))

    with torch.no_grad(), Watch():
        assert torch.equal(reduce_conv2d(x, *rest), right)
    assert "pyinception.reduce_conv2d.default" in seen
    with torch.profiler.profile() as profile:
        reduce_conv2d(x, *rest)
    assert "pyinception::reduce_conv2d" in {event.name for event in profile.events()}
    traced = torch.jit.trace(lambda x: reduce_conv2d(x, *rest), x)
    assert torch.equal(traced(2 * x), reduce_conv2d(2 * x, *rest))
    assert "pyinception::reduce_conv2d" in str(traced.graph)
    with FakeTensorMode() as fake:
        like = [fake.from_tensor(t) for t in (x, *rest)]
        assert reduce_conv2d(*like).shape == right.shape


def test_lazily_negated_tensors_are_read_as_they_are():
    """The imaginary part of a conjugate is a view whose memory has the other sign."""
    x = torch.randn(2, 1, 5, 4, dtype=torch.complex64).conj().imag
    w = torch.randn(3, 1, 1, 1, dtype=torch.complex64).conj().imag
    plain = torch.empty_strided(x.shape, x.stride()).copy_(x)
    assert x.is_neg() and x.stride() == plain.stride()
    for _ in range(2):
        right = conv2d(plain, w.resolve_neg())
        for a, b in ((x, w), (plain, w), (x, w.resolve_neg())):
            assert torch.equal(conv2d(a, b), right)
            assert torch.equal(pyi.conv2d(a, b, layout="NCHW"), right)
    with pytest.raises(TypeError, match="conv2d: w is packed, expected a tensor beside"):
        conv2d(x, prepack(w.resolve_neg()))


def test_two_packed_filters_need_no_reduce_bias():
    x, wr, _, w, b = branch_arguments()
    right = reduce_conv2d(x, wr, None, w, b)
    assert torch.equal(reduce_conv2d(x, prepack(wr), None, prepack(w), b), right)
    nhwc = x.permute(0, 2, 3, 1).numpy()
    mine = pyi.reduce_conv2d(nhwc, prepack(wr), None, prepack(w), b.numpy())
    assert torch.equal(torch.from_numpy(mine), right.permute(0, 2, 3, 1))


def test_without_torch_the_extra_is_named():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "try:\n    import pyinception.interop.torch\n"
        "except ImportError as error:\n    sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'pyinception[torch]'" in done.stderr and done.returncode == 1
