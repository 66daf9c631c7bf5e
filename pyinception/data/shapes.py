"""`shapes`: generated pictures of one object at a widely varying size, drawn at request.

    image = noise + over(object, over(clutter, texture)),   over(a, b) = b + cover (colour_a - b)
    cover = clip(1/2 - d, 0, 1),   d = signed distance to the outline in pixels

One of eight shapes stands on a picture of 32 x 32 pixels at any place and angle, 6 to 28 pixels
across (log-uniform), lighter, darker or of another hue than its ground, grey in half of the
pictures. Ground gradient, ripple, thin strokes, dots and noise surround it. A shape is known by
its outline alone, at every scale: what a module with 1x1, 3x3 and 5x5 branches is for, and
nothing that a comparison of pixels finds.

Image i is a function of (seed, split, i): it does not depend on how many there are, on the batch
or on the machine's thread count. The class is i mod 8, so classes are equally frequent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyinception import rng
from pyinception.data.dataset import check_indices, check_split, read_bytes, whole
from pyinception.data.outlines import CLASSES, outline_boxes, signed_distance

Floats = NDArray[np.floating[Any]]

COUNTS = {"train": 4000, "test": 1000}
SMALLEST, LARGEST = 6 / 32, 28 / 32  # diameter of the circle around the object / picture
MARGIN = 1.0  # pixels between that circle and the border
STROKES, DOTS = 3, 3
_CLUTTER = STROKES + DOTS
_CHUNK = 64  # pictures drawn together: their planes stay in a second-level cache


class Shapes:
    """images(i) = picture i of the generated data set; see the head of the module.

    Parameters
    ----------
    split : str
        ``"train"`` or ``"test"``: streams that share no random number.
    count : int or None
        Number of images; by default 4,000 and 1,000.
    seed : int
        Another seed is another data set.
    size : int
        Rows and columns, at least 24; sizes of objects scale with it.

    Attributes
    ----------
    labels : (N,) int64
        ``index % 8``; `classes` names them.
    boxes : (N, 4) float32
        x0, y0, x1, y1 of the object in pixels, x to the right, y down, (0, 0) at the outer
        corner of the first pixel.
    diameters : (N,) float32
        Diameter in pixels of the circle around the object.

    Raises
    ------
    DatasetError
        If an argument is out of its range.
    """

    name = "shapes"

    def __init__(
        self, split: str = "train", *, count: int | None = None, seed: int = 0, size: int = 32
    ) -> None:
        self.split = check_split("shapes", split)
        count = COUNTS[split] if count is None else count
        count, size = whole("shapes", "count", count, 1), whole("shapes", "size", size, 24)
        self.classes = list(CLASSES)
        self.labels = np.arange(count, dtype=np.int64) % len(CLASSES)
        self.shape = (size, size, 3)
        self._seed = seed
        uniform = np.stack([self._generator(i, "scene").random(_DRAWS) for i in range(count)])
        self._scene = Scenes(uniform.astype(np.float32), size)
        self.diameters = 2 * self._scene.radius
        self.boxes = outline_boxes(
            self.labels, self._scene.centre, self._scene.radius, self._scene.angle
        )

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Return the pictures at `indices`: (n, size, size, 3) float32 k/255 in [0, 1]."""
        chosen = check_indices("shapes.images", indices, len(self))
        out = np.empty((len(chosen), *self.shape), dtype=np.float32)
        for first in range(0, len(chosen), _CHUNK):
            part = chosen[first : first + _CHUNK]
            picture = self._scene.draw(part, self.labels[part])
            for n, index in enumerate(part):
                noise = self._generator(int(index), "noise").standard_normal(
                    self.shape, dtype=np.float32
                )
                noise *= self._scene.noise[index]
                picture[n] += noise
            # Eight bits, like a picture from a file: the last bit of a sine is rounded away.
            np.clip(np.rint(picture * np.float32(255)), 0, 255, out=picture)
            out[first : first + len(part)] = picture / np.float32(255)
        return out

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return picture `index`, (size, size, 3) uint8, and its label."""
        return read_bytes(self, index)

    def _generator(self, index: int, purpose: str) -> np.random.Generator:
        return rng.generator(self._seed, 0, index, f"shapes/{self.split}/{purpose}")


_COLUMNS = {
    "size": 1,
    "place": 2,
    "angle": 1,
    "grey": 1,
    "ground": 3,
    "contrast": 1,
    "hue": 3,
    "gradient": 3,
    "ripple": 4,
    "noise": 1,
    "clutter": 7 * _CLUTTER,
}
_DRAWS = sum(_COLUMNS.values())


class Scenes:
    """What is drawn, for N pictures at once: uniform numbers mapped to lengths and colours.

    Parameters
    ----------
    uniform : (N, _DRAWS) float32
        Numbers in [0, 1), one row per picture, columns as in `_COLUMNS`.
    size : int
        Rows and columns of a picture.
    """

    def __init__(self, uniform: Floats, size: int) -> None:
        edges = np.cumsum([0, *_COLUMNS.values()])
        u = {
            name: uniform[:, edges[k] : edges[k] + width]
            for k, (name, width) in enumerate(_COLUMNS.items())
        }
        self.size = size
        diameter = size * SMALLEST * (LARGEST / SMALLEST) ** u["size"][:, 0]
        self.radius = (diameter / 2).astype(np.float32)
        room = size / 2 - MARGIN - self.radius[:, None]
        self.centre = (size / 2 + room * (2 * u["place"] - 1)).astype(np.float32)
        self.angle = np.float32(2 * np.pi) * u["angle"][:, 0]
        self.noise = 0.02 + 0.05 * u["noise"][:, 0]

        grey = u["grey"] < 0.5
        self.ground = 0.15 + 0.7 * np.where(grey, u["ground"][:, :1], u["ground"])
        contrast = 0.3 + 0.4 * u["contrast"]
        hue = np.where(grey, u["hue"][:, :1], u["hue"]) * 2 - 1
        self.colour = _away(self.ground, contrast, hue)
        angle = 2 * np.pi * u["gradient"][:, :1]
        slope = 0.25 * u["gradient"][:, 1:2] / size
        self.gradient = slope * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        self.ripple = u["ripple"] * np.array([0.06, 1.2, 1.2, 2 * np.pi])
        self._clutter(u["clutter"].reshape(-1, _CLUTTER, 7), contrast, grey)

    def _clutter(self, u: Floats, contrast: Floats, grey: NDArray[np.bool_]) -> None:
        stroke = np.arange(_CLUTTER) < STROKES
        self.clutter_place = self.size * u[:, :, 0:2]
        self.clutter_angle = np.float32(np.pi) * u[:, :, 2]
        # Strokes are thin and long, dots small: neither can pass for one of the shapes.
        self.clutter_length = np.where(stroke, 3 + 6 * u[:, :, 3], 0.2).astype(np.float32)
        self.clutter_width = np.where(stroke, 0.5, 0.5 + 0.9 * u[:, :, 3]).astype(np.float32)
        shade = 2 * u[:, :, 4:7] - 1
        shade = np.where(grey[:, :, None], shade[:, :, :1], shade)
        present = u[:, :, 3:4] * 7 % 1 < 0.7
        tint = 0.7 * contrast[:, :, None] * shade * present
        self.clutter_colour = np.clip(self.ground[:, None] + tint, 0, 1).astype(np.float32)
        self.clutter_present = present[:, :, 0]

    def draw(self, part: NDArray[np.int64], labels: NDArray[np.int64]) -> Floats:
        """Return the pictures `part` without noise: (n, size, size, 3) float32."""
        axis = np.arange(self.size, dtype=np.float32) + np.float32(0.5)
        picture = self._texture(part, axis)
        for k in range(_CLUTTER):
            u, v = _local(axis, self.clutter_place[part, k], self.clutter_angle[part, k])
            np.abs(u, out=u)
            u -= self.clutter_length[part, k][:, None, None]
            np.maximum(u, 0, out=u)
            distance = np.sqrt(u * u + v * v)
            distance -= self.clutter_width[part, k][:, None, None]
            distance[~self.clutter_present[part, k]] = 1
            _over(picture, self.clutter_colour[part, k], distance)
        u, v = _local(axis, self.centre[part], self.angle[part])
        distance = np.empty_like(u)
        for label in range(len(CLASSES)):
            own = np.flatnonzero(labels == label)
            if own.size:
                radius = self.radius[part[own]][:, None, None]
                distance[own] = signed_distance(CLASSES[label], u[own], v[own], radius)
        _over(picture, self.colour[part], distance)
        return picture

    def _texture(self, part: NDArray[np.int64], axis: Floats) -> Floats:
        """texture = ground + gradient . (x, y) + ripple, (n, size, size, 3)."""
        centred = axis - self.size / 2
        gradient = self.gradient[part].astype(np.float32)[:, :, None, None]
        depth, fx, fy, phase = (
            self.ripple[part, k].astype(np.float32)[:, None, None] for k in range(4)
        )
        wave = depth * np.sin(fx * axis[None, None, :] + fy * axis[None, :, None] + phase)
        wave += gradient[:, 0] * centred[None, None, :]
        wave += gradient[:, 1] * centred[None, :, None]
        return wave[..., None] + self.ground[part].astype(np.float32)[:, None, None, :]


def _away(ground: Floats, contrast: Floats, hue: Floats) -> Floats:
    """colour_c = ground_c +- contrast |hue_c| / max |hue|, the sign turned where it would clip."""
    step = contrast * hue / np.maximum(np.abs(hue).max(axis=1, keepdims=True), 1e-6)
    colour = np.where((ground + step < 0) | (ground + step > 1), ground - step, ground + step)
    return np.clip(colour, 0, 1).astype(np.float32)


def _local(axis: Floats, centre: Floats, angle: Floats) -> tuple[Floats, Floats]:
    """(u, v) = rotation(-angle) (x - centre): (n, size, size) each, pixel centres."""
    x = (axis[None, :] - centre[:, :1])[:, None, :]
    y = (axis[None, :] - centre[:, 1:])[:, :, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return cos * x + sin * y, cos * y - sin * x


def _over(picture: Floats, colour: Floats, distance: Floats) -> None:
    """picture += clip(1/2 - distance, 0, 1) (colour - picture), in place."""
    cover = np.clip(np.float32(0.5) - distance, 0, 1)
    for channel in range(3):
        plane = picture[..., channel]
        plane += cover * (colour[:, channel, None, None] - plane)
