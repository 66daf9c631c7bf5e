"""PyTorch: the fused branch as a differentiable function of CPU tensors.

Shapes are PyTorch's own, NCHW and KCRS, always. A channels_last tensor is NHWC in memory and is
read where it lies; a contiguous one is copied once (`pyinception.workspace.copies` counts it).
Results are NCHW in shape and channels_last in memory. Threads follow ``torch.get_num_threads()``.
"""

from typing import Any

try:
    import torch
except ImportError as error:
    message = "pyinception.interop.torch needs PyTorch: pip install 'pyinception[torch]'"
    raise ImportError(message) from error

import pyinception as pyi
from pyinception import workspace
from pyinception.extents import padding_pair, pair
from pyinception.prepack import Format, Packed

__all__ = ["prepack", "reduce_conv2d"]

_NAMES = ("x", "w_reduce", "b_reduce", "w", "b")
_LETTERS = {"x": "N, C, H, W", "w_reduce": "Cr, C, 1, 1", "w": "K, Cr, R, S"}


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
        For what is no CPU tensor, for dtypes that differ or are neither float32 nor float64, for
        packed filters where a gradient is asked for.
    ValueError
        For shapes that do not fit: argument, actual and expected are named.

    Examples
    --------
    >>> y = reduce_conv2d(x, w_reduce, b_reduce, w, b)
    >>> y.sum().backward()
    """
    tensors = (x, w_reduce, b_reduce, w, b)
    _check(tensors)
    _, _, r, s = _kcrs(w)
    strides = pair("reduce_conv2d", "stride", stride, 1)
    window = strides, padding_pair("reduce_conv2d", padding, (r, s))
    wanted = [isinstance(t, torch.Tensor) and t.requires_grad for t in tensors]
    if not (torch.is_grad_enabled() and any(wanted)):
        return _forward(tensors, window, save=False)[0]
    for name, tensor in zip(_NAMES, tensors, strict=True):
        if isinstance(tensor, Packed):
            text = f"{name} is packed, expected a tensor where gradients are asked for"
            raise TypeError(f"reduce_conv2d: {text}")
    y: torch.Tensor = _ReduceConv2d.apply(*tensors, window)
    return y


def prepack(w: torch.Tensor, algorithm: str = "auto") -> Packed:
    """Pack a filter (K, C, R, S) once, for many calls of `reduce_conv2d` without gradients.

    The packed copy does not follow later changes of ``w``.
    """
    _check_tensor("prepack", "w", w, "K, C, R, S", torch.float32)
    krsc = w.detach().permute(0, 2, 3, 1).contiguous().numpy()
    k, r, s, c = krsc.shape
    return pyi.prepack(krsc, Format(k, r, s, c, "fprop", algorithm))


class _ReduceConv2d(torch.autograd.Function):
    """The fused branch on the tape of PyTorch."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        x, w_reduce, b_reduce, w, b, ctx.window = arguments
        x = _channels_last(x)  # once for both directions
        y, r = _forward((x, w_reduce, b_reduce, w, b), ctx.window, save=True)
        ctx.save_for_backward(x, w_reduce, w, r, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w_reduce, w, r, y = ctx.saved_tensors
        stride, padding = ctx.window
        how = {"stride": stride, "padding": padding, **_how(x)}
        gy, x, w_reduce, w, r, y = (t.detach() for t in (gy, x, w_reduce, w, r, y))
        with pyi.using(threads=torch.get_num_threads()):
            grads = pyi.reduce_conv2d_backward(gy, x, w_reduce, w, r=r, y=y, **how)
        needed = ctx.needs_input_grad[:5]
        return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """``x`` itself if its channels lie side by side, else a counted copy where they do."""
    if x.shape[1] == 1 or x.stride(1) == 1:
        return x
    workspace.count_copy("reduce_conv2d", "x", x.nbytes)
    return x.contiguous(memory_format=torch.channels_last)


def _how(x: torch.Tensor) -> dict[str, Any]:
    return {"layout": "NCHW", "backend": "reference" if x.dtype == torch.float64 else None}


def _forward(
    tensors: tuple[Any, ...], window: tuple[Any, Any], *, save: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(y, r), r only if ``save``."""
    arrays = [t.detach() if isinstance(t, torch.Tensor) else t for t in tensors]
    how = {"stride": window[0], "padding": window[1], "return_reduced": save, **_how(tensors[0])}
    with pyi.using(threads=torch.get_num_threads()):
        result = pyi.reduce_conv2d(*arrays, **how)
    return result if save else (result, None)


def _check(tensors: tuple[Any, ...]) -> None:
    """Kind, device, dtype, rank of every argument, then their shapes, in PyTorch's own order."""
    x, w_reduce, _, w, _ = tensors
    dtype = x.dtype if isinstance(x, torch.Tensor) else None
    for name, tensor in zip(_NAMES, tensors, strict=True):
        if isinstance(tensor, Packed) and name in ("w_reduce", "w"):
            continue
        if tensor is not None or name in ("x", "w_reduce", "w"):
            _check_tensor("reduce_conv2d", name, tensor, _LETTERS.get(name, "K"), dtype)
    reduce_shape, shape = _kcrs(w_reduce), _kcrs(w)
    c, cr = x.shape[1], reduce_shape[0]
    wanted = {"w_reduce": (cr, c, 1, 1), "w": (shape[0], cr, *shape[2:])}
    wanted |= {"b_reduce": (cr,), "b": (shape[0],)}
    letters = _LETTERS | {"b_reduce": "Cr", "b": "K"}
    for name, tensor in zip(_NAMES[1:], tensors[1:], strict=True):
        actual = None if tensor is None else _kcrs(tensor)
        if actual not in (None, wanted[name]):
            text = f"{name} has shape {actual}, expected ({letters[name]}) = {wanted[name]}"
            raise ValueError(f"reduce_conv2d: {text}")


def _kcrs(tensor: torch.Tensor | Packed) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return (shape[0], shape[3], *shape[1:3]) if isinstance(tensor, Packed) else shape


def _check_tensor(function: str, name: str, tensor: Any, letters: str, dtype: Any) -> None:
    def refuse(error: type[Exception], actual: str, expected: str) -> None:
        raise error(f"{function}: {name} {actual}, expected {expected}")

    if not isinstance(tensor, torch.Tensor):
        refuse(TypeError, f"is a {type(tensor).__name__}", "a torch.Tensor")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        where = f"is a {tensor.layout} tensor on {tensor.device}"
        refuse(TypeError, where, "a dense tensor on the cpu")
    if tensor.dtype not in (torch.float32, torch.float64):
        refuse(TypeError, f"has dtype {tensor.dtype}", "torch.float32")
    if dtype is not None and tensor.dtype != dtype:
        refuse(TypeError, f"has dtype {tensor.dtype}", str(dtype))
    if tensor.ndim != letters.count(",") + 1:
        refuse(ValueError, f"has shape {tuple(tensor.shape)}", f"({letters})")
