"""Runs CUDA kernels on the CPU: PTX -> C++ of the host -> a runtime with a fiber per thread."""

from pyinception.emulator.device import Counter, Device, EmulatorFault, Kernel
from pyinception.emulator.settings import Settings, counting, using

__all__ = ["Counter", "Device", "EmulatorFault", "Kernel", "Settings", "counting", "using"]
