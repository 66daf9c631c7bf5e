"""The eight outlines of `shapes`: signed distances for drawing, hull points for boxes.

    d(u, v) < 0 inside, > 0 outside, |d| the distance near the outline

Every shape fits the circle of radius rho around (0, 0) and touches it. All distances come from
half-planes, discs, and their unions (min), intersections (max) and differences: exact beside an
edge, a lower bound outside a corner, which is all that anti-aliasing over one pixel needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

RING_HOLE = 0.5  # radius of the hole / rho
CROSS_ARM = 0.33  # half width / half length of an arm
BAR_SIDE = 0.28  # half width / half length
STAR_INNER = 0.42  # radius of the inner corners / rho
BITE_AT, BITE = 0.45, 0.8  # centre and radius of the disc that a crescent lacks, / rho


def _disc(u: Floats, v: Floats, rho: Floats) -> Floats:
    return np.hypot(u, v) - rho


def _ring(u: Floats, v: Floats, rho: Floats) -> Floats:
    middle, half = (1 + RING_HOLE) / 2, (1 - RING_HOLE) / 2
    return np.abs(np.hypot(u, v) - middle * rho) - half * rho


def _square(u: Floats, v: Floats, rho: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - rho * np.float32(np.sqrt(0.5))


def _triangle(u: Floats, v: Floats, rho: Floats) -> Floats:
    # Apex at (0, rho); the two slanted edges are one after |u|.
    slanted = np.float32(np.sqrt(0.75)) * np.abs(u) + np.float32(0.5) * v
    return np.maximum(-v, slanted) - rho * np.float32(0.5)


def _box(u: Floats, v: Floats, half_u: Floats, half_v: Floats) -> Floats:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _cross(u: Floats, v: Floats, rho: Floats) -> Floats:
    arm = rho * np.float32(1 / np.hypot(1, CROSS_ARM))
    side = arm * np.float32(CROSS_ARM)
    return np.minimum(_box(u, v, arm, side), _box(u, v, side, arm))


def _bar(u: Floats, v: Floats, rho: Floats) -> Floats:
    half = rho * np.float32(1 / np.hypot(1, BAR_SIDE))
    return _box(u, v, half, half * np.float32(BAR_SIDE))


def _star(u: Floats, v: Floats, rho: Floats) -> Floats:
    # Folded into one tenth: the edge from the tip (rho, 0) to the inner corner.
    sector = np.float32(2 * np.pi / 5)
    turn = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    inner = STAR_INNER * np.exp(0.2j * np.pi)
    normal = (inner - 1) / abs(inner - 1) * -1j
    along_u = radius * np.cos(turn) - rho
    return along_u * np.float32(normal.real) + radius * np.sin(turn) * np.float32(normal.imag)


def _crescent(u: Floats, v: Floats, rho: Floats) -> Floats:
    bite = np.float32(BITE) * rho - np.hypot(u - np.float32(BITE_AT) * rho, v)
    return np.maximum(np.hypot(u, v) - rho, bite)


_DISTANCES: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "bar": _bar,
    "crescent": _crescent,
}
CLASSES = tuple(_DISTANCES)


def signed_distance(shape: str, u: Floats, v: Floats, rho: Floats) -> Floats:
    """d(u, v) of one shape, in the unit of u, v and rho.

    Parameters
    ----------
    shape : str
        One of `CLASSES`.
    u, v : float32 arrays of one shape
        Coordinates in the object's own frame.
    rho : float32, broadcastable to u
        Radius of the circle around the object.
    """
    return _DISTANCES[shape](u, v, rho)


def hull(shape: str) -> NDArray[np.float64]:
    """Return points (P, 2) of the outline for rho = 1 whose convex hull is the shape's own.

    Arcs are sampled every 1/256 turn: the hull misses at most 8e-5 rho of them.
    """
    circle = _circle(np.arange(256) / 256)
    if shape in ("disc", "ring"):
        return circle
    if shape == "square":
        return _circle(np.arange(4) / 4 + 1 / 8)
    if shape == "triangle":
        return _circle(np.arange(3) / 3 + 1 / 4)
    if shape == "star":
        return _circle(np.arange(5) / 5)
    if shape == "crescent":
        # The two circles meet at the horns; beyond them the outer arc is left.
        horn = np.arccos((1 + BITE_AT**2 - BITE**2) / (2 * BITE_AT)) / (2 * np.pi)
        return _circle(np.linspace(horn, 1 - horn, 256))
    side = CROSS_ARM if shape == "cross" else BAR_SIDE
    arm = 1 / np.hypot(1, side)
    bar = arm * np.array([(1, side), (1, -side), (-1, side), (-1, -side)])
    return bar if shape == "bar" else np.concatenate([bar, bar[:, ::-1]])


def outline_boxes(
    labels: NDArray[np.int64], centre: Floats, radius: Floats, angle: Floats
) -> Floats:
    """box = (min x, min y, max x, max y) of centre + radius rotation(angle) hull(label).

    Parameters
    ----------
    labels : (N,) int64
        Indices into `CLASSES`.
    centre : (N, 2), radius : (N,), angle : (N,) float32
        Pixels, pixels and radians.

    Returns
    -------
    (N, 4) float32, pixels
    """
    boxes = np.empty((len(labels), 4), dtype=np.float32)
    for label, shape in enumerate(CLASSES):
        own = np.flatnonzero(labels == label)
        points = hull(shape)
        cos, sin = np.cos(angle[own])[:, None], np.sin(angle[own])[:, None]
        x = cos * points[:, 0] - sin * points[:, 1]
        y = sin * points[:, 0] + cos * points[:, 1]
        low = np.stack([x.min(axis=1), y.min(axis=1)], axis=1)
        high = np.stack([x.max(axis=1), y.max(axis=1)], axis=1)
        boxes[own, :2] = centre[own] + radius[own, None] * low
        boxes[own, 2:] = centre[own] + radius[own, None] * high
    return boxes


def _circle(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
