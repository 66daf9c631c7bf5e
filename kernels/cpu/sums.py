"""Where the sums of a convolution are cut into chunks.

    y = bias + (((chunk 0 + chunk 1) + chunk 2) + ...)

A chunk is one chain of multiply-adds from zero. Its error grows with its length, so it has at most
SUM_CHUNK terms: as many whole filter rows (S C terms) as fit, or the equal blocks of one row. The
cut follows from the filter's shape and nothing else: every tile, level and twin has the same bits.
"""

from numba import njit

from ..args import SUM_CHUNK
from .memory import OPTIONS


@njit(**OPTIONS)
def sum_chunk(r, f, row):
    """Number of the chunk that term f of filter row r belongs to, and where in the row it ends."""
    if row <= SUM_CHUNK:
        return r // (SUM_CHUNK // row), row
    blocks = (row + SUM_CHUNK - 1) // SUM_CHUNK
    width = (row + blocks - 1) // blocks
    return r * blocks + f // width, min((f // width + 1) * width, row)


@njit(**OPTIONS)
def sum_rows(Q):
    """Rows of Q pixels in one chain of a depthwise filter gradient: SUM_CHUNK terms, or one row.

    A chain over a whole map stands still once its sum is 2^24 times a term.
    """
    return max(SUM_CHUNK // Q, 1)


@njit(**OPTIONS, inline="always")
def two_sum(a, b):
    """(a + b rounded, what the rounding lost); Knuth, The Art of Computer Programming 2, 4.2.2."""
    total = a + b
    moved = total - a
    return total, (a - (total - moved)) + (b - moved)
