"""The differentiable functions: what a user calls on tensors, in PyTorch's shapes."""

from contextvars import copy_context
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pyinception import workspace
from pyinception.extents import padding_pair, pair
from pyinception.interop.torch import filters, kernels, operands, watch
from pyinception.interop.torch.ops import op
from pyinception.ops.inception import check_count
from pyinception.ops.weights import InceptionWeights
from pyinception.prepack import Format, Packed

Window = tuple[int, int]

_conv2d, _conv2d_backward = op("conv2d"), op("conv2d_backward")
_reduce_conv2d, _reduce_conv2d_saved = op("reduce_conv2d"), op("reduce_conv2d_saved")
_reduce_conv2d_backward = op("reduce_conv2d_backward")
_inception, _inception_saved = op("inception"), op("inception_saved")
_inception_backward = op("inception_backward")


def conv2d(
    x: torch.Tensor,
    w: torch.Tensor | Packed,
    b: torch.Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    relu: bool = False,
) -> torch.Tensor:
    """y = [relu](conv2d(x, w) + b).

    Parameters
    ----------
    x : (N, C, H, W), float32; float64 runs on the NumPy reference (for ``gradcheck``).
    w, b : (K, C, R, S) and (K,) or None.
    stride, padding : int or pair; padding also "same" or "valid".

    Returns
    -------
    y : (N, K, P, Q) in channels_last memory.

    Raises
    ------
    TypeError, ValueError
        As `reduce_conv2d` does.
    """
    return convolve((x, w, b), stride, padding, bool(relu))


def convolve(
    tensors: Any, stride: Any, padding: Any, relu: bool, keep: bool = False
) -> torch.Tensor:
    """`conv2d` on its three tensors; ``keep``: the filter stays packed until it changes."""
    kind, (x, w, b) = _kind("conv2d", tensors), tensors
    if kind == "direct":
        return kernels.conv2d(x, w, b, stride, padding, relu, keep)
    window = _window("conv2d", w, stride, padding)
    if kind == "registered":
        return _registered(_conv2d, *tensors, *window, relu, keep)
    y: torch.Tensor = _Conv2d.apply(*tensors, window, relu)
    return y


def reduce_conv2d(
    x: torch.Tensor,
    w_reduce: torch.Tensor | Packed,
    b_reduce: torch.Tensor | None,
    w: torch.Tensor | Packed,
    b: torch.Tensor | None,
    *,
    stride: Any = 1,
    padding: Any = "same",
) -> torch.Tensor:
    """y = relu(conv2d(r, w) + b), r = relu(conv2d(x, w_reduce) + b_reduce): the fused branch.

    Without gradients r never reaches memory; with them r and y are saved for the backward, which
    gives every gradient that is asked for. The halo of r is zero.

    Parameters
    ----------
    x : (N, C, H, W), float32; float64 runs on the NumPy reference (for ``gradcheck``).
    w_reduce, b_reduce : (Cr, C, 1, 1) and (Cr,) or None.
    w, b : (K, Cr, R, S) and (K,) or None.
    stride, padding : int or pair, of the second convolution; padding also "same" or "valid".

    Returns
    -------
    y : (N, K, P, Q) in channels_last memory.

    Raises
    ------
    TypeError
        For what is no dense tensor on the CPU or one CUDA device, for dtypes that differ or are
        neither float32 nor, on the CPU, float64, for packed filters where a gradient is asked for.
    ValueError
        For shapes that do not fit: argument, actual and expected are named.

    Examples
    --------
    >>> y = reduce_conv2d(x, w_reduce, b_reduce, w, b)
    >>> y.sum().backward()
    """
    return branch((x, w_reduce, b_reduce, w, b), stride, padding)


def branch(tensors: Any, stride: Any, padding: Any, keep: bool = False) -> torch.Tensor:
    """`reduce_conv2d` on its five tensors; ``keep``: filters stay packed until they change."""
    kind = _kind("reduce_conv2d", tensors)
    if kind == "direct":
        x, w_reduce, b_reduce, w, b = tensors
        return kernels.reduce_conv2d(x, w_reduce, b_reduce, w, b, stride, padding, keep)[0]
    window = _window("reduce_conv2d", tensors[3], stride, padding)
    if kind == "registered":
        return _registered(_reduce_conv2d, *tensors, *window, keep)
    y: torch.Tensor = _ReduceConv2d.apply(*tensors, window)
    return y


def inception(
    x: torch.Tensor, weights: InceptionWeights | tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """y = [1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | max pool 3x3 -> 1x1], ReLU after every convolution.

    Parameters
    ----------
    x : (N, C, H, W), float32; float64 runs on the NumPy reference (for ``gradcheck``).
    weights : the twelve tensors of `pyinception.InceptionWeights`, filters (K, C, R, S); w5 may be
        3x3 in place of 5x5.

    Returns
    -------
    y : (N, K1 + K3 + K5 + Kp, H, W) in channels_last memory.

    Raises
    ------
    TypeError, ValueError
        As `reduce_conv2d` does.
    """
    check_count("inception", tuple(weights))
    return module((x, *weights))


def module(tensors: Any, keep: bool = False) -> torch.Tensor:
    """`inception` on x and its twelve weights; ``keep``: filters stay packed until they change."""
    kind = _kind("inception", tensors)
    if kind == "direct":
        return kernels.inception(tensors[0], tensors[1:], keep)[0]
    if kind == "registered":
        return _registered(_inception, tensors[0], tensors[1:], keep)
    y: torch.Tensor = _Inception.apply(*tensors)
    return y


def prepack(w: torch.Tensor, algorithm: str = "auto") -> Packed:
    """Pack a filter (K, C, R, S) once, for many calls without gradients.

    The packed copy does not follow later changes of ``w``.
    """
    operands.check_tensor("prepack", "w", w, "K C R S", torch.float32)
    k, c, r, s = w.shape
    return filters.pack(w, Format(k, r, s, c, "fprop", algorithm))


# ----------------------------------------------------------------------------------- on the tape


def _inside(ctx: Any, call: Any, *arguments: Any) -> Any:
    """``call`` under the forward's switches: CUDA's backward runs in a thread of PyTorch's."""
    if ctx.switches is None:
        return call(*arguments)
    return ctx.switches.copy().run(call, *arguments)


class _Conv2d(torch.autograd.Function):
    """Convolution on the tape of PyTorch."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        x, w, b, ctx.window, relu = arguments
        x = _channels_last("conv2d", x)
        y: torch.Tensor = _conv2d(x, w, b, *ctx.window, relu)
        ctx.switches = copy_context() if x.is_cuda else None
        ctx.save_for_backward(x, w, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = _inside(ctx, _conv2d_backward, gy, *ctx.saved_tensors, *ctx.window)
        return *_needed(ctx, grads), None, None


class _ReduceConv2d(torch.autograd.Function):
    """The fused branch on the tape of PyTorch."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        x, w_reduce, b_reduce, w, b, ctx.window = arguments
        x = _channels_last("reduce_conv2d", x)  # once for both directions
        y, r = _reduce_conv2d_saved(x, w_reduce, b_reduce, w, b, *ctx.window)
        ctx.switches = copy_context() if x.is_cuda else None
        ctx.save_for_backward(x, w_reduce, w, r, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = _inside(ctx, _reduce_conv2d_backward, gy, *ctx.saved_tensors, *ctx.window)
        return *_needed(ctx, grads), None


class _Inception(torch.autograd.Function):
    """The whole module on the tape of PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        x = _channels_last("inception", x)
        y, *saved = _inception_saved(x, weights)
        ctx.switches = copy_context() if x.is_cuda else None
        ctx.save_for_backward(x, *weights, y, *saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *weights = ctx.saved_tensors[:13]
        y, *saved = ctx.saved_tensors[13:]
        gx, grads = _inside(ctx, _inception_backward, gy, x, weights, y, saved)
        return _needed(ctx, (gx, *grads))


def _needed(ctx: Any, grads: Any) -> tuple[torch.Tensor | None, ...]:
    return tuple([g if n else None for g, n in zip(grads, ctx.needs_input_grad, strict=False)])


def _channels_last(function: str, x: torch.Tensor) -> torch.Tensor:
    """``x`` itself if its channels lie side by side, else a counted copy where they do."""
    if x.ndim != 4 or x.shape[1] == 1 or x.stride(1) == 1:
        return x
    if not torch.compiler.is_compiling():
        workspace.count_copy(function, "x", x.nbytes)
    return x.contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------- what a call is


def _window(function: str, w: Any, stride: Any, padding: Any) -> tuple[Window, Window]:
    """stride and padding as pairs."""
    if type(w) is Packed:
        kernel = w.format.R, w.format.S
    elif isinstance(w, torch.Tensor) and w.ndim == 4:
        kernel = w.shape[2], w.shape[3]
    else:
        kernel = 1, 1  # w is refused later
    return pair(function, "stride", stride, 1), padding_pair(function, padding, kernel)


def is_direct(function: str, tensors: Any) -> bool:
    """Whether a call goes to the kernels directly; what is no dense tensor is refused."""
    return _kind(function, tensors) == "direct"


def _kind(function: str, tensors: Any) -> str:
    """How a call goes: "recorded" by PyTorch, through the "registered" op, or "direct".

    The dispatcher costs 6 us, so tensors with nothing of their own in how they are read go to the
    kernels directly where nobody watches; packed filters, which no op takes, do so always. What is
    no dense tensor is refused.
    """
    wanted, packed = watch.in_forward_mode(), False  # a Function refuses tangents, an op loses them
    special, recording = torch.compiler.is_compiling(), torch.is_grad_enabled()
    for tensor in tensors:
        if type(tensor) in kernels.PLAIN:
            wanted = wanted or (recording and tensor.requires_grad)
            special = special or tensor.is_neg()
        elif isinstance(tensor, Packed):
            packed = True
        elif tensor is not None:
            special = True
            wanted = wanted or (recording and getattr(tensor, "requires_grad", False))
    if special or wanted:
        operands.check_kinds(function, tensors)
    if packed and (special or wanted):
        names = zip(operands.AXES[function], tensors, strict=True)
        name = next(name for name, tensor in names if isinstance(tensor, Packed))
        where = "where gradients are asked for" if wanted else "beside tensors of other kinds"
        raise TypeError(f"{function}: {name} is packed, expected a tensor {where}")
    if wanted:
        return "recorded"
    return "direct" if packed or not (special or watch.watched()) else "registered"


def _registered(op: Any, *arguments: Any) -> torch.Tensor:
    """The registered op where nothing is recorded."""
    compiling = torch.compiler.is_compiling()
    result: torch.Tensor = op(*arguments) if compiling else watch.below_autograd(op, *arguments)
    return result
