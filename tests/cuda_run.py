"""Plans the launches of the CUDA kernels and runs them on the emulator.

`plan` asks the compiled core; `Memory` lays views of NumPy arrays out in the emulator's guarded
buffers; `run` executes launches and reads the buffers back.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ml_dtypes import bfloat16

core = pytest.importorskip("pyinception._C")

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "kernels" / "cuda"
CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


class Launch(NamedTuple):
    source: Path
    entry: str
    grid: tuple[int, int, int]
    block: int
    shared_bytes: int
    params: bytes
    clocks: float  # by the plan's model; 0: not modelled

    def record(self, dtype: np.dtype) -> np.void:
        """The record that the entry takes, completed by the plan."""
        return np.frombuffer(self.params, dtype)[0]


# What the sentences of a refusal by code contain.
SENTENCES = {
    -1: "an extent is not positive", -2: "filter and stride must be", -3: "larger than the padded",
    -4: "a stride is negative", -5: "beyond 32-bit indices",
    -6: r"shared memory of a block: it needs \d+ bytes, expected at most \d+",
    -7: "a required array is null", -8: "the workspace is null", -9: "storage must be",
    -10: "a pooling window must", -11: "a constant lies outside",
}  # fmt: skip


class Refused(Exception):
    """A plan declined; the message is its sentence."""


def plan(name: str, record: np.ndarray) -> tuple[list[Launch], int]:
    """(launches, workspace bytes) of a filled record; raises `Refused` where the plan declines."""
    try:
        rows, workspace = core.cuda_plan(name, record.tobytes())
    except NotImplementedError as error:
        raise Refused(str(error).removeprefix(f"{name}: ")) from None
    return [Launch(CUDA / source, *rest) for source, *rest in rows], workspace


class Memory:
    """Views of NumPy arrays in device buffers: one buffer for each array that owns its memory."""

    def __init__(self, device) -> None:
        self.device = device
        self.buffers: dict[int, tuple[np.ndarray, int]] = {}  # by id: the owner, its address

    def put(self, view: np.ndarray | None, name: str) -> int:
        """The device address of the view's first element; None is null."""
        if view is None:
            return 0
        owner = view
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in self.buffers:
            assert owner.flags.c_contiguous
            self.buffers[id(owner)] = owner, self.device.upload(name, owner)
        address = self.buffers[id(owner)][1]
        return address + view.__array_interface__["data"][0] - owner.ctypes.data

    def take_back(self) -> None:
        """Copy every buffer back into its array."""
        for owner, address in self.buffers.values():
            self.device.download(address, owner)


def strides_of(view: np.ndarray) -> tuple[int, int, int]:
    """Elements from image to image, row to row and pixel to pixel of an NHWC view."""
    assert view.strides[3] == view.itemsize or view.shape[3] == 1
    return tuple(s // view.itemsize for s in view.strides[:3])


def run(launches: list[Launch], memory: Memory) -> None:
    """Execute the launches in order, then read all buffers back."""
    for launch in launches:
        memory.device.launch(launch)
    memory.take_back()


class Emulated:
    """The emulator as `Memory` and `run` use a device: checked, in a greedy order."""

    def __init__(self, emulator, seed: int) -> None:
        self.emulator = emulator
        self.device = emulator.device.Device(order="greedy", seed=seed)
        self.buffers: dict[int, np.ndarray] = {}

    def upload(self, name: str, array: np.ndarray) -> int:
        buffer = self.device.buffer(name, array.view(_bits(array)))
        self.buffers[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def download(self, address: int, array: np.ndarray) -> None:
        array.view(_bits(array))[...] = self.buffers[address]

    def launch(self, launch: Launch) -> None:
        kernel = _kernel(self.emulator, launch.source, launch.entry)
        params = np.frombuffer(launch.params, np.uint8)
        self.device.launch(kernel, launch.grid, (launch.block,), params, launch.shared_bytes)


def _bits(array: np.ndarray) -> str:
    return f"u{array.itemsize}"


@cache
def _module(emulator, source: Path):
    return emulator.compile.module_of(source)


@cache
def _kernel(emulator, source: Path, entry: str):
    translation, library = emulator.compile.build(_module(emulator, source), entry, checked=True)
    return emulator.device.Kernel.load(library, entry, translation.sites)


def open_device(seed: int = 1) -> Emulated:
    """A device of the emulator, or a skip that says what is missing."""
    if CXX is None:
        pytest.skip("no C++ compiler found")
    try:
        from pyinception import emulator
        from pyinception.emulator import compile, device  # noqa: F401
    except ImportError:
        pytest.skip("this build has no CUDA emulator")
    if reason := compile.why_not():
        pytest.skip(reason)
    try:
        return Emulated(emulator, seed)
    except RuntimeError as error:  # its library is not built
        pytest.skip(str(error))


STORAGES = {"fp32": np.dtype(np.float32), "bf16": np.dtype(bfloat16), "fp16": np.dtype(np.float16)}


def integers(rng: np.random.Generator, shape, dtype=np.float32, top=3) -> np.ndarray:
    """Small integers, a third of them zero: every partial sum of the tests is exact in fp32."""
    return (rng.integers(-top, top + 1, shape) * (rng.random(shape) > 0.2)).astype(dtype)


def sliced(map_: np.ndarray, before: int, after: int) -> np.ndarray:
    """The map as a slice of the channels of a wider buffer of NaN."""
    *extents, channels = map_.shape
    wide = np.full((*extents, before + channels + after), np.nan, map_.dtype)
    wide[..., before : before + channels] = map_
    return wide[..., before : before + channels]


def assert_only_slice_written(view: np.ndarray) -> None:
    """What lies beside the slice in its buffer is NaN still."""
    wide = view.base.copy()
    first = (view.__array_interface__["data"][0] - view.base.ctypes.data) // view.itemsize
    wide[..., first : first + view.shape[-1]] = np.nan
    assert np.isnan(wide.astype(np.float32)).all()
