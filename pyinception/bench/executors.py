"""Where a kernel that is no part of the library runs: on a GPU through its driver, or emulated.

Both take CUDA C++ files, buffers by name and launches as data, so that what runs on one runs on
the other.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from pyinception.bench.driver import Driver
from pyinception.emulator import compile as compiling
from pyinception.emulator.device import Counter, Device, Kernel
from pyinception.emulator.ptx import Module


class Executor(Protocol):
    """A device that compiles, holds buffers and launches."""

    name: str
    arch: str  # what kernels are compiled for: "80", "90"

    def compile(self, source: Path, include: Sequence[Path] = ()) -> tuple[str, ...]:
        """Take a file for the launches that follow; the names of its entries."""
        ...

    def buffer(self, name: str, array: np.ndarray) -> int:
        """The address of a copy of ``array``."""
        ...

    def empty(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> int:
        """The address of memory whose every byte is 0xff (NaN)."""
        ...

    def read(self, name: str) -> np.ndarray:
        """A copy of what a buffer holds now."""
        ...

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        params: bytes,
        shared_bytes: int = 0,
    ) -> None:
        """Run an entry of the file and wait for it."""
        ...


class EmulatedExecutor:
    """The emulator; ``checked`` and the arguments of `Device` choose how it runs."""

    name = "emulator"

    def __init__(
        self, *, checked: bool = True, arch: str = compiling.ARCHITECTURE, **settings: Any
    ) -> None:
        self.arch, self.checked = arch, checked
        self.device = Device(**settings)
        self._arrays: dict[str, np.ndarray] = {}
        self._kernels: dict[str, Kernel] = {}
        self._module = Module()
        self._last: Kernel | None = None

    def compile(self, source: Path, include: Sequence[Path] = ()) -> tuple[str, ...]:
        self._module = compiling.module_of(source, include=include, arch=self.arch)
        self._kernels.clear()
        return tuple(self._module.entries)

    def buffer(self, name: str, array: np.ndarray) -> int:
        self._arrays[name] = self.device.buffer(name, array)
        return self._arrays[name].ctypes.data

    def empty(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> int:
        self._arrays[name] = self.device.empty(name, shape, dtype)
        return self._arrays[name].ctypes.data

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name].copy()

    def _kernel(self, entry: str) -> Kernel:
        if entry not in self._kernels:
            translation, path = compiling.build(self._module, entry, checked=self.checked)
            self._kernels[entry] = Kernel.load(path, entry, translation.sites)
        return self._kernels[entry]

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        params: bytes,
        shared_bytes: int = 0,
    ) -> None:
        record = np.frombuffer(params, np.uint8)
        self._last = self._kernel(entry)
        self.device.launch(self._last, grid, block, record, shared_bytes)

    def counted(self) -> tuple[list[Counter], Kernel]:
        """What the last launch did, on a device that counts, and its kernel."""
        assert self._last is not None
        return self.device.counters(self._last), self._last


class DriverExecutor:
    """A GPU. `compile` makes machine code for it."""

    def __init__(self, driver: Driver | None = None) -> None:
        self.driver = driver or Driver()
        self.name = self.driver.name
        major = int(self.driver.arch[:-1])
        self.arch = self.driver.arch + ("a" if major >= 9 else "")  # wgmma and TMA need the a
        self._buffers: dict[str, tuple[int, np.ndarray]] = {}  # address; shape and dtype
        self._module = 0
        self._functions: dict[str, int] = {}

    def compile(
        self, source: Path, include: Sequence[Path] = (), *, keep: bool = False
    ) -> tuple[str, ...]:
        """As `Executor` says; ``keep``: what was prepared from the file before stays loaded."""
        image = compiling.cubin_of(source, include=include, arch=self.arch)
        text = compiling.ptx_of(source, include=include, arch=self.arch)
        if self._module and not keep:
            self.driver.unload(self._module)
        self._module, self._functions = self.driver.load(image), {}
        return tuple(re.findall(r"\.entry\s+([\w$]+)", text))

    def buffer(self, name: str, array: np.ndarray) -> int:
        address = self.empty(name, array.shape, array.dtype)
        self.driver.upload(address, array)
        return address

    def empty(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> int:
        if name in self._buffers:
            self.driver.free(self._buffers[name][0])
        like = np.empty(shape, dtype)
        address = self.driver.alloc(like.nbytes)
        self.driver.fill(address, 0xFF, max(like.nbytes, 1))
        self._buffers[name] = address, like
        return address

    def read(self, name: str) -> np.ndarray:
        address, like = self._buffers[name]
        array = np.empty_like(like)
        self.driver.download(address, array)
        return array

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        params: bytes,
        shared_bytes: int = 0,
    ) -> None:
        self.prepared(entry, grid, block, params, shared_bytes)()
        self.driver.synchronize()

    def prepared(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        params: bytes,
        shared_bytes: int = 0,
    ) -> Callable[[], None]:
        """A call that enqueues the launch and does not wait."""
        if entry not in self._functions:
            self._functions[entry] = self.driver.function(self._module, entry)
        function = self._functions[entry]
        return lambda: self.driver.launch(function, grid, block, params, shared_bytes)
