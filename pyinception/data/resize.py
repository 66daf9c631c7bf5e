"""Bilinear resizing with half-pixel centres.

    out[i, j] = sum over the 2 x 2 pixels around ((i + 1/2) H / P - 1/2, (j + 1/2) W / Q - 1/2)

Pixels are squares, so both pictures span the same rectangle and nothing shifts; the border
pixel repeats outside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bilinear(images: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """out = A_h images A_w^T, with A the two-tap interpolation matrices of each axis.

    Parameters
    ----------
    images : (N, H, W, C) float32
        Enlarging is exact interpolation; shrinking does not filter, so it aliases.
    size : (P, Q)
        Rows and columns wanted, each at least 1.

    Returns
    -------
    (N, P, Q, C) float32

    Raises
    ------
    ValueError
        If `images` is not of rank 4, is empty along H or W, or `size` is below 1.
    """
    if images.ndim != 4 or 0 in images.shape[1:3]:
        raise ValueError(f"bilinear: images has shape {images.shape}, expected (N, H, W, C)")
    if min(size) < 1:
        raise ValueError(f"bilinear: size is {size}, expected at least (1, 1)")
    rows_low, rows_high, rows_weight = _taps(images.shape[1], size[0])
    columns_low, columns_high, columns_weight = _taps(images.shape[2], size[1])
    weight = rows_weight[:, None, None]
    tall = images[:, rows_low] * (1 - weight) + images[:, rows_high] * weight
    weight = columns_weight[:, None]
    out = tall[:, :, columns_low] * (1 - weight) + tall[:, :, columns_high] * weight
    return out.astype(np.float32, copy=False)


def _taps(
    extent: int, wanted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the lower and upper source pixel of each wanted one, and the upper's weight."""
    centre = (np.arange(wanted) + 0.5) * (extent / wanted) - 0.5
    centre = np.clip(centre, 0, extent - 1)
    low = np.minimum(centre.astype(np.int64), max(extent - 2, 0))
    high = np.minimum(low + 1, extent - 1)
    return low, high, (centre - low).astype(np.float32)
