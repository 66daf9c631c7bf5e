"""The kernels called from other frameworks on a GPU: bits, gradients, graphs, order of streams.

One row per framework. Operands are small integers, so every sum is exact and the reference's bits
are the answer. In a rehearsal PyTorch and JAX run on the CPU, where there is nothing to capture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

WHAT = ("torch", "cupy", "jax")
OPS = ("conv2d", "reduce_conv2d", "inception")
Checks = dict[str, int]  # what was looked at -> elements that differ


def why_not(rehearsal: bool) -> str | None:
    """Why no row can run: a session needs the core with its CUDA kernels, a rehearsal any core."""
    try:
        from pyinception import backend
    except ImportError as error:
        return f"pyinception is not installed ({error})"
    return backend.why_not("cpu" if rehearsal else "cuda")


def row(what: str, rehearsal: bool) -> dict[str, Any]:
    """The fields of one row."""
    if find_spec(what) is None or (rehearsal and what == "cupy"):
        reason = "CuPy has no CPU" if find_spec(what) else f"{what} is not installed"
        return {"status": "skipped", "reason": reason, "times": None, "rates": None}
    if what == "jax" and not rehearsal and (reason := _jax_without_gpu()):
        return {"status": "skipped", "reason": reason, "times": None, "rates": None}
    from pyinception import using

    with using(algorithm="direct"):  # Winograd, which the CPU would take, rounds
        checks = {"torch": _torch, "cupy": _cupy, "jax": _jax}[what](rehearsal)
    status = "wrong" if any(checks.values()) else "ok"
    return {"status": status, "error": checks, "times": None, "rates": None}


def _jax_without_gpu() -> str | None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "platform")  # keeps no memory to itself
    import jax

    found = jax.default_backend()
    return None if found == "gpu" else f"this jaxlib runs on {found}"


def problem(op: str, seed: int = 0) -> list[Any]:
    """x (N, H, W, C) and the weights of ``op``, filters KRSC."""
    from pyinception.ops.weights import weight_shapes

    draw = np.random.default_rng(seed)
    shapes = {
        "conv2d": ((40, 3, 3, 24), (40,)),
        "reduce_conv2d": ((16, 1, 1, 24), (16,), (40, 3, 3, 16), (40,)),
        "inception": weight_shapes(24, (16, 24, 32, 8, 16, 16)),
    }[op]
    return [draw.integers(-2, 3, s).astype(np.float32) for s in ((2, 14, 13, 24), *shapes)]


def answer(op: str, arrays: list[Any], gy: Any = None) -> list[Any]:
    """y, or the gradients of sum(gy y) by every array, of the reference."""
    from pyinception.kernels import reference

    x, *w = arrays
    same = {"padding": (1, 1)}
    if op == "conv2d":
        y = reference.conv2d_fprop(x, *w, relu=True, **same)
        if gy is None:
            return [y]
        gx = reference.conv2d_dgrad(gy, w[0], x.shape, y=y, **same)
        return [gx, *reference.conv2d_wgrad(x, gy, w[0].shape, y=y, **same)]
    if op == "reduce_conv2d":
        y, r = reference.reduce_conv_fprop(x, *w, **same)
        back = [w[0], w[2], r, y]
        return [y] if gy is None else list(reference.reduce_conv_backward(gy, x, *back, **same))
    y, saved = reference.inception_fprop(x, tuple(w))
    if gy is None:
        return [y]
    gx, grads = reference.inception_backward(gy, x, tuple(w), y, saved)
    return [gx, *grads]


def _differ(mine: list[Any], right: list[Any]) -> int:
    pairs = zip(mine, right, strict=True)
    return sum(int(np.count_nonzero(np.asarray(a) != b)) for a, b in pairs)


def _torch(rehearsal: bool) -> Checks:
    import torch

    from pyinception.interop import torch as ours

    device = "cpu" if rehearsal else "cuda"
    functions: dict[str, Callable[..., Any]] = {
        "conv2d": lambda x, w, b: ours.conv2d(x, w, b, padding=1, relu=True),
        "reduce_conv2d": lambda *t: ours.reduce_conv2d(*t, padding=1),
        "inception": lambda x, *w: ours.inception(x, w),
    }

    def there(array: Any) -> Any:
        tensor = torch.from_numpy(array).to(device)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def back(tensor: Any) -> Any:
        host = tensor.detach().cpu()
        return (host.permute(0, 2, 3, 1) if host.ndim == 4 else host).numpy()

    checks: Checks = {}
    for op, call in functions.items():
        arrays, other = problem(op), problem(op, 1)[0]
        changed, (y,) = [other, *arrays[1:]], answer(op, arrays)
        tensors = [there(a) for a in arrays]
        checks[f"{op}: y"] = _differ([back(call(*tensors))], [y])
        gy = np.random.default_rng(2).integers(-2, 3, y.shape).astype(np.float32)
        leaves = [t.clone().requires_grad_() for t in tensors]
        call(*leaves).backward(there(gy))
        checks[f"{op}: gradients"] = _differ([back(t.grad) for t in leaves], answer(op, arrays, gy))
        if rehearsal:
            continue
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the kernels must come after what the stream has to do
            torch.cuda._sleep(20_000_000)
            tensors[0].copy_(there(other))
            result = call(*tensors)
        side.synchronize()
        checks[f"{op}: order"] = _differ([back(result)], answer(op, changed))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # fails where the call waits or allocates elsewhere
            result = call(*tensors)
        tensors[0].copy_(there(arrays[0]))
        graph.replay()
        torch.cuda.synchronize()
        checks[f"{op}: graph"] = _differ([back(result)], [y])
    return checks


def _cupy(rehearsal: bool) -> Checks:
    import cupy

    import pyinception as pyi

    checks: Checks = {}
    arrays, other = problem("reduce_conv2d"), problem("reduce_conv2d", 1)[0]
    given = [cupy.asarray(a) for a in arrays]
    y = pyi.reduce_conv2d(*given, padding=1)
    checks["y"] = _differ([cupy.asnumpy(y)], answer("reduce_conv2d", arrays))
    side = cupy.cuda.Stream(non_blocking=True)
    given[0].set(other, stream=side)
    y = pyi.reduce_conv2d(*given, padding=1, stream=side)
    side.synchronize()
    right = answer("reduce_conv2d", [other, *arrays[1:]])
    checks["stream="] = _differ([cupy.asnumpy(y)], right)

    class Interface:
        """What has ``__cuda_array_interface__`` alone."""

        def __init__(self, owner: Any) -> None:
            self.owner, self.__cuda_array_interface__ = owner, owner.__cuda_array_interface__

    y = pyi.reduce_conv2d(*map(Interface, given), padding=1, layout="NHWC")
    checks["array interface"] = _differ([cupy.asnumpy(y)], right)
    return checks


def _jax(rehearsal: bool) -> Checks:
    import jax

    from pyinception.interop import jax as ours

    ours.build()
    functions: dict[str, Callable[..., Any]] = {
        "conv2d": lambda x, w, b: ours.conv2d(x, w, b, padding=1, relu=True),
        "reduce_conv2d": lambda *t: ours.reduce_conv2d(*t, padding=1),
        "inception": lambda x, *w: ours.inception(x, w),
    }

    def turned(a: Any, *axes: int) -> Any:
        return a.transpose(axes) if a.ndim == 4 else a

    checks: Checks = {}
    for op, call in functions.items():
        arrays = problem(op)
        given = [
            jax.numpy.asarray(a if i == 0 else turned(a, 1, 2, 3, 0)) for i, a in enumerate(arrays)
        ]
        (y,) = answer(op, arrays)
        checks[f"{op}: y"] = _differ([jax.jit(call)(*given)], [y])
        gy = np.random.default_rng(2).integers(-2, 3, y.shape).astype(np.float32)
        gradients = jax.jit(lambda *a, f=call, g=gy: jax.vjp(f, *a)[1](g))(*given)
        mine = [g if i == 0 else turned(np.asarray(g), 3, 0, 1, 2) for i, g in enumerate(gradients)]
        checks[f"{op}: gradients"] = _differ(mine, answer(op, arrays, gy))
    return checks
