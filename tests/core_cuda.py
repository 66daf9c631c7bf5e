"""The C interface on CUDA memory, run by the emulator: ``python tests/core_cuda.py``.

The process has a library loaded before (`STUB`, compiled by test_cuda_core.py) whose `pyi_cuda_run`
hands every record to the emulator. The arrays lie in the emulator's buffers, so what the entry
points check, fill and launch is what a GPU would get. Prints one line for each call that was right.
"""

import ctypes
import sys
from typing import Any

import conftest  # noqa: F401  (pyinception.kernels from a checkout)
import numpy as np
from adaptors import OPS, C, problem, slopes, truth
from cuda_standin import Runtime

STUB = """
#include <stdint.h>
typedef int (*run_fn)(const char*, const void*, int64_t, void*);
static run_fn run;
void stub_set(run_fn to) { run = to; }
int pyi_cuda_run(const char* plan, const void* record, int64_t bytes, void* stream) {
  return run(plan, record, bytes, stream);
}
int pyi_cuda_device(int32_t* shared_limit, int32_t* multiprocessors) {
  *shared_limit = 163 << 10, *multiprocessors = 108;
  return 0;
}
"""
_RUN = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
)
STREAM = 42


class _Options(ctypes.Structure):
    _fields_ = [
        ("algorithm", ctypes.c_char_p), ("level", ctypes.c_char_p), ("threads", ctypes.c_int),
        ("launches", ctypes.c_void_p), ("interrupt", ctypes.c_void_p), ("stream", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p), ("workspace_bytes", ctypes.c_int64),
        ("workspace_needed", ctypes.POINTER(ctypes.c_int64)),
    ]  # fmt: skip


class CudaC(C):
    """The entry points on arrays of device memory, a stream and a workspace."""

    name, device = "c on cuda", (2, 0)

    def __init__(self) -> None:
        self.runtime = Runtime()
        self.plans: list[str] = []
        self.sizes: list[int] = []
        self.missing_bytes = 0  # taken off the workspace
        self.elsewhere: Any = None  # an array that says it is on another device

        @_RUN
        def run(plan: bytes, record: int, count: int, stream: int) -> int:
            assert stream == STREAM
            self.plans.append(plan.decode())
            self.runtime.streams.append(stream)
            self.runtime.cuda_run(plan.decode(), ctypes.string_at(record, count), stream)
            return 0

        self.callback = run
        ctypes.CDLL(None).stub_set(run)

    def _tensor(self, array: np.ndarray) -> Any:
        made = super()._tensor(array)
        made.device[1] = int(array is self.elsewhere)
        return made

    def wrap(self, array: np.ndarray) -> np.ndarray:
        if not array.flags.c_contiguous:
            return array
        found: np.ndarray = self.runtime.device.buffer("array", array)
        return found

    def new(self, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        found: np.ndarray = self.runtime.device.empty("output", tuple(shape), dtype)
        return found

    def run(self, entry: Any, *arguments: Any) -> int:
        options, needed = _Options(stream=STREAM), ctypes.c_int64(-1)
        options.workspace_needed = ctypes.pointer(needed)
        ran = len(self.plans)
        if status := entry(*arguments, ctypes.byref(options)):
            return int(status)
        assert len(self.plans) == ran, "a dry run launched something"
        self.sizes.append(needed.value)
        workspace = self.new((max(needed.value, 16),), np.uint8)
        options.workspace, options.workspace_needed = workspace.ctypes.data, None
        options.workspace_bytes = needed.value - self.missing_bytes
        return int(entry(*arguments, ctypes.byref(options)))


def main() -> None:
    c = CudaC()
    for op in OPS:
        arrays = problem(op)
        y, _ = truth(op, arrays)
        given = [c.give(a) for a in arrays]
        np.testing.assert_array_equal(c.forward(op, given, ""), y)
        gy = np.random.default_rng(2).integers(-2, 3, y.shape).astype(np.float32)
        grads = c.gradients(op, given, c.give(gy), "")
        for mine, right in zip(grads, slopes(op, arrays, gy), strict=True):
            np.testing.assert_array_equal(mine, right)
    sys.stdout.write(f"plans {' '.join(sorted(set(c.plans)))}\n")
    x, w, b = (c.give(a) for a in problem("conv2d"))
    wide = c.new((*x.shape[:3], w.shape[0] + 3))
    c.forward("conv2d", [x, w, b], "", out=wide[..., 2:-1])
    np.testing.assert_array_equal(wide[..., 2:-1], truth("conv2d", problem("conv2d"))[0])
    empty = problem("conv2d", 0)
    gx, gw, gb = c.gradients("conv2d", [c.give(a) for a in empty], c.new((0, 7, 6, 8)), "")
    assert gx.shape == empty[0].shape and not gw.any() and not gb.any()
    sys.stdout.write("slice and empty batch\n")

    def refused(op: str, *given: np.ndarray) -> None:
        try:
            c.forward(op, given, "")
        except (TypeError, ValueError) as error:
            sys.stdout.write(f"{error}\n")

    c.missing_bytes = 4
    refused("inception", *(c.give(a) for a in problem("inception")))
    refused("conv2d", x, w.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1), b)
    c.elsewhere = w
    refused("conv2d", x, w, b)


if __name__ == "__main__":
    main()
