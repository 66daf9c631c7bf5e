"""CUDA tensors of PyTorch but for the GPU: the functions, the registered ops, their records.

Tensors lie in the emulator's buffers and say that they are on a CUDA device; the kernels run there.
"""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from adaptors import problem, slopes, truth

from pyinception import backend, config, dispatch, workspace

torch = pytest.importorskip("torch", reason="torch is not installed (extra `oracles`)")
if REASON := backend.why_not("cpu") or backend.why_not("emulated"):
    pytest.skip(REASON, allow_module_level=True)

from cuda_standin import Runtime  # noqa: E402

from pyinception.backend import BackendError  # noqa: E402
from pyinception.cuda import executor  # noqa: E402
from pyinception.interop.torch import conv2d, functions, inception, kernels, ops, prepack  # noqa: E402
from pyinception.interop.torch import reduce_conv2d as branch  # noqa: E402

pytestmark = pytest.mark.oracles
DEVICE = torch.device("cuda", 0)
LAST = torch.channels_last


class OnDevice(torch.Tensor):
    """A tensor in the emulated device's memory."""

    runtime = None  # of the test that runs

    is_cuda = property(lambda self: True)
    device = property(lambda self: DEVICE)

    @classmethod
    def of(cls, host):
        return torch.from_numpy(cls.runtime.device.buffer("tensor", host)).as_subclass(cls)

    def new_empty_strided(self, shape, strides, dtype=torch.float32):
        span = 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if 0 not in shape else 0
        return self.new_empty((span,), dtype).as_strided(shape, strides).as_subclass(OnDevice)

    def new_empty(self, shape, dtype=torch.float32):
        kind = {torch.float32: np.float32, torch.uint8: np.uint8}[dtype]
        made = self.runtime.device.empty("empty", tuple(shape), kind)
        return torch.from_numpy(made).as_subclass(OnDevice)

    def contiguous(self, memory_format=torch.contiguous_format):
        turned = memory_format is LAST and self.ndim == 4
        order, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if turned else (range(self.ndim),) * 2
        host = self.as_subclass(torch.Tensor).permute(*order).contiguous().numpy()
        return OnDevice.of(host).permute(*back).as_subclass(OnDevice)


@pytest.fixture
def runtime(monkeypatch):
    """The emulator in place of the CUDA runtime; PyTorch's current stream is 815."""
    made = Runtime()
    made.streams.append(815)
    monkeypatch.setattr(OnDevice, "runtime", made)
    monkeypatch.setattr(executor, "core", lambda: made)
    monkeypatch.setattr(backend, "_cuda_reason", lambda: None)
    stream = SimpleNamespace(cuda_stream=815)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    dispatch.clear()
    yield made
    dispatch.clear()


def given(op):
    """The operands of ``op`` on the device: NCHW shapes, NHWC memory."""
    made = [OnDevice.of(a) for a in problem(op)]
    return [t.permute(0, 3, 1, 2).as_subclass(OnDevice) if t.ndim == 4 else t for t in made]


def nhwc(tensor):
    host = tensor.detach().as_subclass(torch.Tensor).numpy()
    return host.transpose(0, 2, 3, 1) if host.ndim == 4 else host


FORWARD = {
    "conv2d": lambda x, w, b: conv2d(x, w, b, padding=1, relu=True),
    "reduce_conv2d": lambda *t: branch(*t, padding=1),
    "inception": lambda x, *weights: inception(x, weights),
}


@pytest.mark.parametrize("op", FORWARD)
def test_forward(op, runtime):
    """The kernels read and write the tensors where they lie, on PyTorch's current stream."""
    tensors = given(op)
    copies = sum(workspace.copies.values())
    y = FORWARD[op](*tensors)
    np.testing.assert_array_equal(nhwc(y), truth(op, problem(op))[0])
    assert y.is_contiguous(memory_format=LAST) and y.is_cuda
    assert runtime.ran and set(runtime.noted) == {("launched on", 815)}
    assert sum(workspace.copies.values()) == copies


def gradients(op, tensors, gy):
    x, *w = tensors
    window = (1, 1), (1, 1)
    if op == "conv2d":
        y = kernels.conv2d(x, *w, *window, True)
        return kernels.conv2d_backward(gy, x, w[0], y, *window)
    if op == "reduce_conv2d":
        y, r = kernels.reduce_conv2d(x, *w, *window, save=True)
        return kernels.reduce_conv2d_backward(gy, x, w[0], w[2], r, y, *window)
    y, saved = kernels.inception(x, w, save=True)
    gx, grads = kernels.inception_backward(gy, x, w, y, saved)
    return [gx, *grads]


@pytest.mark.parametrize("op", FORWARD)
def test_backward(op, runtime):
    y, _ = truth(op, problem(op))
    gy = np.random.default_rng(1).integers(-2, 3, y.shape).astype(np.float32)
    there = OnDevice.of(gy).permute(0, 3, 1, 2).as_subclass(OnDevice)
    grads = gradients(op, given(op), there)
    for mine, right in zip(grads, slopes(op, problem(op), gy), strict=True):
        np.testing.assert_array_equal(nhwc(mine), right)
    assert all(where == 815 for _, where in runtime.noted)


@pytest.mark.parametrize(
    ("function", "op", "options"),
    [
        ("_Conv2d", "conv2d", [((1, 1), (1, 1)), True]),
        ("_ReduceConv2d", "reduce_conv2d", [((1, 1), (1, 1))]),
        ("_Inception", "inception", []),
    ],
)
def test_backward_runs_under_the_forwards_switches(function, op, options, runtime, monkeypatch):
    """In a thread of PyTorch's, which has not seen them."""
    node, tensors, seen = getattr(functions, function), given(op), []
    ctx = SimpleNamespace(needs_input_grad=(False,) * (len(tensors) + len(options)))
    ctx.save_for_backward = lambda *saved: setattr(ctx, "saved_tensors", saved)
    with config.using(threads=3):
        y = node.forward(ctx, *tensors, *options)

    def backward(*arguments):
        seen.append(config.get("threads"))
        return (None, ()) if op == "inception" else ()

    monkeypatch.setattr(functions, f"_{op}_backward", backward)
    monkeypatch.setattr(functions, "_needed", lambda ctx, grads: ())
    thread = threading.Thread(target=node.backward, args=(ctx, y))
    thread.start()
    thread.join()
    assert seen == [3]


def test_a_map_in_pytorch_s_own_order_is_copied_once(runtime):
    x, *weights = given("conv2d")
    before = workspace.copies["conv2d: x"]
    y = FORWARD["conv2d"](x.contiguous(), *weights)
    np.testing.assert_array_equal(nhwc(y), truth("conv2d", problem("conv2d"))[0])
    assert workspace.copies["conv2d: x"] == before + 1


def test_both_keys_have_the_same_kernels():
    """A CUDA tensor that reaches an op meets what a CPU tensor meets."""
    for name in ops.NAMES:
        for key in ("CPU", "CUDA"):
            qualified = f"pyinception::{name}"
            assert torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key)
    x, w, b = (torch.from_numpy(a) for a in problem("conv2d"))
    x, w = x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    op = torch.ops.pyinception.conv2d.default
    y = op.redispatch(keys, x, w, b, (1, 1), (1, 1), True)
    assert torch.equal(y, conv2d(x, w, b, padding=1, relu=True))


def test_refusals(runtime, monkeypatch):
    x, w, b = given("conv2d")
    host = torch.from_numpy(problem("conv2d")[1]).permute(0, 3, 1, 2)
    with pytest.raises(TypeError, match="conv2d: w is on cpu, expected cuda:0, as the first is"):
        kernels.conv2d(x, host, b, 1, 1, False)
    with pytest.raises(TypeError, match="conv2d: w is packed for kernels of the cpu, expected a t"):
        kernels.conv2d(x, prepack(host), b, 1, 1, False)
    with pytest.raises(TypeError, match=r"x has dtype torch\.float64, expected torch\.float32"):
        kernels.conv2d(*(t.double().as_subclass(OnDevice) for t in (x, w, b)), 1, 1, False)
    assert not runtime.ran
    monkeypatch.setattr(backend, "_cuda_reason", lambda: "no CUDA device is there")
    with pytest.raises(BackendError, match="conv2d: tensors are on cuda:0: no CUDA device is t"):
        conv2d(x, w, b)
