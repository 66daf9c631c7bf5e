"""Crops of a picture to test with: one, ten, or the 144 of GoogLeNet's paper.

    1     the centre of the centre square of the picture at one scale
    10    4 corners + centre of that square, each mirrored too
    144   4 scales x 3 squares x (4 corners + centre + the whole square, resized) x 2 mirrors

The short side is scaled to 8/7 of the crop, for 144 to 8/7, 9/7, 10/7 and 11/7 of it: 256, 288, 320
and 352 for crops of 224 (Szegedy et al. 2015, section 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import require
from pyinception.data.picture import MAX_PIXELS, PictureError
from pyinception.extents import integer

COUNTS = (1, 10, 144)
SCALES = (8, 9, 10, 11)  # sevenths of the crop


class Crop(NamedTuple):
    """Where a crop lies: pixels of the picture after it was scaled to (`height`, `width`).

    A `side` larger than the crop itself is resized to it.
    """

    height: int
    width: int
    top: int
    left: int
    side: int
    mirror: bool


def crops(height: int, width: int, size: int, count: int) -> list[Crop]:
    """The crops of a picture of `height` x `width`; always `count`, duplicates are kept.

    Parameters
    ----------
    height, width : rows and columns of the picture.
    size : rows and columns of a crop.
    count : 1, 10 or 144.

    Raises
    ------
    ValueError
        If `count` is none of these, or an extent is below 1.
    """
    if count not in COUNTS:
        raise ValueError(f"crops: count is {count}, expected 1, 10 or 144")
    for name, extent in (("height", height), ("width", width), ("size", size)):
        integer("crops", name, extent, 1)
    if count == 144:
        return [crop for scale in SCALES for crop in _all_squares(height, width, size, scale)]
    rows, columns, short = _scaled(height, width, size, SCALES[0])
    top, left = (rows - short) // 2, (columns - short) // 2
    places = [(top + y, left + x) for y, x in _places(short, size)]
    if count == 1:
        return [Crop(rows, columns, *places[-1], size, False)]
    return [Crop(rows, columns, *place, size, flip) for place in places for flip in (False, True)]


def check_extents(height: int, width: int, size: int, count: int) -> None:
    """Raise PictureError for a picture so thin that it has too many pixels when scaled."""
    rows, columns, _ = _scaled(height, width, size, SCALES[-1] if count == 144 else SCALES[0])
    if rows * columns > MAX_PIXELS:
        text = f"scaled to {rows} x {columns}, the limit is {MAX_PIXELS:,} pixels"
        raise PictureError(f"a picture of {height} x {width} {text}")


def _all_squares(height: int, width: int, size: int, scale: int) -> Iterator[Crop]:
    """36 crops of one scale."""
    rows, columns, short = _scaled(height, width, size, scale)
    slack = max(rows, columns) - short
    for shift in (0, slack // 2, slack):  # left or top, centre, right or bottom
        top, left = (shift, 0) if rows > columns else (0, shift)
        parts = [(top + y, left + x, size) for y, x in _places(short, size)]
        for part in [*parts, (top, left, short)]:
            for flip in (False, True):
                yield Crop(rows, columns, *part, flip)


def _scaled(height: int, width: int, size: int, scale: int) -> tuple[int, int, int]:
    """Rows, columns and short side of the scaled picture; halves are rounded up."""
    short = (2 * size * scale + 7) // 14
    low = min(height, width)
    rows, columns = ((2 * extent * short + low) // (2 * low) for extent in (height, width))
    return rows, columns, short


def _places(side: int, size: int) -> list[tuple[int, int]]:
    """(top, left) of the corners and, last, of the centre, in a square of `side`."""
    end, middle = side - size, (side - size) // 2
    return [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]


def cut(pixels: NDArray[np.uint8], size: int, count: int) -> NDArray[np.uint8]:
    """The `crops` of a picture: (H, W, C) bytes, C = 1 or 3 -> (count, size, size, C).

    Scaled with Pillow's bilinear filter, which widens with the reduction.

    Raises
    ------
    PictureError
        As `check_extents`.
    ImportError
        If Pillow is absent (extra ``train``).
    """
    pillow = require("PIL.Image", "train", "crops of a picture")
    bilinear = pillow.Resampling.BILINEAR
    grey = pixels.shape[2] == 1
    picture = pillow.fromarray(pixels[..., 0] if grey else pixels)
    out = np.empty((count, size, size, pixels.shape[2]), np.uint8)
    places = crops(pixels.shape[0], pixels.shape[1], size, count)
    check_extents(pixels.shape[0], pixels.shape[1], size, count)
    scaled: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for n, crop in enumerate(places):
        extent = crop.height, crop.width
        if extent not in scaled:
            scaled[extent] = np.asarray(picture.resize(extent[::-1], bilinear))
        below, right = crop.top + crop.side, crop.left + crop.side
        part = scaled[extent][crop.top : below, crop.left : right]
        if crop.side != size:
            part = np.asarray(pillow.fromarray(part).resize((size, size), bilinear))
        out[n] = (part[:, ::-1] if crop.mirror else part).reshape(out.shape[1:])
    return out
