"""Who runs a plan of the CUDA kernels: the emulator, the CUDA runtime, or nobody (a dry run).

    call = Emulated()                       # or Runtime(x), or Dry()
    record["x"], strides = call.put("x", x)
    record["y"], strides = call.put("y", y, output=True)
    call.run("lrn_fprop", record)           # the launches of the plan, in order
    call.finish()                           # outputs are where the caller put them

One executor serves one call of one op. Which launches there are is the plan's business alone, so
what one executor has run is what the others would run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pyinception import workspace
from pyinception.backend import BackendError, array_module, core
from pyinception.kernels import cuda_args
from pyinception.workspace import dense

Strides = tuple[int, ...]  # elements; of an array of any rank
SOURCES = Path(cuda_args.__file__).parent / "cuda"


class Declined(Exception):
    """A plan does not take a problem; the message is its sentence."""


@dataclass(frozen=True)
class Scratch:
    """Device memory between two launches of one call, contiguous, as an operand of either."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    memory: Any  # kept alive


class Executor(Protocol):
    """What `records` needs of a device."""

    shared_limit: int  # bytes of shared memory a block may have
    multiprocessors: int
    sm: int  # compute capability, 10 major + minor

    def put(
        self, name: str, array: Any, *, output: bool = False, keeps: bool = False, unit: int = 0
    ) -> tuple[int, Strides]:
        """Address and strides of an operand.

        output: it will be written, all of it; keeps: it will be read as well. unit: 0 for an
        operand that the kernel takes contiguous only, else a map, whose strides but that of the
        channels must be multiples of ``unit`` elements and its address of as many.
        """

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Scratch:
        """Memory of the device that a launch writes and a later one reads."""

    def run(self, plan: str, record: np.ndarray) -> None:
        """Execute the launches of a plan; `Declined` where there are none for this record."""


def launches_of(plan: str, record: np.ndarray) -> tuple[list[tuple[Any, ...]], int]:
    """(launches, bytes of workspace) by the core; `Declined` where the plan declines."""
    try:
        launches, workspace_bytes = core().cuda_plan(plan, record.tobytes())
    except NotImplementedError as error:
        raise Declined(str(error).partition(": ")[2]) from None
    return launches, workspace_bytes


def strides_of(array: Any) -> Strides | None:
    """Strides in elements of a map with unit channel stride; None for any other array."""
    strides, item = array.strides, array.dtype.itemsize
    if any(stride % item or stride < 0 for stride in strides):
        return None
    # an axis of extent 1 has no stride of its own
    regular = list(dense(array.shape))
    for axis, extent in enumerate(array.shape):
        if extent > 1:
            regular[axis] = strides[axis] // item
    return tuple(regular) if regular and regular[-1] == 1 else None


def suits(address: int, strides: Strides | None, array: Any, unit: int) -> bool:
    """Whether a kernel may read the array where it lies."""
    if strides is None:
        return False
    if unit == 0:
        return strides == dense(array.shape)
    whole = all(stride % unit == 0 for stride in strides[:-1])
    return whole and address % (unit * array.dtype.itemsize) == 0


def limits() -> tuple[int, int]:
    """(bytes of shared memory a block may have, multiprocessors) of the current CUDA device."""
    found: tuple[int, int] = core().cuda_device()
    return found


def capability() -> int:
    """The compute capability of the current CUDA device: 75, 80, 90, ..."""
    found: int = core().cuda_capability()
    return found


# ------------------------------------------------------------------------------------------ nobody


class Dry:
    """Takes operands of any address and runs nothing: whether the plans decline, and why.

    ``device`` are the `limits` of the one in question, else those of sm_80.
    """

    shared_limit = 163 << 10
    multiprocessors = 108
    sm = 80

    def __init__(self, device: tuple[int, int] | None = None, sm: int = 80) -> None:
        self.sm = sm
        if device is not None:
            self.shared_limit, self.multiprocessors = device

    def put(
        self, name: str, array: Any, *, output: bool = False, keeps: bool = False, unit: int = 0
    ) -> tuple[int, Strides]:
        return 1 << 40, dense(array.shape)  # nobody follows it

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Scratch:
        return Scratch(1 << 40, shape, np.dtype(dtype), None)

    def run(self, plan: str, record: np.ndarray) -> None:
        launches_of(plan, record)


# ------------------------------------------------------------------------------------ the emulator


class Emulated:
    """The emulated device: operands in guarded buffers of their own, strides as the caller's.

    NumPy arrays are copied in and out. A slice of channels is a slice there too, with poison
    beside it that must be there still in the end.
    """

    shared_limit = Dry.shared_limit
    multiprocessors = Dry.multiprocessors
    sm = Dry.sm

    def __init__(self) -> None:
        self.settings = import_module("pyinception.emulator.settings")
        self.device = self.settings.current().device()
        self.placed: dict[tuple[Any, ...], tuple[int, Strides, np.ndarray, np.ndarray]] = {}
        self.memory: list[np.ndarray] = []
        self.outputs: list[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def put(
        self, name: str, array: Any, *, output: bool = False, keeps: bool = False, unit: int = 0
    ) -> tuple[int, Strides]:
        if isinstance(array, Scratch):
            return array.address, dense(array.shape)
        key = (array.ctypes.data, array.shape, array.strides, array.dtype)
        if key in self.placed:  # of an earlier launch, or an input that is written in place
            address, kept, view, memory = self.placed[key]
            if output and not any(view is known for _, _, known, *_ in self.outputs):
                self.outputs.append((name, array, view, memory, memory.copy()))
            return address, kept
        strides = strides_of(array)
        if strides is None or not suits(0, strides, array, unit):
            strides = dense(array.shape)
        used = zip(array.shape, strides, strict=True)
        span = 1 + sum((n - 1) * stride for n, stride in used) if array.size else 0
        if output and not keeps:
            memory = self.device.empty(name, (span,), array.dtype)
        else:
            memory = self.device.buffer(name, _poison(span, array.dtype))
        view = _as_strided(memory, array.shape, strides)
        if not output or keeps:
            view[...] = array
        if output:
            self.outputs.append((name, array, view, memory, memory.copy()))
        address = int(memory.ctypes.data)
        self.placed[key] = address, strides, view, memory
        return address, strides

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Scratch:
        memory = self.device.empty(name, (math.prod(shape),), dtype)
        self.memory.append(memory)
        return Scratch(memory.ctypes.data, shape, np.dtype(dtype), memory)

    def run(self, plan: str, record: np.ndarray) -> None:
        for source, entry, grid, block, shared_bytes, params, _ in launches_of(plan, record)[0]:
            loaded = kernel(source, entry, self.settings.current().checked)
            raw = np.frombuffer(params, np.uint8)
            self.device.launch(loaded, grid, (block,), raw, shared_bytes)
            self.settings.collect(self.device, loaded)

    def finish(self) -> None:
        """Copy the outputs back; RuntimeError where a kernel wrote beside one."""
        for name, array, view, memory, before in self.outputs:
            array[...] = view
            _as_strided(before, array.shape, [s // array.itemsize for s in view.strides])[...] = 0
            view[...] = 0
            beside = np.flatnonzero(_bits(memory) != _bits(before))
            if beside.size:
                raise RuntimeError(f"wrote element {beside[0]} beside its slice of {name}")


@cache
def kernel(source: str, entry: str, checked: bool) -> Any:
    """An entry of a source in kernels/cuda, translated once; from the cache where it can be."""
    compiler = import_module("pyinception.emulator.compile")
    translation, library = compiler.build(_module(source), entry, checked=checked)
    device = import_module("pyinception.emulator.device")
    return device.Kernel.load(library, entry, translation.sites)


@cache
def _module(source: str) -> Any:
    return import_module("pyinception.emulator.compile").module_of(SOURCES / source)


def _poison(count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """All bits set: NaN in every floating type."""
    return np.full(count * dtype.itemsize, 0xFF, np.uint8).view(dtype)


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


def _as_strided(memory: np.ndarray, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    item = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory, shape, [item * stride for stride in strides])


# --------------------------------------------------------------------------------- the CUDA runtime


def check_place(array: Any) -> None:
    """Raise BackendError unless a CuPy array lies on the current device, whose the stream is too.

    A launch with an address of another device would end the context.
    """
    module, device = array_module(array), int(array.device.id)
    current = int(module.cuda.Device().id)
    if device != current:
        text = f"an array lies on CUDA device {device}, but device {current} is current"
        raise BackendError(f"{text}; call inside `with array.device:`")
    owner = getattr(module.cuda.get_current_stream(), "device_id", None)
    if owner not in (None, -1, current):
        text = f"the current stream belongs to CUDA device {owner}, the arrays lie on {current}"
        raise BackendError(f"{text}; choose one of that device")


class Library(Protocol):
    """The library whose arrays a call was given: it allocates, and launches go on its stream."""

    stream: int

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An uninitialised contiguous array on the same device."""

    def contiguous(self, array: Any) -> Any:
        """A contiguous copy."""


@dataclass(frozen=True)
class Lent:
    """An array of a library other than CuPy, as records read one; strides in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    library: Library
    owner: Any  # kept alive

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _CuPy:
    """CuPy on the device of one of its arrays."""

    def __init__(self, like: Any) -> None:
        self.like, module = like, array_module(like)
        check_place(like)
        self.stream = int(module.cuda.get_current_stream().ptr)
        self.contiguous = lambda array: array.copy(order="C")  # never the array itself

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return workspace.empty(shape, self.like, dtype)


class Runtime:
    """The current CUDA device: operands are the caller's memory, launches go on his stream.

    Nothing is allocated but by the caller's library and nobody waits, so that a call can be
    captured into a CUDA graph.
    """

    def __init__(self, like: Any) -> None:
        self.like = like
        self.library: Library = like.library if isinstance(like, Lent) else _CuPy(like)
        self.shared_limit, self.multiprocessors = limits()
        self.sm = capability()
        self.memory: list[Any] = []

    def put(
        self, name: str, array: Any, *, output: bool = False, keeps: bool = False, unit: int = 0
    ) -> tuple[int, Strides]:
        if isinstance(array, Scratch):
            return array.address, dense(array.shape)
        _check_device(name, array, self.like)
        strides, address = strides_of(array), _address(array)
        # Kernels read contiguous operands 16 bytes at a time; what is allocated begins on more.
        lies_well = output or unit or address % 16 == 0
        if not lies_well or not suits(address, strides, array, unit):
            if output:
                wanted = f"steps of {unit} elements" if unit else "contiguous memory"
                raise BackendError(f"{name} has strides {array.strides} bytes, expected {wanted}")
            workspace.count_copy("cuda", name, array.nbytes)
            array = self.library.contiguous(array)
            strides, address = dense(array.shape), _address(array)
        self.memory.append(array)
        assert strides is not None
        return address, strides

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Scratch:
        memory = self.library.empty(shape, np.dtype(dtype))
        return Scratch(_address(memory), shape, np.dtype(dtype), memory)

    def run(self, plan: str, record: np.ndarray) -> None:
        try:
            core().cuda_run(plan, record.tobytes(), self.library.stream)
        except NotImplementedError as error:
            raise Declined(str(error).partition(": ")[2]) from None

    def finish(self) -> None:
        """Nothing: the outputs are the caller's memory, and nobody waits."""


def _check_device(name: str, array: Any, like: Any) -> None:
    device, expected = (getattr(getattr(a, "device", None), "id", None) for a in (array, like))
    if device != expected:
        raise BackendError(
            f"{name} is on CUDA device {device}, expected {expected} as the first is"
        )


def _address(array: Any) -> int:
    if isinstance(array, Lent):
        return array.address
    return int(array.__cuda_array_interface__["data"][0])
