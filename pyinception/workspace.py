"""Memory for outputs and scratch: 64-byte-aligned arrays, counted copies, planned lifetimes.

While a `Tape` of calls is being recorded (`Session`), arrays handed out here are noted, so that
their lifetimes can be planned into one arena afterwards.
"""

import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from ctypes import addressof, c_char
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from pyinception.backend import Array, array_module, built_core

ALIGNMENT = 64  # bytes: a cache line, and one AVX-512 vector


@dataclass
class Recording:
    """Arrays handed out and calls made while a module was traced, in order."""

    arrays: list[Array] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)

    def array(self, array: Array) -> Array:
        """An array is handed out: as one whose values nobody can read yet."""
        self.arrays.append(traced(array))
        return self.arrays[-1]

    def call(self, call: Any, arguments: tuple[Any, ...]) -> None:
        """A plan or a function of the host is to run on ``arguments``: it is noted, and not run."""
        self.calls.append((call, arguments))


class Traced(np.ndarray):
    """A map of a module that is being traced: it has a place and a shape, and no values."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        text = "which a trace cannot follow; use `pyinception.ops` or `workspace.host`"
        raise TypeError(f"forward calls numpy.{ufunc.__name__} on a tensor's array, {text}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.shares_memory:  # reads places, no values
            return super().__array_function__(function, types, args, kwargs)
        return self.__array_ufunc__(function, "__call__")


_RECORDING: ContextVar[Recording | None] = ContextVar("pyinception_recording", default=None)

copies: Counter[str] = Counter()  # "function: argument" -> copies made since the start
copied_bytes: Counter[str] = Counter()


def recording() -> Recording | None:
    """The recording in force, or None."""
    return _RECORDING.get()


@contextmanager
def record(into: Recording | None = None) -> Iterator[Recording]:
    """Inside the ``with`` block, every call goes to the recording instead of being run."""
    noted = Recording() if into is None else into
    token = _RECORDING.set(noted)
    try:
        yield noted
    finally:
        _RECORDING.reset(token)


def aligned(size: int) -> Array:
    """``size`` uninitialised bytes on the host, from a 64-byte boundary on."""
    return _aligned((size,), np.dtype(np.uint8))


def lasting(size: int) -> Array:
    """`aligned`, for what is read in every call for long: in pages of 2 MB where there are such.

    70 MB of packed weights in pages of 4 KB cost GoogLeNet a tenth of its time (two Zen 4 cores).
    """
    if size < 1 << 22 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned(size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.uint8)


def _aligned(shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    core = built_core()
    if hasattr(core, "empty"):
        return core.empty(shape, kind)
    raw: Any = np.empty(prod(shape) * kind.itemsize + ALIGNMENT, np.uint8)
    address = addressof(c_char.from_buffer(raw))  # a fifth of the time of raw.ctypes.data
    return np.ndarray(shape, kind, raw, -address % ALIGNMENT)


def release() -> int:
    """Give the pages that no array holds back to the system; returns their bytes.

    Results of 128 KB and more come from a heap that keeps what is freed, for the next step takes
    the same again: without it a training step of GoogLeNet waited for 100,000 fresh pages. It is as
    large as what was held at once; call this where that is over, as after a training.
    """
    core = built_core()
    return int(core.release_memory()) if hasattr(core, "release_memory") else 0


def empty(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """An uninitialised C-contiguous array beside ``like``, of its dtype unless one is given."""
    kind = like.dtype if dtype is None else np.dtype(dtype)
    if type(like) is np.ndarray or array_module(like) is np:
        array = _aligned(shape, kind)
    else:
        array = _device_empty(shape, like, kind)
    noted = _RECORDING.get()
    if noted is not None:
        array = noted.array(array)
    return array


def traced(array: Array) -> Array:
    """The same memory as an array that NumPy's functions refuse to read."""
    return array.view(Traced) if isinstance(array, np.ndarray) else array


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a C-contiguous array, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def address_of(array: Array) -> int:
    """Where an array of NumPy or in CUDA memory begins."""
    host = isinstance(array, np.ndarray)
    interface = array.__array_interface__ if host else array.__cuda_array_interface__
    return int(interface["data"][0])


def _device_empty(shape: tuple[int, ...], like: Array, kind: np.dtype[Any]) -> Array:
    try:
        return array_module(like).empty(shape, kind)  # CuPy's pool aligns to 512 bytes
    except MemoryError as error:
        text = f"no CUDA memory for {prod(shape) * kind.itemsize} bytes, {kind} of shape {shape}"
        said = str(error).partition("\n")[0]
        raise MemoryError(f"{text} ({said}); try a smaller batch") from error


def arange(count: int, like: Array) -> Array:
    """0, 1, ..., count - 1 beside ``like``, to index with."""
    return array_module(like).arange(count)


def count_copy(function: str, argument: str, size: int) -> None:
    """Note a copy of ``size`` bytes that a caller might have avoided."""
    copies[f"{function}: {argument}"] += 1
    copied_bytes[f"{function}: {argument}"] += size


def host(function: Callable[..., None], *arrays: Array) -> None:
    """Run ``function(*arrays)``, a step done by NumPy or CuPy itself, or note it for later."""
    noted = _RECORDING.get()
    if noted is None:
        function(*arrays)
    else:
        noted.call(function, arrays)


def plan_lifetimes(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offsets of blocks in one arena so that no two that live at once overlap.

    Parameters
    ----------
    sizes : bytes of each block.
    lives : (first, last) step in which each block is used, inclusive.

    Returns
    -------
    offsets, total : bytes, multiples of 64. Greedy: the largest block first, at the lowest offset
        that is free throughout its life.
    """
    offsets = [0] * len(sizes)
    placed: list[int] = []
    total = 0
    for block in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        first, last = lives[block]
        size = -(-sizes[block] // ALIGNMENT) * ALIGNMENT
        rivals = sorted(
            (offsets[i], -(-sizes[i] // ALIGNMENT) * ALIGNMENT)
            for i in placed
            if lives[i][0] <= last and first <= lives[i][1]
        )
        offset = 0
        for start, length in rivals:
            if offset + size <= start:
                break
            offset = max(offset, start + length)
        offsets[block] = offset
        placed.append(block)
        total = max(total, offset + size)
    return offsets, total
