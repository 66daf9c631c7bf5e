"""Augmentation: crops, shifts, mirror images, photometric distortions, then normalisation.

    image'[h, w] = image[h + dy, +-w + dx],   (dy, dx, +-) = f(seed, epoch, index, purpose)
    sampled crop = box of a share of the area in [s, 1] and of an aspect in [3/4, 4/3], scaled

What happens to an image depends on its index in the data set and on (seed, epoch), never on
the batch it stands in, on its neighbours or on how many workers there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyinception import rng
from pyinception.data.dataset import Dataset
from pyinception.data.photometric import photometric
from pyinception.data.picture import FILTERS, Box
from pyinception.extents import flag, integer, real

ASPECTS = (3 / 4, 4 / 3)
TRIES = 10
INTERPOLATIONS = (*FILTERS, "random")


def sampled_box(
    width: int, height: int, *, area: float, seed: int, epoch: int, index: int
) -> Box | None:
    """A box of share a of the picture's area and aspect r, uniform in a, log r and place.

        w = sqrt(a W H r),  h = sqrt(a W H / r),   a in [area, 1],  r in [3/4, 4/3]

    What does not fit into the picture is drawn again, up to ten times; then None, which stands
    for the centred box. Source: Szegedy et al. 2015, section 6 (area 8 - 100 %).
    """
    draw = rng.generator(seed, epoch, index, "sampled crop")
    for _ in range(TRIES):
        share, aspect, x, y = draw.random(4)
        pixels = (area + (1 - area) * share) * width * height
        ratio = math.exp(math.log(ASPECTS[0]) + math.log(ASPECTS[1] / ASPECTS[0]) * aspect)
        w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        if w <= width and h <= height:
            left, top = x * (width - w), y * (height - h)
            return left, top, min(left + w, width), min(top + h, height)
    return None


def random_crop(
    images: NDArray[np.float32],
    indices: NDArray[np.int64],
    *,
    padding: int,
    seed: int,
    epoch: int,
    size: int = 0,
) -> NDArray[np.float32]:
    """out[n, h, w] = padded[n, h + dy, w + dx],  dy, dx uniform over all places of the window.

    Parameters
    ----------
    images : (N, H, W, C) float32
        Padded by repeating the border pixel, then cropped.
    indices : (N,) int64
        Each image's index in the data set.
    padding : int
        Pixels added on each side.
    size : int
        Rows and columns of the window; 0: those of the image.

    Returns
    -------
    (N, P, Q, C) float32, a new array
    """
    _check("random_crop", images, indices)
    if padding < 0:
        raise ValueError(f"random_crop: padding is {padding}, expected at least 0")
    height, width = images.shape[1:3]
    p, q = _window("random_crop", images, size)
    out = np.empty((len(images), p, q, images.shape[3]), np.float32)
    rows, columns = np.arange(-padding, p - padding), np.arange(-padding, q - padding)
    for n, index in enumerate(indices):
        draw = rng.generator(seed, epoch, int(index), "crop")
        dy = draw.integers(0, height - p + 2 * padding + 1)
        dx = draw.integers(0, width - q + 2 * padding + 1)
        h = np.clip(rows + dy, 0, height - 1)
        w = np.clip(columns + dx, 0, width - 1)
        out[n] = images[n][h[:, None], w]
    return out


def centre_crop(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """out[n, h, w] = images[n, h + (H - P) // 2, w + (W - Q) // 2],  P = Q = size.

    Returns
    -------
    (N, P, Q, C) float32, a view
    """
    p, q = _window("centre_crop", images, size)
    top, left = (images.shape[1] - p) // 2, (images.shape[2] - q) // 2
    return images[:, top : top + p, left : left + q]


def mirror(
    images: NDArray[np.float32], indices: NDArray[np.int64], *, seed: int, epoch: int
) -> NDArray[np.float32]:
    """out[n, h, w] = images[n, h, W - 1 - w] with probability 1/2, else images[n, h, w].

    Returns
    -------
    (N, H, W, C) float32, a new array
    """
    _check("mirror", images, indices)
    out = np.empty_like(images)
    for image, result, index in zip(images, out, indices, strict=True):
        turned = rng.generator(seed, epoch, int(index), "mirror").integers(0, 2)
        result[...] = image[:, ::-1] if turned else image
    return out


def standardise(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """out = (x - mean(x)) / max(std(x), 1 / sqrt(H W C)), over each image.

    The lower bound keeps a flat image at zero (Zhang et al. 2017, appendix A).

    Parameters
    ----------
    images : (N, H, W, C) float32

    Returns
    -------
    (N, H, W, C) float32, a new array
    """
    out = np.empty_like(images)
    floor = 1.0 / math.sqrt(max(1, math.prod(images.shape[1:])))
    # One by one: the bits do not depend on the batch, and an image stays in cache.
    for image, result in zip(images, out, strict=True):
        np.subtract(image, np.float32(image.mean(dtype=np.float64)), out=result)
        deviation = math.sqrt(np.mean(np.square(result), dtype=np.float64))
        result /= np.float32(max(deviation, floor))
    return out


def subtract_mean(images: NDArray[np.float32], mean: tuple[float, ...]) -> NDArray[np.float32]:
    """out[..., c] = x[..., c] - mean[c].

    Raises
    ------
    ValueError
        If `mean` has not one value per channel.
    """
    if len(mean) != images.shape[-1]:
        raise ValueError(
            f"subtract_mean: mean has {len(mean)} values, expected one per channel "
            f"({images.shape[-1]})"
        )
    return images - np.asarray(mean, dtype=np.float32)


def channel_mean(dataset: Dataset, chunk: int = 512) -> tuple[float, ...]:
    """mean[c] = average of x[n, h, w, c] over all images and pixels of a data set."""
    total = np.zeros(dataset.shape[2])
    for first in range(0, len(dataset), chunk):
        images = dataset.images(np.arange(first, min(first + chunk, len(dataset))))
        total += images.mean(axis=(1, 2), dtype=np.float64).sum(axis=0)
    return tuple(float(value) for value in total / len(dataset))


@dataclass(frozen=True)
class Augment:
    """out = standardise(scale (distort(mirror(shift(crop(x)))) - mean)), each part optional.

    Parameters
    ----------
    area : float
        Smallest share of a picture's area in a sampled crop (`sampled_box`); 1 takes none. Such
        crops are cut from the picture as it was stored, so `batches` cuts them.
    interpolation : str
        How such a crop is scaled: one of `FILTERS`, or "random", each equally likely.
    crop : int
        Rows and columns of what is cut from the image, at a random place; 0 takes all of it.
    centred : bool
        The crop is the one in the centre.
    padding : int
        Largest shift of `random_crop` in pixels.
    mirror : bool
        Mirror half of the images.
    photometric : float
        Strength of `photometric.photometric`; 0 is none, 1 the published one.
    mean : tuple of float or None
        Per-channel mean to subtract.
    scale : float
        Factor after that: 255 for bytes' range, 2 with a mean of 1/2 for [-1, 1].
    standardise : bool
        Per-image standardisation.
    """

    padding: int = 0
    mirror: bool = False
    mean: tuple[float, ...] | None = None
    standardise: bool = False
    area: float = 1.0
    interpolation: str = "bilinear"
    crop: int = 0
    centred: bool = False
    photometric: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("padding", "crop"):
            integer("Augment", name, getattr(self, name), 0)
        for name in ("mirror", "standardise", "centred"):
            flag("Augment", name, getattr(self, name))
        for name in ("area", "photometric"):
            real("Augment", name, getattr(self, name))
        for name, values in (("scale", (self.scale,)), ("mean", self.mean or ())):
            for value in values:
                real("Augment", name, value, -math.inf)
        if not self.scale:
            raise ValueError(f"Augment: scale is {self.scale}, expected a number that is not 0")
        if not 0 < self.area <= 1:
            raise ValueError(f"Augment: area is {self.area}, expected (0, 1]")
        if self.interpolation not in INTERPOLATIONS:
            text = f"interpolation is {self.interpolation!r}, expected {', '.join(INTERPOLATIONS)}"
            raise ValueError(f"Augment: {text}")

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(H, W, C) of what becomes of images of `shape`."""
        return (self.crop, self.crop, shape[2]) if self.crop else shape

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns to scale a picture to: `size`, but a sampled crop to its own."""
        return (self.crop, self.crop) if self.crop and self.area < 1 else size

    def filter(self, *, seed: int, epoch: int, index: int) -> str:
        """The one of `FILTERS` that a picture is scaled with."""
        if self.interpolation != "random":
            return self.interpolation
        draw = rng.generator(seed, epoch, index, "interpolation").random()
        return FILTERS[int(draw * len(FILTERS))]

    def box(self, width: int, height: int, *, seed: int, epoch: int, index: int) -> Box | None:
        """The part of a picture to show, see `sampled_box`; None for the centred one."""
        if self.area == 1:
            return None
        where = {"seed": seed, "epoch": epoch, "index": index}
        return sampled_box(width, height, area=self.area, **where)

    def __call__(
        self, images: NDArray[np.float32], indices: NDArray[np.int64], *, seed: int, epoch: int
    ) -> NDArray[np.float32]:
        """Return the augmented images: (N, H, W, C) float32; `images` stays as it was."""
        out = images
        where = {"seed": seed, "epoch": epoch}
        if self.crop and self.centred:
            out = centre_crop(out, self.crop)
        elif self.padding or self.crop:
            out = random_crop(out, indices, padding=self.padding, size=self.crop, **where)
        if self.mirror:
            out = mirror(out, indices, **where)
        if self.photometric:
            out = photometric(out, indices, strength=self.photometric, **where)
        if self.mean is not None:
            out = subtract_mean(out, self.mean)
        if self.scale != 1:
            out = out * np.float32(self.scale)
        if self.standardise:
            out = standardise(out)
        return out

    def without_chance(self) -> Augment:
        """Return the part that applies to test images as well: centre crop and normalisation."""
        fixed = replace(self, padding=0, mirror=False, area=1.0, photometric=0.0)
        return replace(fixed, interpolation="bilinear", centred=bool(self.crop))


def _window(function: str, images: NDArray[np.float32], size: int) -> tuple[int, int]:
    height, width = images.shape[1:3]
    if not 0 <= size <= min(height, width):
        text = f"size is {size}, expected at most that of the images, {height} x {width}"
        raise ValueError(f"{function}: {text}")
    return (size, size) if size else (height, width)


def _check(function: str, images: NDArray[np.float32], indices: NDArray[np.int64]) -> None:
    if images.ndim != 4 or len(images) != len(indices):
        raise ValueError(
            f"{function}: images has shape {images.shape} and indices {np.shape(indices)}, "
            "expected (N, H, W, C) and (N,)"
        )
