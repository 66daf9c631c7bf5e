"""Whether arrays share memory, without the exact test for which CuPy would wait for the GPU."""

from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from pyinception.overlap import _interleaved, overlaps_itself, share


class OnDevice:
    """A NumPy array as CuPy shows one: its address by `__cuda_array_interface__` alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.strides, self.shape, self.ndim = array.strides, array.shape, array.ndim
        self.itemsize = array.itemsize
        self.__cuda_array_interface__ = {"data": (array.ctypes.data, False)}


def views(buffer):
    """Slices of other channels, rows, columns and steps, and one of other strides."""
    channels = [slice(0, 3), slice(2, 5), slice(3, 8), slice(4, 5), slice(5, 8)]
    channels += [slice(0, 5, 2), slice(4, 8, 2)]
    columns = [slice(None), slice(1, None), slice(None, None, 2), slice(None, None, -1)]
    for channel, column, row in product(channels, columns, [slice(None), slice(2, None)]):
        yield buffer[:, row, column, channel]
    yield buffer.transpose(0, 2, 1, 3)[..., 3:6]


def test_interleaved_never_clears_arrays_that_share_memory_and_clears_channel_slices():
    buffer = np.zeros((2, 4, 4, 8), np.float32)
    cleared = 0
    for a, b in product(views(buffer), repeat=2):
        apart = _interleaved(OnDevice(a), OnDevice(b))
        assert not (apart and np.shares_memory(a, b))
        cleared += apart
    assert cleared >= 150
    for a, b in ((0, 3), (3, 8)), ((3, 8), (0, 3)), ((0, 4), (4, 5)):
        left, right = (OnDevice(buffer[..., slice(*ends)]) for ends in (a, b))
        assert _interleaved(left, right)


def test_interleaved_needs_equal_strides_items_and_whole_pixels():
    buffer = np.zeros((2, 4, 4, 8), np.float32)
    other = buffer.reshape(2, 4, 2, 16)[..., 4:6]  # the same memory, pixels twice as far apart
    assert not _interleaved(OnDevice(buffer[..., :3]), OnDevice(other))
    halves = buffer.view(np.float16)[..., 8:12]
    assert not _interleaved(OnDevice(buffer[..., :3]), OnDevice(halves))
    assert not _interleaved(OnDevice(buffer[0, 0, 0, :3]), OnDevice(buffer[0, 0, 0, 4:]))
    first = as_strided(buffer, (2, 2, 2, 2), buffer.strides)
    wide = as_strided(buffer.view(np.float64)[..., 3:], (2, 2, 2, 2), buffer.strides)
    assert np.shares_memory(first, wide)  # elements of 8 bytes, 4 apart: into the next pixel
    assert not _interleaved(OnDevice(first), OnDevice(wide))
    same = np.broadcast_to(buffer[:, :, :1], buffer.shape)
    assert not _interleaved(OnDevice(same[..., :4]), OnDevice(same[..., 4:]))
    ragged = as_strided(buffer, (3, 4, 4), (72, 16, 4))  # rows of four and a half pixels
    assert not _interleaved(OnDevice(ragged[..., :2]), OnDevice(ragged[..., 2:]))


def test_share_of_numpy_arrays_is_exact():
    buffer = np.zeros((2, 4, 4, 8), np.float32)
    assert share(buffer[..., :4], buffer[..., 3:])
    assert not share(buffer[..., :4], buffer[..., 4:])
    assert not share(buffer[..., ::2], buffer[..., 1::2])


def test_share_says_yes_where_numpy_gives_up():
    buffer = np.zeros(192_163_377, np.int8)
    one = as_strided(buffer, (1049, 1049, 1049), (36674, 61119, 85569))
    other = as_strided(buffer[64_023_025:], (1049, 1049, 1), (12223, 12224, 1))
    assert share(one, other)


def test_overlaps_itself():
    buffer = np.zeros((4, 6), np.float32)
    assert not overlaps_itself(buffer) and not overlaps_itself(buffer.T)
    assert not overlaps_itself(np.broadcast_to(buffer[:, 0, None], (4, 1)))
    assert not overlaps_itself(as_strided(buffer, (4, 1), (24, 0)))
    assert overlaps_itself(np.broadcast_to(buffer[:1], (4, 6)))
    windows = sliding_window_view(buffer, 3, axis=1)
    assert overlaps_itself(windows)
