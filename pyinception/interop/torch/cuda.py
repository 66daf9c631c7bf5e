"""CUDA tensors: the kernels' records on PyTorch's memory, allocator and current stream.

A call allocates with PyTorch's allocator only and waits for nothing, so ``torch.cuda.graph``
captures it. There is no CuPy in it.
"""

from typing import Any

import numpy as np
import torch

from pyinception.backend import Target
from pyinception.cuda.executor import Lent
from pyinception.dispatch import Plan

_NHWC = (0, 2, 3, 1)
_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.uint8: np.dtype(np.uint8),
}
_TORCH = {kind: dtype for dtype, kind in _DTYPES.items()}
TARGET = Target("cuda", "float32")


class _Library:
    """PyTorch on the device of ``like``, as `pyinception.cuda.executor.Library` has it."""

    def __init__(self, like: torch.Tensor) -> None:
        self.like = like
        self.stream = int(torch.cuda.current_stream(like.device).cuda_stream)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Lent:
        return self.lend(self.like.new_empty(shape, dtype=_TORCH[dtype]))

    def contiguous(self, array: Lent) -> Lent:
        return self.lend(array.owner.clone(memory_format=torch.contiguous_format))

    def lend(self, tensor: torch.Tensor) -> Lent:
        dtype = _DTYPES[tensor.dtype]
        strides = tuple(dtype.itemsize * step for step in tensor.stride())
        return Lent(tensor.data_ptr(), tuple(tensor.shape), strides, dtype, self, tensor)


def shadow(value: Any) -> Any:
    """What checks and specs read of an operand: its NHWC or KRSC shape, not its memory."""
    if not isinstance(value, torch.Tensor):
        return value
    shape = tuple(value.shape)
    shape = tuple(shape[axis] for axis in _NHWC) if len(shape) == 4 else shape
    return np.broadcast_to(np.zeros((), _DTYPES[value.dtype]), shape)


def run(plan: Plan, operands: tuple[Any, ...]) -> None:
    """One row on operands: tensors, tensors with the order of their axes, tuples, others."""
    like = operands[0][0]
    with torch.cuda.device(like.device):
        library = _Library(like)
        plan.row.run(plan.spec, *(_lent(library, value) for value in operands))


def _lent(library: _Library, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return library.lend(value.detach())
    if type(value) is not tuple:
        return value
    if len(value) == 2 and type(value[1]) is tuple:
        return library.lend(value[0].detach().permute(value[1]))
    return tuple(_lent(library, part) for part in value)
