"""The ops of ``torch.ops.pyinception``: schemas, kernels, shapes for tracing, refusals.

Each forward comes in two: one gives y, the other also the maps that the backward reads. Gradients
are recorded outside, by the functions of `functions`: recording inside an op costs tens of
microseconds a call. An op that is called with a tensor that requires gradients says so.
"""

from collections.abc import Callable
from typing import Any

import torch

from pyinception.interop.torch import kernels, operands, watch

_WINDOW = "int[2] stride, int[2] padding"
_BRANCH = "Tensor x, Tensor w_reduce, Tensor? b_reduce, Tensor w, Tensor? b"
SCHEMAS = (
    f"conv2d(Tensor x, Tensor w, Tensor? b, {_WINDOW}, bool relu, bool keep=False) -> Tensor",
    f"conv2d_backward(Tensor gy, Tensor x, Tensor w, Tensor? y, {_WINDOW})"
    " -> (Tensor, Tensor, Tensor)",
    f"reduce_conv2d({_BRANCH}, {_WINDOW}, bool keep=False) -> Tensor",
    f"reduce_conv2d_saved({_BRANCH}, {_WINDOW}) -> (Tensor, Tensor)",
    "reduce_conv2d_backward(Tensor gy, Tensor x, Tensor w_reduce, Tensor w, Tensor r, Tensor y,"
    f" {_WINDOW}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "inception(Tensor x, Tensor[] weights, bool keep=False) -> Tensor",
    "inception_saved(Tensor x, Tensor[] weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "inception_backward(Tensor gy, Tensor x, Tensor[] weights, Tensor y, Tensor[] saved)"
    " -> (Tensor, Tensor[])",
)
NAMES = tuple(schema.partition("(")[0] for schema in SCHEMAS)
library = torch.library.Library("pyinception", "DEF")


# ------------------------------------------------------------------------- on tensors with memory


def _conv2d(
    x: Any, w: Any, b: Any, stride: Any, padding: Any, relu: bool, keep: bool = False
) -> Any:
    return kernels.conv2d(x, w, b, tuple(stride), tuple(padding), relu, keep)


def _reduce_conv2d(
    x: Any, wr: Any, br: Any, w: Any, b: Any, stride: Any, padding: Any, keep: bool = False
) -> Any:
    return kernels.reduce_conv2d(x, wr, br, w, b, tuple(stride), tuple(padding), keep)[0]


def _reduce_conv2d_saved(
    x: Any, wr: Any, br: Any, w: Any, b: Any, stride: Any, padding: Any
) -> Any:
    return kernels.reduce_conv2d(x, wr, br, w, b, tuple(stride), tuple(padding), save=True)


def _inception(x: Any, weights: Any, keep: bool = False) -> Any:
    return kernels.inception(x, weights, keep)[0]


def _inception_saved(x: Any, weights: Any) -> Any:
    y, saved = kernels.inception(x, weights, save=True)
    return y, *saved


KERNELS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "conv2d_backward": kernels.conv2d_backward,
    "reduce_conv2d": _reduce_conv2d,
    "reduce_conv2d_saved": _reduce_conv2d_saved,
    "reduce_conv2d_backward": kernels.reduce_conv2d_backward,
    "inception": _inception,
    "inception_saved": _inception_saved,
    "inception_backward": kernels.inception_backward,
}


# --------------------------------------------------------------- shapes and strides, for tracing


def _map(like: torch.Tensor, shape: Any, dtype: Any = None) -> torch.Tensor:
    layout = torch.channels_last
    dtype = dtype or like.dtype
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """The gradient of ``tensor``: channels last where it has four axes."""
    return _map(tensor, tensor.shape) if tensor.ndim == 4 else torch.empty_like(tensor)


def _y_shape(x: torch.Tensor, w: torch.Tensor, stride: Any, padding: Any) -> tuple[Any, ...]:
    extents = zip(x.shape[2:], w.shape[2:], stride, padding, strict=True)
    return x.shape[0], w.shape[0], *((n + 2 * pad - k) // step + 1 for n, k, step, pad in extents)


def _trace_conv2d(
    x: Any, w: Any, b: Any, stride: Any, padding: Any, relu: bool, keep: bool = False
) -> Any:
    operands.check("conv2d", (x, w, b))
    return _map(x, _y_shape(x, w, stride, padding))


def _trace_conv2d_backward(gy: Any, x: Any, w: Any, y: Any, stride: Any, padding: Any) -> Any:
    operands.check("conv2d_backward", (gy, x, w, y))
    return _like(x), _like(w), torch.empty(w.shape[0], dtype=w.dtype, device=w.device)


def _trace_reduce_conv2d_saved(
    x: Any, wr: Any, br: Any, w: Any, b: Any, stride: Any, padding: Any
) -> Any:
    operands.check("reduce_conv2d", (x, wr, br, w, b))
    reduced = _map(x, (x.shape[0], wr.shape[0], *x.shape[2:]))
    return _map(x, _y_shape(x, w, stride, padding)), reduced


def _trace_reduce_conv2d(
    x: Any, wr: Any, br: Any, w: Any, b: Any, stride: Any, padding: Any, keep: bool = False
) -> Any:
    return _trace_reduce_conv2d_saved(x, wr, br, w, b, stride, padding)[0]


def _trace_reduce_conv2d_backward(
    gy: Any, x: Any, wr: Any, w: Any, r: Any, y: Any, stride: Any, padding: Any
) -> Any:
    operands.check("reduce_conv2d_backward", (gy, x, wr, w, r, y))
    biases = [torch.empty(f.shape[0], dtype=f.dtype, device=f.device) for f in (wr, w)]
    return _like(x), _like(wr), biases[0], _like(w), biases[1]


def _trace_inception_saved(x: Any, weights: Any) -> Any:
    operands.check("inception", (x, *weights))
    n, _, h, width = x.shape
    y = _map(x, (n, sum(weights[i].shape[0] for i in (0, 4, 8, 10)), h, width))
    r3, r5 = (_map(x, (n, weights[i].shape[0], h, width)) for i in (2, 6))
    return y, r3, r5, _map(x, x.shape), _map(x, x.shape, torch.uint8)


def _trace_inception(x: Any, weights: Any, keep: bool = False) -> Any:
    return _trace_inception_saved(x, weights)[0]


def _trace_inception_backward(gy: Any, x: Any, weights: Any, y: Any, saved: Any) -> Any:
    operands.check("inception_backward", (gy, x, *weights, y, *saved))
    return _like(x), [_like(w) for w in weights]


# -------------------------------------------------------------------------------------- refusals


def _recorded(name: str) -> Callable[..., Any]:
    """The op where gradients are recorded: they would be lost without a word."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        recording, tangents = torch.is_grad_enabled(), watch.in_forward_mode()
        if any((recording and t.requires_grad) or tangents for t in _tensors(arguments)):
            text = "the op has no derivative and a tensor requires gradients or may have tangents"
            remedy = "call the functions of pyinception.interop.torch, or under torch.no_grad()"
            raise RuntimeError(f"torch.ops.pyinception.{name}: {text}; {remedy}")
        return watch.below_autograd(op(name), *arguments, **options)

    return refuse


def _tensors(arguments: Any) -> Any:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _tensors(argument)


def op(name: str) -> Any:
    """The registered op, such as ``torch.ops.pyinception.conv2d.default``."""
    return getattr(torch.ops.pyinception, name).default


def _register() -> None:
    traced = globals()
    for name, schema in zip(NAMES, SCHEMAS, strict=True):
        library.define(schema)
        for key in ("CPU", "CUDA"):
            library.impl(name, KERNELS[name], key)
        library.impl(name, _recorded(name), "Autograd")
        qualified = f"pyinception::{name}"
        torch.library.register_fake(qualified, traced[f"_trace_{name}"], lib=library)


_register()
