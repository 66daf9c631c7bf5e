"""Runs translated kernels: buffers from NumPy arrays, launches, faults as exceptions, counters.

    device = Device(order="greedy", seed=3)
    x = device.buffer("x", np.arange(64, dtype=np.float32))
    y = device.empty("y", (64,), np.float32)
    device.launch(kernel, grid=(1,), block=(64,), params=record)

``x`` and ``y`` are NumPy arrays over the device's own memory, between guard pages; their address
for a kernel's record is ``x.ctypes.data``.
"""

import ctypes
import threading
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from ctypes import POINTER, Structure, c_char, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

ORDERS = ("fair", "random", "greedy")
KINDS = (
    "none", "out of bounds", "misaligned", "race", "uninitialised", "copy not waited for",
    "barrier", "deadlock", "hang", "stack", "read-only", "trap",
)  # fmt: skip
COUNTERS = (
    "executed", "shared read", "shared write", "shared atomic", "shared copy",
    "global read", "global write", "global atomic", "global copy", "shared matrix",
)  # fmt: skip
BACK_EDGES = 1 << 32  # of one thread; about ten seconds

_ABI = 1
_NONE = 0xFFFFFFFF
_OK, _INVALID, _FAULT, _STOPPED, _NO_MEMORY = range(5)


class _Config(Structure):
    _fields_ = [
        ("order", c_uint32), ("workers", c_uint32), ("seed", c_uint64),
        ("back_edge_budget", c_uint64), ("eager_copies", c_uint32), ("count", c_uint32),
        ("stack_bytes", c_uint32), ("reserved", c_uint32),
    ]  # fmt: skip


class _Launch(Structure):
    _fields_ = [
        ("entry", c_void_p), ("grid", c_uint32 * 3), ("block", c_uint32 * 3),
        ("dynamic_shared_bytes", c_uint32), ("param_bytes", c_uint32), ("params", c_void_p),
    ]  # fmt: skip


class _Fault(Structure):
    _fields_ = [
        ("kind", c_uint32), ("site", c_uint32), ("other_site", c_uint32),
        ("other_thread", c_uint32), ("other_block", c_uint32), ("thread", c_uint32),
        ("block_index", c_uint32 * 3), ("thread_index", c_uint32 * 3), ("bytes", c_uint64),
        ("offset", c_int64), ("buffer", c_char * 64), ("text", c_char * 320),
    ]  # fmt: skip


class _Counter(Structure):
    _fields_ = [
        ("site", c_uint32), ("kind", c_uint32), ("width", c_uint32), ("reserved", c_uint32),
        ("instructions", c_uint64), ("units", c_uint64), ("ideal_units", c_uint64),
        ("worst_units", c_uint64),
    ]  # fmt: skip


class EmulatorFault(RuntimeError):
    """What a kernel did wrong: ``kind`` (one of ``KINDS``), where, which thread, which memory.

    ``where`` and ``other_where`` (the other access of a race, the issue of a copy) are source
    lines, or None. ``block``, ``thread``: indices, or None where no one thread is at fault.
    """

    def __init__(self, kernel: "Kernel", fault: _Fault) -> None:
        self.kernel = kernel.name
        self.kind = KINDS[fault.kind]
        self.buffer: str = fault.buffer.decode(errors="replace")
        self.offset, self.bytes = int(fault.offset), int(fault.bytes)
        self.where = kernel.where(fault.site)
        self.other_where = kernel.where(fault.other_site)
        known = fault.thread != _NONE
        self.block = tuple(fault.block_index) if known else None
        self.thread = tuple(fault.thread_index) if known else None
        parts = [f"{self.kernel}: {fault.text.decode(errors='replace')}"]
        if self.where:
            parts.append(f"at {self.where}")
        if known:
            parts.append(f"in block {self.block}, thread {self.thread}")
        if fault.other_site != _NONE or fault.other_thread != _NONE:
            other = "the other"
            if fault.other_thread != _NONE:
                other += f" by thread {fault.other_thread}"
                if self.kind == "race":
                    other += f" of block {fault.other_block}"
            parts.append(f"{other} at {self.other_where}" if self.other_where else other)
        super().__init__("; ".join(parts))


@dataclass(frozen=True)
class Kernel:
    """A translated entry, loaded: ``sites[i]`` is the source line of PTX statement ``i``."""

    name: str
    sites: Sequence[Any]
    address: int  # of its exported record
    library: ctypes.CDLL  # keeps the code mapped

    @classmethod
    def load(cls, path: Path | str, name: str, sites: Sequence[Any] = ()) -> "Kernel":
        """The entry ``name`` of a shared library that the host compiler made."""
        library = ctypes.CDLL(str(path))
        address = ctypes.addressof(c_char.in_dll(library, f"{name}_entry"))
        return cls(name, sites, address, library)

    def where(self, site: int) -> str | None:
        """The source line of a statement, in words; None where there is none."""
        if site == _NONE:
            return None
        return str(self.sites[site]) if site < len(self.sites) else f"statement {site}"


@dataclass(frozen=True, slots=True)
class Counter:
    """What one statement did, all launches since the last ``clear_counters`` together.

    ``units`` are wavefronts of shared memory or 32-byte sectors of global memory, ``ideal`` what
    the distinct bytes of each warp instruction need, ``worst`` the most of one instruction.
    """

    kernel: str
    where: str
    kind: str  # one of COUNTERS
    width: int  # bytes a lane
    instructions: int
    units: int
    ideal: int
    worst: int


def by_line(counters: Iterable[Counter]) -> list[Counter]:
    """Sums over the statements of one source line with the same kernel, kind and width.

    ``where`` is then the line itself, without its callers; of a toolkit's header or of a wrapper of
    one instruction, the line that asked for it. The costliest line comes first.
    """
    wrappers = ("/include/", "ptx.cuh:", "storage.cuh:")
    lines: dict[tuple[str, str, str, int], Counter] = {}
    for row in counters:
        places = row.where.split(", inlined at ")
        asked = (p for p in places if not any(wrapper in p for wrapper in wrappers))
        where = next(asked, places[0])
        key = row.kernel, where, row.kind, row.width
        seen = lines.get(key, Counter(*key, 0, 0, 0, 0))
        lines[key] = Counter(
            *key, seen.instructions + row.instructions, seen.units + row.units,
            seen.ideal + row.ideal, max(seen.worst, row.worst),
        )  # fmt: skip
    return sorted(lines.values(), key=lambda row: -row.units)


@cache
def library() -> ctypes.CDLL:
    """The runtime; raises RuntimeError where it was not built."""
    path = Path(__file__).parents[1] / "libpyinception_emulator.so"
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f"the emulator is not built: {error}") from None
    lib.emu_create.restype = c_void_p
    lib.emu_destroy.argtypes = [c_void_p]
    lib.emu_alloc.argtypes = [c_void_p, c_uint64, ctypes.c_char_p, c_uint32]
    lib.emu_alloc.restype = c_void_p
    lib.emu_free.argtypes = [c_void_p, c_void_p]
    lib.emu_configure.argtypes = [c_void_p, POINTER(_Config)]
    lib.emu_launch.argtypes = [c_void_p, POINTER(_Launch)]
    lib.emu_stop.argtypes = [c_void_p]
    lib.emu_last_fault.argtypes = [c_void_p]
    lib.emu_last_fault.restype = POINTER(_Fault)
    lib.emu_counters.argtypes = [c_void_p, POINTER(_Counter), c_uint32]
    lib.emu_counters.restype = c_uint32
    lib.emu_clear_counters.argtypes = [c_void_p]
    if lib.emu_abi() != _ABI:
        raise RuntimeError(f"{path}: interface {lib.emu_abi()}, expected {_ABI}")
    return lib


class _Handle:
    """The C device; lives as long as the last array over its memory."""

    def __init__(self) -> None:
        self.lib = library()
        self.lock = threading.Lock()
        self.pointer = self.lib.emu_create()
        if not self.pointer:
            raise MemoryError("no memory for an emulated device")

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self.lib.emu_destroy(self.pointer)
            self.pointer = None  # a cycle may be taken apart in any order


class _Memory:
    """One buffer, as NumPy sees it; given back with the last array over it."""

    def __init__(
        self, handle: _Handle, name: str, shape: Sequence[int], dtype: DTypeLike, initialised: bool
    ) -> None:
        self.handle = handle
        self.pointer = None
        dtype = np.dtype(dtype)
        if dtype.hasobject:
            raise TypeError(f"{name}: expected plain numbers, got dtype {dtype}")
        if not 0 < len(name.encode()) < 64:
            raise ValueError(f"name: expected 1 to 63 bytes, got {name!r}")
        bytes_ = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.pointer = handle.lib.emu_alloc(handle.pointer, bytes_, name.encode(), initialised)
        if not self.pointer:
            raise MemoryError(f"{name}: no memory for {bytes_} bytes between guard pages")
        self.bytes = (c_char * bytes_).from_address(self.pointer)

    def __del__(self) -> None:
        if self.pointer and self.handle.pointer:
            self.handle.lib.emu_free(self.handle.pointer, self.pointer)


class _Array(np.ndarray):
    """A plain array that keeps its buffer."""

    memory: _Memory | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self.memory = getattr(parent, "memory", None)


class Device:
    """A CUDA device that is not there.

    ``order``: how threads and blocks take turns, drawn by ``seed``; greedy runs one warp as far
    ahead of the others as barriers allow and so finds what a fair order hides. ``lazy_copies``:
    cp.async moves nothing before its wait. ``count``: fill the counters (checked kernels only).
    ``workers``: host threads over blocks (plain kernels only). ``back_edges``: backward branches
    one thread may take before it counts as hung.
    """

    def __init__(
        self,
        order: str = "fair",
        seed: int = 0,
        workers: int = 1,
        lazy_copies: bool = True,
        count: bool = False,
        back_edges: int = BACK_EDGES,
        stack_bytes: int = 0,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {order!r}")
        if workers < 1 or back_edges < 1 or stack_bytes < 0:
            raise ValueError(
                "workers and back_edges must be positive, stack_bytes not negative, got "
                f"{workers}, {back_edges}, {stack_bytes}"
            )
        self._handle = _Handle()
        self._config = _Config(
            ORDERS.index(order), workers, seed & (2**64 - 1), back_edges, not lazy_copies, count,
            stack_bytes, 0,
        )  # fmt: skip
        self._handle.lib.emu_configure(self._handle.pointer, self._config)

    def buffer(self, name: str, array: Any) -> np.ndarray:
        """A copy of ``array`` in device memory, C-contiguous, named in faults."""
        array = np.asarray(array)
        result = self._view(name, array.shape, array.dtype, True)
        result[...] = array
        return result

    def empty(self, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Device memory filled with NaN, which a checked kernel must write before it reads."""
        return self._view(name, shape, dtype, False)

    def _view(
        self, name: str, shape: Sequence[int], dtype: DTypeLike, initialised: bool
    ) -> np.ndarray:
        with self._handle.lock:
            memory = _Memory(self._handle, name, shape, dtype, initialised)
        array = _Array(shape, dtype, buffer=memory.bytes)  # type: ignore[arg-type]
        array.memory = memory
        return array

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        params: Any,
        shared_bytes: int = 0,
    ) -> None:
        """Run ``kernel`` over ``grid`` blocks of ``block`` threads; returns when it is done.

        ``params``: the entry's parameters as bytes, laid out as PTX declares them; a NumPy record
        will do. Raises EmulatorFault, ValueError for a launch no device would take,
        KeyboardInterrupt within the next back edge of every thread.
        """
        raw = np.ascontiguousarray(np.atleast_1d(params)).tobytes() if params is not None else b""
        data = ctypes.create_string_buffer(raw + b"\0" * 16, len(raw) + 16)
        at = (ctypes.addressof(data) + 15) & ~15
        ctypes.memmove(at, raw, len(raw))
        record = _Launch(
            kernel.address, _three("grid", grid), _three("block", block),
            shared_bytes, len(raw), at,
        )  # fmt: skip
        handle = self._handle
        with handle.lock:
            status = self._run(record)
            fault = handle.lib.emu_last_fault(handle.pointer).contents
            if status == _FAULT:
                raise EmulatorFault(kernel, fault)
            if status == _INVALID:
                raise ValueError(f"{kernel.name}: {fault.text.decode()}")
            if status == _NO_MEMORY:
                raise MemoryError(f"{kernel.name}: no host memory for a block of this size")
            if status == _STOPPED:
                raise KeyboardInterrupt

    def _run(self, record: _Launch) -> int:
        handle = self._handle
        if threading.current_thread() is not threading.main_thread():
            return handle.lib.emu_launch(handle.pointer, record)
        # Only Python code of the main thread sees Ctrl-C, so the launch runs beside it.
        result: list[int] = []

        def target() -> None:
            result.append(handle.lib.emu_launch(handle.pointer, record))

        runner = threading.Thread(target=target, name="pyinception-emulator", daemon=True)
        runner.start()
        try:
            while runner.is_alive():
                runner.join(0.5)
        except BaseException:
            while runner.is_alive():  # a stop before the launch has begun would be lost
                handle.lib.emu_stop(handle.pointer)
                runner.join(0.05)
            raise
        return result[0]

    def counters(self, kernel: Kernel) -> list[Counter]:
        """What each statement of ``kernel`` did; clear between kernels."""
        return [
            Counter(
                kernel.name, kernel.where(row.site) or "", COUNTERS[row.kind], row.width,
                row.instructions, row.units, row.ideal_units, row.worst_units,
            )
            for row in self._rows()
        ]  # fmt: skip

    def _rows(self) -> Any:
        handle = self._handle
        count = handle.lib.emu_counters(handle.pointer, None, 0)
        rows = (_Counter * count)()
        handle.lib.emu_counters(handle.pointer, rows, count)
        return rows

    def instructions(self, kernel: Kernel) -> int:
        """Statements of ``kernel`` that warps executed: executions of each basic block times its
        length in PTX."""
        lengths = Counts(site.block for site in kernel.sites)
        return sum(
            row.instructions * lengths[kernel.sites[row.site].block]
            for row in self._rows()
            if COUNTERS[row.kind] == "executed"
        )

    def clear_counters(self) -> None:
        """Set every counter to zero."""
        self._handle.lib.emu_clear_counters(self._handle.pointer)


def _three(name: str, value: Sequence[int]) -> Any:
    if not 1 <= len(value) <= 3 or any(not 0 < int(v) < 2**32 for v in value):
        raise ValueError(f"{name}: expected 1 to 3 positive extents, got {tuple(value)}")
    return (c_uint32 * 3)(*(*value, 1, 1)[:3])
