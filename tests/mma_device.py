"""Launches of the tensor-core kernels on the emulator, for the tests.

``why_not`` says why there is none: the emulator is not part of this installation, or a compiler it
needs is missing.
"""

from functools import cache

import numpy as np
from cuda_run import Launch

try:
    from pyinception.emulator import compile as emulator
    from pyinception.emulator import device as devices
except ImportError as error:
    emulator, MISSING = None, f"no emulator: {error}"


def why_not() -> str | None:
    if emulator is None:
        return MISSING
    try:
        devices.library()
    except RuntimeError as error:
        return str(error)
    return emulator.why_not()


@cache
def module_of(source):
    return emulator.module_of(source)


@cache
def kernel_of(source, entry: str):
    translation, path = emulator.build(module_of(source), entry, checked=True)
    return devices.Kernel.load(path, entry, translation.sites)


class Emulated:
    """Buffers by name and launches, in one order of threads, every access checked.

    Checked only: translating an entry takes longer than running it, and twice as long for both.
    """

    def __init__(self, **how) -> None:
        self.device = devices.Device(**how)
        self.arrays: dict[str, np.ndarray] = {}
        self.kernel = None  # the last one launched

    def buffer(self, name: str, array: np.ndarray) -> int:
        """A copy on the device; its address."""
        self.arrays[name] = self.device.buffer(name, array)
        return self.arrays[name].ctypes.data

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def launch(self, launch: Launch) -> None:
        self.kernel = kernel_of(launch.source, launch.entry)
        params = np.frombuffer(launch.params, np.uint8)
        self.device.launch(self.kernel, launch.grid, (launch.block,), params, launch.shared_bytes)

    def counters(self):
        return self.device.counters(self.kernel)
