"""The core's CRC-32, by which checkpoints are checked, is zlib's."""

import zlib

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")


def test_the_cores_crc_is_zlibs() -> None:
    """Every length that ends before, in and behind 64 and 16 bytes, from any address."""
    data = np.random.default_rng(3).integers(0, 256, 70_001, np.uint8)
    for length in (*range(200), 4096, 65_537, 70_000):
        for start in (0, 1):
            part = data[start : start + length]
            assert core.crc32(part) == zlib.crc32(part), (start, length)
    assert core.crc32(b"123456789") == 0xCBF43926
    with pytest.raises((ValueError, BufferError), match="contiguous"):
        core.crc32(data[::2])
