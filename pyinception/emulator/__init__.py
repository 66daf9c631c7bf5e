"""Runs CUDA kernels on the CPU: PTX -> C++ of the host -> a runtime with a fiber per thread."""

from pyinception.emulator.device import Counter, Device, EmulatorFault, Kernel, by_line
from pyinception.emulator.settings import Settings, counting, using

__all__ = [
    "Counter",
    "Device",
    "EmulatorFault",
    "Kernel",
    "Settings",
    "by_line",
    "counting",
    "using",
]
