"""Memory that a worker fills and its parent reads: one slot per batch.

    slot = images (B, H, W, C) float32 | n now read, m images | B reasons of 256 bytes

The memory is a nameless file (memfd) whose descriptor the worker inherits: it ends with the last
process that has it open, however that process ends, and leaves nothing in /dev/shm.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REASON = 256  # bytes of text for a picture that cannot be read
_ALIGN = 64
IDLE = -1


class Slots:
    """`count` slots for batches of up to `capacity` images of `shape`; see the head of the file.

    Parameters
    ----------
    descriptor : int or None
        Of the memory that another process made; None makes it.
    """

    def __init__(
        self, count: int, capacity: int, shape: tuple[int, int, int], descriptor: int | None = None
    ) -> None:
        self.count, self.capacity, self.shape = count, capacity, shape
        numbers = capacity * int(np.prod(shape))
        self._images = 4 * numbers
        self._size = -(-(self._images + 16 + capacity * REASON) // _ALIGN) * _ALIGN
        if descriptor is None:
            descriptor = os.memfd_create("pyinception batches", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, count * self._size)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, count * self._size)

    def images(self, slot: int) -> NDArray[np.float32]:
        """The images of a slot, (capacity, H, W, C)."""
        count, start = self._images // 4, slot * self._size
        flat = np.frombuffer(self._memory, np.float32, count, start)
        return flat.reshape(self.capacity, *self.shape)

    def state(self, slot: int) -> NDArray[np.int64]:
        """[which picture is being read or `IDLE`, how many images there are]."""
        return np.frombuffer(self._memory, np.int64, 2, slot * self._size + self._images)

    def finish(self, slot: int, reasons: Sequence[str]) -> None:
        """Note that a slot's images are filled, and why the others are not."""
        start = slot * self._size + self._images + 16
        for n, reason in enumerate(reasons):
            text = reason.encode(errors="replace")[:REASON]
            where = start + n * REASON
            self._memory[where : where + REASON] = text.ljust(REASON, b"\0")
        self.state(slot)[:] = IDLE, sum(not reason for reason in reasons)

    def take(self, slot: int, asked: int) -> tuple[NDArray[np.float32], list[str]]:
        """A copy of the images of a slot, and the reasons for the `asked` ones that lack."""
        count = int(self.state(slot)[1])
        start = slot * self._size + self._images + 16
        fields = (self._memory[start + n * REASON : start + (n + 1) * REASON] for n in range(asked))
        reasons = [field.rstrip(b"\0").decode(errors="replace") for field in fields]
        return self.images(slot)[:count].copy(), reasons

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last view of it."""
        os.close(self.descriptor)
