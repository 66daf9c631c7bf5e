"""reduce_conv on the emulated device: y = relu(conv(relu(x wr^T + br), w) + b), and its backward.

The records, plans and launches are those of the GPU; arrays are copied into buffers with guard
pages and strides of their own, so a channel slice is a channel slice there too.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import kernels
from pyinception.backend import core
from pyinception.emulator import compile as compiler
from pyinception.emulator import settings
from pyinception.emulator.device import Device, Kernel
from pyinception.emulator.ptx import Module
from pyinception.kernels.cuda_args import REDUCE_CONV_CUDA_ARGS

FPROP, BACKWARD, SIZE = (f"reduce_conv_{which}" for which in ("fprop", "backward", "backward_size"))
SHARED_LIMIT = 163 << 10  # of a block, as on sm_80


@cache
def _module() -> Module:
    return compiler.module_of(Path(kernels.__file__).parent / "cuda" / "reduce_conv.cu")


@cache
def kernel(entry: str, checked: bool) -> Kernel:
    """An entry of reduce_conv.cu, compiled once per process; from the cache where it can be."""
    translation, library = compiler.build(_module(), entry, checked=checked)
    return Kernel.load(library, entry, translation.sites)


class _Call:
    """The record and the buffers of one call."""

    def __init__(self, device: Device, spec: Any) -> None:
        self.device = device
        self.record = _record(spec)
        self.memory: list[np.ndarray] = []
        self.outputs: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def operand(self, name: str, array: Any, *, output: bool = False, keeps: bool = False) -> None:
        """Put ``array`` into a buffer; ``keeps``: an output whose old values are read."""
        if array is None:
            return
        is_map = f"{name}_strides" in REDUCE_CONV_CUDA_ARGS.names
        strides = (_strides(array) if is_map else None) or _dense(array.shape)
        used = zip(array.shape, strides, strict=True)
        span = 1 + sum((n - 1) * stride for n, stride in used) if array.size else 0
        if output and not keeps:
            memory = self.device.empty(name, (span,))
        else:
            memory = self.device.buffer(name, np.full(span, np.nan, np.float32))
        view = _as_strided(memory, array.shape, strides)
        if not output or keeps:
            view[...] = array
        self.memory.append(memory)
        self.record[name] = memory.ctypes.data
        if is_map:
            self.record[f"{name}_strides"] = strides[:3]
        if output:
            self.outputs.append((name, array, view, memory))

    def run(self, plan: str, checked: bool) -> None:
        """Launch the plan, then hand the outputs over."""
        if plan == BACKWARD:
            _, bytes_ = core().cuda_plan(SIZE, self.record.tobytes())
            self.memory.append(self.device.empty("workspace", (bytes_ // 4,)))
            self.record["workspace"] = self.memory[-1].ctypes.data
            self.record["workspace_bytes"] = bytes_
        launches, _ = core().cuda_plan(plan, self.record.tobytes())
        for _, entry, grid, block, shared_bytes, record, _ in launches:
            params = np.frombuffer(record, np.uint8)
            loaded = kernel(entry, checked)
            self.device.launch(loaded, grid, (block,), params, shared_bytes)
            settings.collect(self.device, loaded)
        for name, array, view, memory in self.outputs:
            array[...] = view
            view[...] = np.nan
            if not np.isnan(memory).all():
                at = int(np.flatnonzero(~np.isnan(memory))[0])
                raise RuntimeError(f"reduce_conv: wrote element {at} beside its slice of {name}")


def _as_strided(memory: np.ndarray, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(memory, shape, [4 * stride for stride in strides])


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a C-contiguous array, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _strides(array: np.ndarray) -> tuple[int, ...] | None:
    """Strides in elements; None for a layout that the kernels do not take."""
    if any(stride % 4 or stride < 0 for stride in array.strides) or array.dtype != np.float32:
        return None
    strides = tuple(stride // 4 for stride in array.strides)
    return strides if strides and strides[-1] == 1 else None


def _record(spec: Any) -> np.ndarray:
    """The record of a call without its arrays."""
    reduce, conv = spec.stages
    record = np.zeros((), REDUCE_CONV_CUDA_ARGS)
    values = {
        "N": reduce.N, "H": reduce.H, "W": reduce.W, "C": reduce.C, "Cr": reduce.K, "K": conv.K,
        "R": conv.R, "S": conv.S, "stride_h": conv.stride[0], "stride_w": conv.stride[1],
        "pad_h": conv.padding[0], "pad_w": conv.padding[1], "shared_limit": SHARED_LIMIT,
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value
    return record


def why_not(spec: Any, direction: str) -> str | None:
    """Why the launch plan declines ``spec`` with dense maps; None where it does not."""
    reduce, conv = spec.stages
    try:
        record = _record(spec)
        shapes = {"x": reduce.x_shape, "r": reduce.y_shape, "y": conv.y_shape}
        for name, shape in (shapes | {"gx": shapes["x"], "gy": shapes["y"]}).items():
            record[f"{name}_strides"] = _dense(shape)[:3]
        for name in ("x", "wr", "w", "y"):
            record[name] = 1 << 32  # nobody follows it
        core().cuda_plan(FPROP if direction == "fprop" else SIZE, record.tobytes())
    except OverflowError:
        return "an extent or a stride is beyond 32 bits"
    except (NotImplementedError, RuntimeError) as error:
        return str(error).partition(": ")[2]
    return None


def fprop(spec: Any, x: Any, wr: Any, br: Any, w: Any, b: Any, y: Any, r: Any) -> None:
    """y, r = the fused pair; r (N, H, W, Cr) or None. Shapes as in `kernels/cuda_args.h`."""
    call = _Call(settings.current().device(), spec)
    for name, array in {"x": x, "wr": wr, "br": br, "w": w, "b": b}.items():
        call.operand(name, array)
    for name, array in {"y": y, "r": r}.items():
        call.operand(name, array, output=True)
    call.run(FPROP, settings.current().checked)


def backward(
    spec: Any, gy: Any, x: Any, wr: Any, w: Any, r: Any, y: Any,
    gx: Any, gwr: Any, gbr: Any, gw: Any, gb: Any, accumulate: bool,
) -> None:  # fmt: skip
    """gx = or += , gwr, gbr, gw, gb = the gradients; those that are None are not computed."""
    call = _Call(settings.current().device(), spec)
    for name, array in {"gy": gy, "x": x, "wr": wr, "w": w, "r": r, "y": y}.items():
        call.operand(name, array)
    for name, array in {"gwr": gwr, "gbr": gbr, "gw": gw, "gb": gb}.items():
        call.operand(name, array, output=True)
    call.operand("gx", gx, output=True, keeps=accumulate)
    call.record["accumulate"] = accumulate
    call.run(BACKWARD, settings.current().checked)
