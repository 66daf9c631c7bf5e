"""Photometric distortions: brightness, contrast, saturation and hue, in one of four orders.

    brightness  x + b             contrast  mean_hw(x) + f (x - mean_hw(x))
    saturation  v - s (v - x)     hue       the colour circle turned by t

Howard (arXiv 1312.5402) names them without magnitudes, and GoogLeNet's paper (section 6) only
points there; magnitudes and orders are those of TensorFlow's Inception preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pyinception import rng

Image = NDArray[np.float32]  # (H, W, C)

BRIGHTNESS = 32 / 255  # b uniform in +- this
CONTRAST = SATURATION = 0.5  # f, s uniform in 1 +- this
HUE = 0.2  # t uniform in +- this, of a full turn
ORDERS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


def brightness(x: Image, b: float) -> Image:
    """x + b."""
    return x + np.float32(b)


def contrast(x: Image, f: float) -> Image:
    """m + f (x - m), m the mean of each channel."""
    m = x.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return m + np.float32(f) * (x - m)


def saturation(x: Image, s: float) -> Image:
    """v - k (v - x), v the largest channel; k = s, or less where a channel would fall below 0.

    That multiplies the S of HSV by s and cuts it at 1. Where v is not above 0 there is no colour.
    """
    v = x.max(axis=2, keepdims=True)
    span = v - x.min(axis=2, keepdims=True)
    most = np.divide(v, span, out=np.full_like(v, np.inf), where=span > 0)
    k = np.where(v > 0, np.minimum(np.float32(s), most), np.float32(1))
    return v - k * (v - x)


def hue(x: Image, t: float) -> Image:
    """The H of HSV plus t (of a full turn), S and V as they were."""
    v = x.max(axis=2)
    span = v - x.min(axis=2)
    r, g, b = (x[..., c] for c in range(3))
    divisor = np.where(span > 0, span, np.float32(1))
    h = np.where(
        v == r, (g - b) / divisor, np.where(v == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    )
    out = np.empty_like(x)
    for c, n in enumerate((5, 3, 1)):
        k = np.mod(h + np.float32(6 * t + n), np.float32(6))
        out[..., c] = v - span * np.clip(np.minimum(k, 4 - k), 0, 1)
    return out


STEPS: dict[str, Callable[[Image, float], Image]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


def photometric(
    images: NDArray[np.float32],
    indices: NDArray[np.int64],
    *,
    strength: float,
    seed: int,
    epoch: int,
) -> NDArray[np.float32]:
    """out[n] = clip(distorted images[n], 0, 1), amounts and order drawn for each image.

    Parameters
    ----------
    images : (N, H, W, C) float32 in [0, 1]
        C = 3; grey images (C = 1) get brightness and contrast alone.
    indices : (N,) int64
        Each image's index in the data set.
    strength : float
        Multiplies every range; 1 is the published one, 0 returns a copy.

    Returns
    -------
    (N, H, W, C) float32, a new array

    Raises
    ------
    ValueError
        If C is neither 1 nor 3.
    """
    if images.shape[3] not in (1, 3):
        text = f"images has {images.shape[3]} channels, expected 1 or 3"
        raise ValueError(f"photometric: {text}")
    out = np.empty_like(images)
    for n, index in enumerate(indices):
        x = images[n]
        for name, amount in amounts(strength, seed=seed, epoch=epoch, index=int(index)):
            if x.shape[2] == 3 or name in ("brightness", "contrast"):
                x = STEPS[name](x, amount)
        np.clip(x, 0, 1, out=out[n])
    return out


def amounts(strength: float, *, seed: int, epoch: int, index: int) -> list[tuple[str, float]]:
    """(step, amount) in the order drawn for one image."""
    order, b, f, s, t = rng.generator(seed, epoch, index, "photometric").random(5)
    drawn = {
        "brightness": strength * BRIGHTNESS * (2 * b - 1),
        "contrast": 1 + strength * CONTRAST * (2 * f - 1),
        "saturation": 1 + strength * SATURATION * (2 * s - 1),
        "hue": strength * HUE * (2 * t - 1),
    }
    return [(name, float(drawn[name])) for name in ORDERS[int(order * len(ORDERS))]]
