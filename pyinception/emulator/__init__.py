"""Runs CUDA kernels on the CPU: PTX -> C++ of the host -> a runtime with a fiber per thread."""
