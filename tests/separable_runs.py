"""Plans of depthwise convolution and of the residual sum, filled from arrays and run."""

from typing import Any

import numpy as np
from cuda_run import STORAGES, Memory, plan, run, strides_of
from pyinception.kernels import cuda_args

NAMES = {dtype: i for i, dtype in enumerate(STORAGES.values())}


def _fill(memory: Memory, record: np.ndarray, arrays: dict[str, Any]) -> None:
    for name, view in arrays.items():
        record[name] = memory.put(view, name)
        if view is not None and f"{name}_strides" in record.dtype.names:
            record[f"{name}_strides"] = strides_of(view)
        if view is not None and name in ("x", "gy", "a"):
            record["storage"] = NAMES[view.dtype]


def depthwise(
    device: Any, case: tuple[Any, ...], way: str, *, relu: bool = False, accumulate: bool = False,
    **arrays: Any,
) -> list[Any]:  # fmt: skip
    """Run depthwise_``way``; case: (x shape, multiplier, kernel, stride, padding)."""
    a = np.zeros((), cuda_args.DEPTHWISE_CUDA_ARGS)
    (a["N"], a["H"], a["W"], a["C"]), multiplier, kernel, stride, padding = case
    (a["R"], a["S"]), (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = (
        kernel, stride, padding
    )  # fmt: skip
    a["K"], a["relu"], a["accumulate"] = a["C"] * multiplier, relu, accumulate
    memory = Memory(device)
    _fill(memory, a, arrays)
    if way == "wgrad":
        size = plan("depthwise_wgrad_size", a)[1]
        workspace = np.full(size // 4, np.nan, np.float32)
        a["workspace"], a["workspace_bytes"] = memory.put(workspace, "workspace"), size
    launches, _ = plan(f"depthwise_{way}", a)
    run(launches, memory)
    return launches


def add_scaled(
    device: Any, way: str, shape: tuple[int, ...], *, scale: float, relu: bool = False,
    **arrays: Any,
) -> None:  # fmt: skip
    """Run add_scaled_``way``."""
    a, memory = np.zeros((), cuda_args.ADD_SCALED_CUDA_ARGS), Memory(device)
    a["N"], a["H"], a["W"], a["C"] = shape
    a["scale"], a["relu"] = scale, relu
    _fill(memory, a, arrays)
    run(plan(f"add_scaled_{way}", a)[0], memory)
