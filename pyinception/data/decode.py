"""One batch of pictures, from files to numbers: the same lines in this process and in a worker.

images[n] = augment(cut(decode(locators[n])) / 255)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pyinception.data.augment import Augment
from pyinception.data.picture import Box, PictureError, read_picture
from pyinception.data.pictures import Locator, fetch


@dataclass(frozen=True)
class Request:
    """Which pictures a batch is made of, and what is to be done with them.

    ``seed``, ``epoch`` and the images' ``indices`` fix every random choice of ``augment``.
    """

    locators: list[Locator]
    indices: list[int]
    augment: Augment
    seed: int
    epoch: int
    size: tuple[int, int]  # rows and columns of the data set's images
    max_pixels: int

    def to_json(self) -> bytes:
        """One line; names that are no UTF-8 survive as lone surrogates."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Request:
        """The request of a line that `to_json` wrote."""
        given = json.loads(line)
        augment = given.pop("augment")
        if augment["mean"] is not None:
            augment["mean"] = tuple(augment["mean"])
        size = tuple(given.pop("size"))
        locators = [(name, offset, length) for name, offset, length in given.pop("locators")]
        return cls(locators=locators, augment=Augment(**augment), size=size, **given)


def prepare(
    request: Request, out: NDArray[np.float32], tell: Callable[[int], None] | None = None
) -> list[str]:
    """Decode and augment the pictures of a request.

    Parameters
    ----------
    out : (B, H, W, 3) float32
        Filled from the front with the pictures that can be read, in order.
    tell : called with n before picture n is read.

    Returns
    -------
    list of str
        For each picture asked for, "" or why it cannot be read.
    """
    augment, reasons, filled = request.augment, [], 0
    size = augment.scaled(request.size)
    for n, (locator, index) in enumerate(zip(request.locators, request.indices, strict=True)):
        when = {"seed": request.seed, "epoch": request.epoch}

        def box(
            width: int, height: int, index: int = index, when: dict[str, int] = when
        ) -> Box | None:
            return augment.box(width, height, index=index, **when)

        if tell is not None:
            tell(n)
        filter = augment.filter(index=index, **when)
        try:
            pixels = read_picture(
                fetch(locator),
                size,
                box=box,
                interpolation=filter,
                max_pixels=request.max_pixels,
            )
        except PictureError as error:
            reasons.append(str(error))
            continue
        # One by one, so that a picture stays in cache until it is done.
        image = np.divide(pixels[None], np.float32(255), dtype=np.float32)
        out[filled] = augment(image, np.array([index]), **when)[0]
        reasons.append("")
        filled += 1
    return reasons
