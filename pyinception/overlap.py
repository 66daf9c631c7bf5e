"""Whether arrays share memory: an output must not, with itself or with what is read beside it."""

import numpy as np

from pyinception.backend import Array, array_module


def overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory: each stride must clear all the smaller axes."""
    if not array.size:
        return False
    reach = array.itemsize
    pairs = zip(array.strides, array.shape, strict=True)
    for stride, extent in sorted((stride, extent) for stride, extent in pairs if extent > 1):
        if stride < reach:
            return True
        reach += stride * (extent - 1)
    return False


def _interleaved(a: Array, b: Array) -> bool:
    """Whether two maps of one buffer are slices of other channels: equal strides, pixels apart."""
    if a.strides != b.strides or a.ndim < 2 or a.itemsize != b.itemsize:
        return False
    pixel, item = a.strides[-2], a.itemsize
    if pixel <= 0 or a.strides[-1] != item or any(s % pixel for s in a.strides[:-1]):
        return False
    first, second = (x.__cuda_array_interface__["data"][0] for x in (a, b))
    apart = (second - first) % pixel
    return bool(a.shape[-1] * item <= apart <= pixel - b.shape[-1] * item)


def share(a: Array, b: Array) -> bool:
    """Whether two arrays have memory in common, or may have."""
    module = array_module(a)
    if module is not array_module(b):
        return False
    if module is not np:
        # Bounds alone: CuPy's exact test sorts every address and waits for the GPU.
        return bool(module.may_share_memory(a, b)) and not _interleaved(a, b)
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # not proved apart
