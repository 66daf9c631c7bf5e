"""A stand-in for CuPy whose arrays live in the emulator's buffers, and for the CUDA runtime there.

What backend "cuda" does with an array of a GPU it does here with an `ndarray` of this module: the
record gets the array's own address, `cuda_run` launches the plan's kernels on it. Nothing is copied
on the way, so a kernel that strays meets the guard pages of the caller's buffers.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from pyinception import backend, dispatch
from pyinception.backend import core
from pyinception.cuda import executor
from pyinception.emulator.device import Device

STREAM = 4711


class ndarray:
    """The little of cupy.ndarray that the engine asks of an array."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host  # a view of the device's memory: no host code may read it, but the tests

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "strides", "size", "nbytes", "ndim", "itemsize", "flags"):
            return getattr(self.host, name)
        raise AttributeError(name)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = self.host.__array_interface__["data"]
        strides = self.host.strides
        return {"data": data, "shape": self.shape, "strides": strides, "version": 3}

    def __getitem__(self, key: Any) -> "ndarray":
        return ndarray(self.host[key])


ndarray.__module__ = "cupy"


class Runtime:
    """One emulated device with CuPy's functions over it; ``ran`` are the plans it was given."""

    def __init__(self) -> None:
        self.device = Device(order="greedy", seed=1)
        self.ran: list[tuple[str, np.ndarray]] = []
        module = self.module = ModuleType("cupy")
        stream = SimpleNamespace(ptr=STREAM)
        module.ndarray = ndarray  # type: ignore[attr-defined]
        module.empty = self.empty  # type: ignore[attr-defined]
        module.ascontiguousarray = lambda a: self.asarray(a.host)  # type: ignore[attr-defined]
        module.shares_memory = lambda a, b: np.shares_memory(a.host, b.host)  # type: ignore[attr-defined]
        module.cuda = SimpleNamespace(get_current_stream=lambda: stream)  # type: ignore[attr-defined]

    def asarray(self, array: np.ndarray) -> ndarray:
        return ndarray(self.device.buffer("array", np.ascontiguousarray(array)))

    def empty(self, shape: Any, dtype: Any) -> ndarray:
        return ndarray(self.device.empty("empty", shape, dtype))

    def cuda_plan(self, plan: str, record: bytes) -> Any:
        return core().cuda_plan(plan, record)

    def cuda_device(self) -> tuple[int, int]:
        return 163 << 10, 108

    def cuda_run(self, plan: str, record: bytes, stream: int) -> None:
        assert stream == STREAM
        self.ran.append((plan, np.frombuffer(record, np.uint8)))
        for source, entry, grid, block, shared_bytes, params, _ in self.cuda_plan(plan, record)[0]:
            kernel = executor.kernel(source, entry, True)
            raw = np.frombuffer(params, np.uint8)
            self.device.launch(kernel, grid, (block,), raw, shared_bytes)


@contextmanager
def standing_in(monkeypatch: Any) -> Iterator[Runtime]:
    """Inside, ``cupy`` is importable and backend "cuda" runs, on the emulator."""
    runtime = Runtime()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cupy", runtime.module)
        patch.setattr(executor, "core", lambda: runtime)
        for reason in ("_cuda_reason", "_cupy_reason"):
            patch.setattr(backend, reason, lambda: None)
        dispatch.clear()
        yield runtime
    dispatch.clear()
