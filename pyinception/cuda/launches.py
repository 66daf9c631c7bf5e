"""Calls of the table as one flat list of launches, for a session: noted once, run many times.

    at = Emulated()                          # or Runtime(x): where the operands lie
    launches = at.launches()
    for plan, arguments in calls:
        note(plan, arguments, at, launches)
    launches.run(stream)

The records hold the operands' addresses, so the session keeps every operand where it was noted. The
memory between the launches of one call (workspaces, flipped filters) is one block, used by all
calls in turn.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from pyinception import workspace
from pyinception.backend import Array, BackendError, core
from pyinception.cuda import executor, runs
from pyinception.cuda.executor import Declined, Scratch, Strides, launches_of, strides_of
from pyinception.workspace import address_of, dense

ALIGNMENT = 256  # bytes, of pieces of scratch


class Launches(Protocol):
    """A list of launches: `pyinception._C.CudaList`, or `EmulatedLaunches`."""

    def add(self, plan: str, record: bytes) -> None:
        """Append the launches of a plan."""

    def __len__(self) -> int: ...

    def run(self, stream: int = 0) -> None:
        """Every launch in turn."""

    def capture(self, dependent: bool = False) -> None:
        """Make one CUDA graph of them on the current device."""

    def replay(self, stream: int = 0) -> None:
        """The whole graph."""


class EmulatedLaunches:
    """The list on the emulated device; "captured" it is the same list."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.settings = import_module("pyinception.emulator.settings")
        self.launches: list[tuple[Any, ...]] = []

    def add(self, plan: str, record: bytes) -> None:
        launches, _ = core().cuda_plan(plan, record)
        self.launches += launches

    def __len__(self) -> int:
        return len(self.launches)

    def run(self, stream: int = 0) -> None:
        for source, entry, grid, block, shared_bytes, params, _ in self.launches:
            kernel = executor.kernel(source, entry, self.settings.current().checked)
            raw = np.frombuffer(params, np.uint8)
            self.device.launch(kernel, grid, (block,), raw, shared_bytes)
            self.settings.collect(self.device, kernel)

    def capture(self, dependent: bool = False) -> None:
        pass

    def replay(self, stream: int = 0) -> None:
        self.run(stream)


# ------------------------------------------------------------------------------------ the memories


class Emulated:
    """The emulated device's memory: NumPy arrays over its buffers, weights copied there."""

    def __init__(self) -> None:
        self.device = import_module("pyinception.emulator.settings").current().device()
        self.limits = executor.Dry.shared_limit, executor.Dry.multiprocessors
        self.sm = executor.Dry.sm

    def empty(self, count: int) -> Array:
        """``count`` bytes, all bits set: NaN until something is written."""
        poison = np.full(max(count, 1), 0xFF, np.uint8)
        return self.device.buffer("session", poison)

    def settled(self, array: Array) -> Array:
        """A weight where kernels can read it: a copy."""
        return self.device.buffer("weight", array)

    def launches(self) -> Launches:
        return EmulatedLaunches(self.device)

    def turn(self) -> AbstractContextManager[int]:
        """There is one stream."""
        return nullcontext(0)

    def view(
        self, memory: Array, offset: int, shape: Sequence[int], dtype: Any, strides: Sequence[int]
    ) -> Array:
        """An array over a piece of `empty`; strides in bytes."""
        return np.ndarray(tuple(shape), dtype, memory, offset, tuple(strides))


class Runtime:
    """Memory of the current CUDA device, from the pool of the array module that ``like`` is of."""

    def __init__(self, like: Array) -> None:
        self.like, self.cuda = like, executor.array_module(like).cuda
        executor.check_place(like)
        self.limits, self.sm = executor.limits(), executor.capability()
        self._event, self._stream = self.cuda.Event(disable_timing=True), None

    @contextmanager
    def turn(self) -> Iterator[int]:
        """CuPy's current stream, which waits for the turn before where that was on another one."""
        stream = self.cuda.get_current_stream()
        if self._stream not in (None, stream.ptr):
            stream.wait_event(self._event)
        try:
            yield int(stream.ptr)
        finally:
            self._event.record(stream)
            self._stream = stream.ptr

    def empty(self, count: int) -> Array:
        return workspace.empty((max(count, 1),), self.like, np.uint8)

    def settled(self, array: Array) -> Array:
        """The weight itself, or a copy of one that kernels could not read where it lies."""
        suits = array.flags.c_contiguous and address_of(array) % 16 == 0
        return array if suits else array.copy()

    def launches(self) -> Launches:
        found: Launches = core().CudaList()
        return found

    def view(
        self, memory: Array, offset: int, shape: Sequence[int], dtype: Any, strides: Sequence[int]
    ) -> Array:
        span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        item = np.dtype(dtype).itemsize
        if math.prod(shape) == 0:
            return workspace.empty(tuple(shape), memory, dtype)
        flat = memory[offset : offset + span + item].view(dtype)
        return executor.array_module(memory).lib.stride_tricks.as_strided(flat, shape, strides)


Memory = Emulated | Runtime


# ---------------------------------------------------------------------------------------- noting


class _Noted:
    """The executor that notes; an operand must be readable where it lies."""

    def __init__(self, memory: Memory, launches: Launches | None, base: int) -> None:
        self.shared_limit, self.multiprocessors = memory.limits
        self.sm = memory.sm
        self.sink, self.base, self.used = launches, base, 0

    def put(
        self, name: str, array: Any, *, output: bool = False, keeps: bool = False, unit: int = 0
    ) -> tuple[int, Strides]:
        if isinstance(array, Scratch):
            return array.address, dense(array.shape)
        address, strides = address_of(array), strides_of(array)
        lies_well = output or unit or address % 16 == 0
        if strides is None or not lies_well or not executor.suits(address, strides, array, unit):
            text = f"{name} has strides {array.strides} bytes and lies at {address % 256} mod 256"
            raise BackendError(f"Session: {text}, where its kernel cannot read it")
        return address, strides

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Scratch:
        kind = np.dtype(dtype)
        address = self.base + self.used
        count = math.prod(shape) * kind.itemsize
        self.used += -(-count // ALIGNMENT) * ALIGNMENT
        return Scratch(address, shape, kind, None)

    def run(self, plan: str, record: np.ndarray) -> None:
        if self.sink is None:
            launches_of(plan, record)
        else:
            self.sink.add(plan, record.tobytes())


Call = tuple[Any, tuple[Any, ...]]  # a plan of `dispatch`, and its arguments


def note_all(calls: Sequence[Call], memory: Memory) -> tuple[Launches, Array]:
    """(launches, scratch) of ``calls``: one list, and the memory that it works in beside them."""

    def noted(launches: Launches | None, base: int) -> int:
        most = 0
        for plan, arguments in calls:
            on = _Noted(memory, launches, base)
            run: Callable[..., None] = runs.RUNS[plan.row.algorithm][plan.op, plan.direction]
            try:
                run(on, plan.spec, *arguments)
            except Declined as declined:
                name = getattr(plan.spec, "function", plan.op)
                raise BackendError(f"{name}: {declined}") from None
            most = max(most, on.used)
        return most

    scratch = memory.empty(noted(None, 1 << 40) + ALIGNMENT)
    base = -(-address_of(scratch) // ALIGNMENT) * ALIGNMENT
    launches = memory.launches()
    noted(launches, base)
    return launches, scratch
