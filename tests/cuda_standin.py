"""A stand-in for CuPy whose arrays live in the emulator's buffers, and for the CUDA runtime there.

What backend "cuda" does with an array of a GPU it does here with an `ndarray` of this module: the
record gets the array's own address, `cuda_run` launches the plan's kernels on it. Nothing is copied
on the way, so a kernel that strays meets the guard pages of the caller's buffers. Streams are
numbers; what is asked of them is noted, and waiting on the host is not there to be asked for.
"""

import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from pyinception import backend, dispatch
from pyinception.backend import core
from pyinception.cuda import executor, launches
from pyinception.emulator.device import Device

STREAM = 4711


_LOOKS = ("shape", "dtype", "strides", "size", "nbytes", "ndim", "itemsize", "flags")
_SUMS = ("sum", "mean", "max", "min", "any", "all", "argmax")


class Place:
    """A device by its number; current inside ``with``."""

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> None:
        _CURRENT.append(self.id)

    def __exit__(self, *failure: Any) -> None:
        _CURRENT.pop()


_CURRENT = [0]


class ndarray:
    """What the engine asks of a cupy.ndarray, as strict as that: no NumPy array goes in or out
    without `asarray` and `get`, whatever the operation."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray, device: Place | None = None) -> None:
        self.host = host  # a view of the device's memory: no host code may read it, but the tests
        self.device = device or Place(_CURRENT[-1])

    def __getattr__(self, name: str) -> Any:
        if name in _LOOKS:
            return getattr(self.host, name)
        if name in _SUMS:
            return lambda *how, **options: _made(getattr(self.host, name)(*how, **options))
        raise AttributeError(name)

    def __array__(self, *how: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        assert method == "__call__", method
        (out,) = options.pop("out", (None,))
        result = ufunc(*map(_own, inputs), **options)
        if out is None:
            return _made(result)
        out.host[...] = result
        return out

    def get(self) -> np.ndarray:
        return np.array(self.host)

    def item(self) -> Any:
        return self.host.item()

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __len__(self) -> int:
        return len(self.host)

    def copy(self, order: str = "C") -> "ndarray":
        return _made(self.host)

    def astype(self, dtype: Any, order: str = "K") -> "ndarray":
        return _made(self.host.astype(dtype))

    def view(self, dtype: Any) -> "ndarray":
        return ndarray(self.host.view(dtype), self.device)

    def reshape(self, *shape: Any) -> "ndarray":
        return ndarray(self.host.reshape(*shape), self.device)

    def transpose(self, *axes: Any) -> "ndarray":
        return ndarray(self.host.transpose(*axes), self.device)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[_index(key)] = _own(value)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = self.host.__array_interface__["data"]
        strides = self.host.strides
        return {"data": data, "shape": self.shape, "strides": strides, "version": 3}

    def __getitem__(self, key: Any) -> "ndarray":
        return ndarray(self.host[_index(key)], self.device)


def _own(value: Any) -> Any:
    """What an operation takes: arrays of the device and numbers."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value.host if isinstance(value, ndarray) else value


def _index(key: Any) -> Any:
    return tuple(map(_own, key)) if isinstance(key, tuple) else _own(key)


def _as_strided(array: ndarray, shape: Any, strides: Any) -> ndarray:
    return ndarray(np.lib.stride_tricks.as_strided(array.host, shape, strides), array.device)


def _made(result: Any) -> ndarray:
    """A result in device memory; it has a rank, if only 0."""
    return ndarray(_DEVICE[-1].buffer("result", result))


def _operator(name: str) -> Any:
    function = getattr(operator, name)

    def binary(self: ndarray, other: Any) -> ndarray:
        return _made(function(self.host, _own(other)))

    def mirrored(self: ndarray, other: Any) -> ndarray:
        return _made(function(_own(other), self.host))

    def in_place(self: ndarray, other: Any) -> ndarray:
        self.host[...] = function(self.host, _own(other))
        return self

    return binary, mirrored, in_place


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _binary, _mirrored, _in_place = _operator(_name)
    setattr(ndarray, f"__{_name}__", _binary)
    setattr(ndarray, f"__r{_name}__", _mirrored)
    setattr(ndarray, f"__i{_name}__", _in_place)
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "and_", "or_"):
    setattr(ndarray, f"__{_name.rstrip('_')}__", _operator(_name)[0])
ndarray.__neg__ = lambda self: _made(-self.host)  # type: ignore[attr-defined]
ndarray.__module__ = "cupy"
_DEVICE: list[Device] = []  # the one that stands in now, last


class Lender:
    """An array of another library, "lender", in the same memory: DLPack, or the older interface."""

    def __init__(self, host: np.ndarray, runtime: "Runtime") -> None:
        self.host, self.runtime, self.shape = host, runtime, host.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> "Lender":
        self.runtime.noted.append(("exported for", stream))
        return self


class Interfaced:
    """One that has ``__cuda_array_interface__`` alone and states its stream."""

    def __init__(self, host: np.ndarray, stream: int | None = None, frozen: bool = False) -> None:
        data = host.__array_interface__["data"][0], frozen
        typestr, strides = host.dtype.str, host.strides
        self.host, self.shape = host, host.shape
        self.__cuda_array_interface__ = {
            "shape": host.shape, "typestr": typestr, "data": data, "strides": strides,
            "version": 3, "stream": stream,
        }  # fmt: skip


class Handle:
    """A stream of any library."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


class Runtime:
    """One emulated device with CuPy's functions over it; ``ran`` are the plans it was given.

    ``noted`` are the streams of launches and allocations, and who waited for whom.

    ``checked``: whether kernels run through the emulator's checker.
    """

    def __init__(self, checked: bool = True) -> None:
        self.checked, self.sm = checked, 80
        self.device = Device(order="greedy", seed=1)
        self.ran: list[tuple[str, np.ndarray]] = []
        self.noted: list[tuple[Any, ...]] = []
        self.lists: list[CudaList] = []
        self.streams = [STREAM]
        self.devices: set[int] = set()  # that were current when something was launched
        runtime, module = self, ModuleType("cupy")

        class Stream:
            device_id = -1

            def __init__(self, non_blocking: bool = False) -> None:
                assert non_blocking
                self.ptr, self.device_id = 1234, _CURRENT[-1]

            @classmethod
            def from_external(cls, given: Any) -> "Stream":
                version, ptr = given.__cuda_stream__()
                assert version == 0
                made = cls.__new__(cls)
                made.ptr = ptr
                return made

            def __enter__(self) -> None:
                if self.device_id not in (-1, _CURRENT[-1]):
                    raise RuntimeError("The device that the stream is created on does not match")
                runtime.streams.append(self.ptr)

            def __exit__(self, *failure: Any) -> None:
                runtime.streams.pop()

            def synchronize(self) -> None:
                runtime.noted.append(("the caller waits for", self.ptr))

            def wait_event(self, event: Any) -> None:
                runtime.noted.append((self.ptr, "waits for", event.on))

        class Event:
            def __init__(self, disable_timing: bool) -> None:
                assert disable_timing

            def record(self, stream: Stream) -> None:
                self.on = stream.ptr

        self.stream = Stream.from_external(Handle(STREAM))
        self.module: Any = module
        module.__spec__ = ModuleSpec("cupy", None)
        self.module.ndarray = ndarray
        self.module.empty = self.empty
        self.module.asarray = self.asarray
        self.module.asnumpy = lambda a: a.host
        self.module.ascontiguousarray = lambda a: a if a.flags.c_contiguous else a.copy()
        self.module.from_dlpack = self.from_dlpack
        self.module.lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided))
        pool = SimpleNamespace(total_bytes=lambda: 3 << 30)
        self.module.get_default_memory_pool = lambda: pool
        self.module.zeros_like = lambda a: _made(np.zeros_like(a.host))
        self.module.ones_like = lambda a: _made(np.ones_like(a.host))
        self.module.arange = lambda count: _made(np.arange(count))
        self.module.sqrt = np.sqrt
        self.module.may_share_memory = lambda a, b: np.may_share_memory(a.host, b.host)
        self.module.cuda = SimpleNamespace(
            get_current_stream=self.current_stream,
            Stream=Stream,
            Event=Event,
            Device=lambda number=None: Place(_CURRENT[-1] if number is None else number),
            runtime=SimpleNamespace(
                memGetInfo=lambda: (60 << 30, 80 << 30), getDeviceCount=lambda: 2
            ),
        )

    def current_stream(self) -> Any:
        now = self.streams[-1]
        return self.stream if now == STREAM else self.on(now)

    def on(self, handle: int) -> Any:
        """CuPy's stream of a handle."""
        return self.module.cuda.Stream.from_external(Handle(handle))

    def asarray(self, array: Any, dtype: Any = None, order: str = "K") -> ndarray:
        if isinstance(array, ndarray):
            dense = order != "C" or array.flags.c_contiguous
            return array if dense and dtype in (None, array.dtype) else _made(_own(array))
        if hasattr(array, "__cuda_array_interface__"):
            return self.taken(array)
        host = np.asarray(array, dtype)  # keeps rank 0, unlike ascontiguousarray
        return ndarray(self.device.buffer("array", host))

    def from_dlpack(self, lender: Any) -> ndarray:
        return ndarray(lender.__dlpack__(stream=self.streams[-1]).host)

    def taken(self, interfaced: Any) -> ndarray:
        interface = interfaced.__cuda_array_interface__
        assert interface["stream"] is None, "CuPy would wait for it on the host"
        return ndarray(np.asarray(SimpleNamespace(__array_interface__=interface)))

    def empty(self, shape: Any, dtype: Any) -> ndarray:
        self.noted.append(("allocated on", self.streams[-1]))
        if self.checked:  # a read before a kernel has written is a fault, else it is NaN
            return ndarray(self.device.empty("empty", shape, dtype))
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        poison = np.full(count, 0xFF, np.uint8).view(dtype).reshape(shape)
        return ndarray(self.device.buffer("empty", poison))

    def cuda_plan(self, plan: str, record: bytes) -> Any:
        return core().cuda_plan(plan, record)

    def cuda_device(self) -> tuple[int, int]:
        return 163 << 10, 108

    def cuda_capability(self) -> int:
        return self.sm

    def CudaList(self) -> "CudaList":
        self.lists.append(CudaList(self))
        return self.lists[-1]

    def cuda_run(self, plan: str, record: bytes, stream: int) -> None:
        assert stream == self.streams[-1]
        self.devices.add(_CURRENT[-1])
        self.noted.append(("launched on", stream))
        self.ran.append((plan, np.frombuffer(record, np.uint8)))
        for source, entry, grid, block, shared_bytes, params, _ in self.cuda_plan(plan, record)[0]:
            kernel = executor.kernel(source, entry, self.checked)
            raw = np.frombuffer(params, np.uint8)
            self.device.launch(kernel, grid, (block,), raw, shared_bytes)


class CudaList:
    """The core's list of launches, with a record of what was done to it."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.plans = runtime, []  # type: ignore[var-annotated]
        self.did: list[tuple[Any, ...]] = []

    def add(self, plan: str, record: bytes) -> None:
        self.plans.append((plan, record))

    def __len__(self) -> int:
        return sum(len(self.runtime.cuda_plan(*each)[0]) for each in self.plans)

    def capture(self, dependent: bool = False) -> None:
        self.did.append(("capture", dependent, len(self.plans)))

    def replay(self, stream: int = 0) -> None:
        self.did.append(("replay", stream))
        for plan, record in self.plans:
            self.runtime.cuda_run(plan, record, stream)

    def run(self, stream: int = 0) -> None:
        raise AssertionError("a session on CUDA replays its graph")


@contextmanager
def standing_in(monkeypatch: Any, checked: bool = True) -> Iterator[Runtime]:
    """Inside, ``cupy`` is importable and backend "cuda" runs, on the emulator."""
    runtime = Runtime(checked)
    _DEVICE.append(runtime.device)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cupy", runtime.module)
        for module in (executor, launches):
            patch.setattr(module, "core", lambda: runtime)
        for reason in ("_cuda_reason", "cupy_reason"):
            patch.setattr(backend, reason, lambda: None)
        dispatch.clear()
        yield runtime
    _DEVICE.pop()
    dispatch.clear()
