"""The device code of `emulator_kernels.cpp` and `emulator_counted.cpp`, compiled and run."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from pyinception.emulator import device as emulator
from pyinception.emulator.device import Device, Kernel

try:
    emulator.library()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

TESTS = Path(__file__).resolve().parent
SOURCES = [TESTS / "emulator_kernels.cpp", TESTS / "emulator_counted.cpp"]
PARAMS = np.dtype([("x", "u8"), ("y", "u8"), ("which", "u4"), ("n", "u4")])
SCHEDULES = [("fair", 0), ("random", 1), ("random", 2), ("greedy", 1), ("greedy", 2), ("greedy", 3)]
_folder = TemporaryDirectory(prefix="pyinception-emulator-")


class Loaded:
    """The test's device code, plain and checked."""

    def __init__(self, folder: Path) -> None:
        for variant, flags in (("plain", []), ("checked", ["-DEMU_CHECKED"])):
            command = [
                "g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror",
                *flags, f"-I{TESTS.parent / 'csrc' / 'emulator'}",
                *map(str, SOURCES), "-o", str(folder / f"{variant}.so"),
            ]  # fmt: skip
            subprocess.run(command, check=True)
        self.folder = folder

    def kernel(self, name: str, variant: str) -> Kernel:
        sites = [f"line {i}" for i in range(512)]
        return Kernel.load(self.folder / f"{variant}.so", name, sites)


@cache
def compiled() -> Loaded:
    """Once a process."""
    return Loaded(Path(_folder.name))


def run(
    kernel: Kernel, which: int, threads: int = 128, blocks: int = 1, size: int = 4096,
    fill: bool = True, shared: int = 8192, **settings: object,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """x and y after program ``which``; x counts from 0, y is NaN."""
    device = Device(**settings)  # type: ignore[arg-type]
    x = device.buffer("x", np.arange(size, dtype=np.float32))
    y = device.buffer("y", np.full(size, np.nan, np.float32))
    if not fill:
        y = device.empty("y", (size,))
    if which in (5, 14, 119, 135):
        x[0] = 0
    params = np.array((x.ctypes.data, y.ctypes.data, which, size), PARAMS)
    device.launch(kernel, (blocks,), (threads,), params, shared)
    return np.array(x), np.array(y)
