"""Operands: what each op takes, checked in PyTorch's own terms, and maps laid channels last."""

from collections.abc import Iterable
from typing import Any

import torch

from pyinception import backend, workspace
from pyinception.ops.weights import NAMES
from pyinception.prepack import Packed

# The axes of every argument; a letter is bound by its first use, a digit is itself.
_WEIGHTS = dict(
    zip(
        NAMES,
        ("K1 C 1 1", "K1", "R3 C 1 1", "R3", "K3 R3 3 3", "K3")
        + ("R5 C 1 1", "R5", "K5 R5 R R", "K5", "Kp C 1 1", "Kp"),
        strict=True,
    )
)
_SAVED = {"r3": "N R3 H W", "r5": "N R5 H W", "pooled": "N C H W", "argmax": "N C H W"}
_BRANCH = {"w_reduce": "Cr C 1 1", "b_reduce": "Cr", "w": "K Cr R S", "b": "K"}
AXES: dict[str, dict[str, str]] = {
    "conv2d": {"x": "N C H W", "w": "K C R S", "b": "K"},
    "conv2d_backward": {"gy": "N K P Q", "x": "N C H W", "w": "K C R S", "y": "N K P Q"},
    "reduce_conv2d": {"x": "N C H W", **_BRANCH},
    "reduce_conv2d_backward": {"gy": "N K P Q", "x": "N C H W", "w_reduce": "Cr C 1 1"}
    | {"w": "K Cr R S", "r": "N Cr H W", "y": "N K P Q"},
    "lrn": {"x": "N C H W"},
    "inception": {"x": "N C H W", **_WEIGHTS},
    "inception_backward": {"gy": "N K H W", "x": "N C H W", **_WEIGHTS, "y": "N K H W", **_SAVED},
}
_OPTIONAL = ("b", "b_reduce", "y")


def check(function: str, tensors: Iterable[Any]) -> None:
    """Raise unless ``tensors`` are what ``function`` takes: kind, device, dtype, rank, shape.

    Works on fake tensors too; packed filters stand for filters of their shape.
    """
    given = list(zip(AXES[function].items(), tensors, strict=True))
    dtype, first = None, None
    for (name, axes), tensor in given:
        if isinstance(tensor, Packed) or (tensor is None and name in _OPTIONAL):
            continue
        wanted = torch.uint8 if name == "argmax" else dtype
        check_tensor(function, name, tensor, axes, wanted)
        dtype, first = dtype or tensor.dtype, tensor if first is None else first
    if first is not None:
        _check_devices(function, given, first.device)
    extents: dict[str, Any] = {}
    for (name, axes), tensor in given:
        if tensor is None:
            continue
        actual, letters = kcrs(tensor), axes.split()
        expected = tuple(
            int(letter) if letter.isdigit() else extents.setdefault(letter, extent)
            for letter, extent in zip(letters, actual, strict=True)
        )
        if actual != expected:
            text = f"{name} has shape {actual}, expected ({', '.join(letters)}) = {expected}"
            raise ValueError(f"{function}: {text}")


def _check_devices(function: str, given: Any, device: torch.device) -> None:
    """Raise unless all is on ``device`` and kernels can run there."""
    for (name, _), tensor in given:
        where = tensor.device if isinstance(tensor, torch.Tensor) else device
        if where != device:
            raise TypeError(f"{function}: {name} is on {where}, expected {device}, as the first is")
        if isinstance(tensor, Packed) and device.type == "cuda":
            text = f"{name} is packed for kernels of the cpu, expected a tensor on {device}"
            raise TypeError(f"{function}: {text}")
    if device.type == "cuda" and (reason := backend.why_not("cuda")):
        raise backend.BackendError(f"{function}: tensors are on {device}: {reason}")


def check_kinds(function: str, tensors: Iterable[Any]) -> None:
    """Raise for what is neither a dense tensor nor a packed filter, and for missing tensors."""
    for name, tensor in zip(AXES[function], tensors, strict=True):
        absent = tensor is None and name in _OPTIONAL
        if not absent and not isinstance(tensor, Packed):
            _check_kind(function, name, tensor)


def check_tensor(function: str, name: str, tensor: Any, axes: str, dtype: Any = None) -> None:
    """Raise unless ``tensor`` is a dense tensor of ``dtype`` with these axes, on CPU or CUDA."""
    _check_kind(function, name, tensor)
    served = (torch.float32,) if tensor.is_cuda else (torch.float32, torch.float64)
    if tensor.dtype not in served and dtype != torch.uint8:
        raise TypeError(f"{function}: {name} has dtype {tensor.dtype}, expected torch.float32")
    if dtype is not None and tensor.dtype != dtype:
        raise TypeError(f"{function}: {name} has dtype {tensor.dtype}, expected {dtype}")
    if tensor.ndim != len(axes.split()):
        letters = ", ".join(axes.split())
        text = f"has shape {tuple(tensor.shape)}, expected ({letters})"
        raise ValueError(f"{function}: {name} {text}")


def _check_kind(function: str, name: str, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"{function}: {name} is a {kind}, expected a torch.Tensor")
    if tensor.device.type not in ("cpu", "cuda") or tensor.layout != torch.strided:
        text = f"is a {tensor.layout} tensor on {tensor.device}, expected a dense tensor on the cpu"
        raise TypeError(f"{function}: {name} {text} or a CUDA device")


def kcrs(tensor: torch.Tensor | Packed) -> tuple[int, ...]:
    """The shape; that of a packed filter as (K, C, R, S)."""
    shape = tuple(tensor.shape)
    return (shape[0], shape[3], *shape[1:3]) if isinstance(tensor, Packed) else shape


def lay(function: str, tensors: Iterable[Any]) -> tuple[Any, ...]:
    """``tensors`` with every map channels last: one that is not so already is copied, counted."""
    return tuple(
        _channels_last(function, name, tensor) if axes.startswith("N") else _spread(tensor)
        for (name, axes), tensor in zip(AXES[function].items(), tensors, strict=True)
    )


def _channels_last(function: str, name: str, tensor: torch.Tensor | None) -> torch.Tensor | None:
    if tensor is None:
        return None
    if tensor.numel() == 0:  # its strides may be anything
        return tensor.new_empty(tensor.shape).to(memory_format=torch.channels_last)
    (n, c, h, w), (by_n, by_c, by_h, by_w) = tensor.shape, tensor.stride()
    steps = [step for extent, step in ((n, by_n), (h, by_h), (w, by_w)) if extent > 1]
    if (c == 1 or by_c == 1) and min(steps, default=c) >= c:
        return tensor
    workspace.count_copy(function, name, tensor.nbytes)
    return tensor.contiguous(memory_format=torch.channels_last)


def _spread(tensor: Any) -> Any:
    """A filter or bias; one with shared elements (expanded) or a strided bias becomes its own."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    strided = tensor.dim() == 1 and tensor.stride(0) != 1
    return tensor.contiguous() if strided or 0 in tensor.stride() else tensor
