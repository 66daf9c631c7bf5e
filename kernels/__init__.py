"""The arithmetic: a NumPy reference, Numba tile programs for the CPU, CUDA C++ for the GPU.

A leaf of the package: nothing here knows tensors, modules or dispatch. ``reference`` says what
every op computes, ``args`` declares the records the kernels take, ``cpu`` and ``cuda`` compute
the same things fast.
"""
