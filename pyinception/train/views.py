"""Pictures of a network as parts of a page: filters, feature maps, strips of time, mistakes.

pixel of a filter = 1/2 + w / (2 max |w|),   pixel of a map = y / max y over its branch
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import require
from pyinception.module import Module
from pyinception.train import chart, page
from pyinception.train.figures import MAPS, filter_tiles, mosaic, strongest, visible
from pyinception.train.inside import Floats, branches_of, first_filters, outputs_of

LARGEST = 128  # pixels across; larger pictures are scaled down, so that a page stays small
# Dark blue to yellow, of even steps in lightness, so that it reads without colour too.
_SHADES = np.array(
    [(0.27, 0.0, 0.33), (0.23, 0.32, 0.55), (0.13, 0.57, 0.55), (0.37, 0.79, 0.38), (1, 0.91, 0.14)]
)


def shades(values: Sequence[float | None], low: float, high: float) -> Floats:
    """One pixel a value, (1, T, 3): `low` is dark, `high` bright, None grey."""
    known = np.array([math.nan if value is None else value for value in values], np.float64)
    place = np.clip((known - low) / max(high - low, 1e-12), 0, 1) * (len(_SHADES) - 1)
    channels = [np.interp(place, np.arange(len(_SHADES)), _SHADES[:, c]) for c in range(3)]
    pixels = np.stack(channels, axis=-1)
    pixels[np.isnan(known)] = 0.5
    return pixels[None]


def shrunk(pixels: Floats) -> Floats:
    """(H, W, 1 or 3) in [0, 1], no side longer than `LARGEST`."""
    longest = max(pixels.shape[:2])
    if longest <= LARGEST:
        return pixels
    image = require("PIL.Image", "train", "pictures")
    size = [max(1, round(n * LARGEST / longest)) for n in pixels.shape[1::-1]]
    planes = [
        np.asarray(image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(size, 1))
        for plane in np.moveaxis(pixels, -1, 0)
    ]
    return np.stack(planes, axis=-1)


def filters(net: Module) -> str:
    """The first layer's filters, each scaled by itself, as a card; "" where there are none."""
    w = first_filters(net)
    if w is None:
        return ""
    k, r, s, c = w.shape
    columns = max(1, round(math.sqrt(k * 2)))
    drawn = page.picture(mosaic(filter_tiles(w), columns), "filters of the first layer", "fill")
    how = "in colour" if c == 3 else "the mean over its channels" if c > 1 else "grey"
    note = f"bright is positive, dark negative, mid grey zero; {how}"
    return page.card(f"{k} filters of the first layer, {r} x {s} x {c}", drawn, note=note)


def feature_maps(net: Module, image: Floats, only_first: bool = False, beside: str = "") -> str:
    """The strongest maps of each branch of every module, for one image (1, H, W, C), as cards.

    ``beside`` is a card that stands before them.
    """
    found = branches_of(net)
    if only_first:
        found = dict(list(found.items())[:1])
    outputs = outputs_of(net, image, found)
    shown = shrunk(visible(image[0]))
    cards = [
        beside,
        page.card("input", page.picture(shown, "input", "half"), note="as the network gets it"),
    ]
    for name, rows in found.items():
        parts = []
        y = outputs[name][0]
        for label, channels in rows:
            maps = y[:, :, channels]
            order = strongest(maps)
            peak = max(float(maps.max()), 1e-12)
            cut = np.moveaxis(maps[:, :, order], -1, 0)[..., None].repeat(3, axis=-1) / peak
            about = f"{name}, {label}"
            numbers = ", ".join(str(channels.start + channel) for channel in order)
            parts.append(
                f"<figure>{page.picture(mosaic(cut, MAPS), about, 'fill')}"
                f"<figcaption>{escape(label)}: channels {numbers}</figcaption></figure>"
            )
        h, w, k = y.shape
        cards.append(page.card(f"{name}, {h} x {w} x {k}", "".join(parts)))
    return page.grid(*cards, kind="wide")


def pictures(images: Sequence[Floats], captions: Sequence[str]) -> str:
    """Small pictures (H, W, C) in [0, 1] side by side, each with its caption of text."""
    cards = []
    for pixels, caption in zip(images, captions, strict=True):
        shown = page.picture(shrunk(visible(pixels)), caption, "fill")
        cards.append(
            f'<figure class="card">{shown}<figcaption>{escape(caption)}</figcaption></figure>'
        )
    return page.grid(*cards, kind="tiny")


def confusion(judged: dict[str, Any], few: int, most: int = 12) -> str:
    """Who is taken for whom: a matrix for ``few`` classes or less, else shades; the worst pairs."""
    classes, pairs = judged["classes"], judged["confusion"]
    counts: NDArray[np.int64] = np.zeros((len(classes),) * 2, np.int64)
    for k, j, count in pairs:
        counts[k, j] = count
    if len(classes) <= few:
        drawn = chart.matrix(counts.tolist(), classes, name="confusion of the classes")
    else:
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        pixels = shades((share.ravel() ** 0.5).tolist(), 0, 1).reshape(*share.shape, 3)
        drawn = page.picture(pixels, "confusion of the classes", "fill")
    title = f"{int(np.trace(counts))} of {int(counts.sum())} right"
    note = "rows: the class; columns: what it was taken for"
    wrong = sorted(((n, k, j) for k, j, n in pairs if k != j), key=lambda p: (-p[0], p[1], p[2]))
    rows = [
        [escape(classes[k]), escape(classes[j]), str(n), f"{n / max(counts[k].sum(), 1):.0%}"]
        for n, k, j in wrong[:most]
    ]
    listed = page.table(["class", "taken for", "times", "of it"], rows, right=(2, 3))
    head = "most often confused" if rows else "no mistake at all"
    return page.grid(page.card(title, drawn, note=note), page.card(head, listed or "-"))
