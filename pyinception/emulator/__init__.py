"""Runs CUDA kernels on the CPU: PTX -> C++ of the host -> a runtime with a fiber per thread."""

from pyinception.emulator.device import Device, EmulatorFault
from pyinception.emulator.settings import Settings, using

__all__ = ["Device", "EmulatorFault", "Settings", "using"]
