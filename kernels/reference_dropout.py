"""The reference of dropout and of its random numbers; terms as in reference.py."""

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .windows import check, require

Array = npt.NDArray[Any]
Shape = Sequence[int]


def philox4x32(counter: npt.ArrayLike, key: npt.ArrayLike) -> Array:
    """(c0 c1 c2 c3) <- (hi(m1 c2) ^ c1 ^ k0, lo(m1 c2), hi(m0 c0) ^ c3 ^ k1, lo(m0 c0)), ten times.

    counter (..., 4) and key (..., 2) of uint32 give (..., 4) words of uint32; the key grows by Weyl
    constants. Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
    """
    c, k = np.asarray(counter, np.uint32), np.asarray(key, np.uint32)
    for name, words, count in (("counter", c, 4), ("key", k, 2)):
        text = f"philox4x32: {name} has shape {words.shape}, expected (..., {count})"
        require(words.shape[-1:] == (count,), text)
    c0, c1, c2, c3 = np.moveaxis(c.astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(k.astype(np.uint64), -1, 0)
    for _ in range(10):
        m0, m1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = (m1 >> 32) ^ c1 ^ k0, (m0 >> 32) ^ c3 ^ k1
        c1, c3 = m1 & 0xFFFFFFFF, m0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def dropout_mask(
    shape: Shape, p: float, *, seed: int, step: int, layer: int, first_sample: int = 0
) -> Array:
    """keep[n, e] = (word e % 4 of philox((e // 4, first_sample + n, step, layer), seed)) >= t.

    t = round(p 2^32), half to even; e counts a sample's elements in memory order; the seed's low
    word comes first in the key; layer is the CRC-32 of the layer's path. Returns bool of shape.
    """
    check(locals(), "dropout_mask", "shape N*")
    N, elements = shape[0], prod(shape[1:])
    text = f"dropout_mask: first_sample is {first_sample}, expected at most 2^32 - N, N = {N}"
    require(first_sample + N <= 2**32, text)
    counter = np.empty((N, -(-elements // 4), 4), np.uint32)
    counter[..., 0] = np.arange(counter.shape[1])
    counter[..., 1] = np.arange(first_sample, first_sample + N)[:, None]
    counter[..., 2:] = step, layer
    words = philox4x32(counter, (seed % 2**32, seed // 2**32)).reshape(N, 4 * counter.shape[1])
    keep: Array = words[:, :elements] >= np.uint64(round(float(p) * 2**32))
    return keep.reshape(shape)


def dropout(
    x: Array, p: float, *, seed: int, step: int, layer: int, first_sample: int = 0
) -> Array:
    """y = x keep / (1 - p), keep from ``dropout_mask``; the same call on gy is the backward.

    A dropped element is +0 whatever x holds there; 1 - p is rounded to the dtype of x.
    """
    check(locals(), "dropout", "x N*")
    keep = dropout_mask(x.shape, p, seed=seed, step=step, layer=layer, first_sample=first_sample)
    return cast(Array, np.where(keep, x / x.dtype.type(1 - p), x.dtype.type(0)))
