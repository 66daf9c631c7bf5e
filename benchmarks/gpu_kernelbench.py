"""KernelBench level 3, problems 6 and 7: a module and GoogLeNet as they are stated there.

Their inputs are NCHW float32 and their modules have no ReLU, so a module is seven ops of ours into
slices of one map; the conversions of layout on both sides belong to the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_timing import compare, conv_relu, max_pool_3x3

import pyinception as pyi
from pyinception import backend

WIDTHS = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
Filter = tuple[np.ndarray, np.ndarray]


def problem(name: str, N: int, on: Any) -> tuple[Callable[[], Any], dict[str, float], int]:
    """(call, error of its result, floating-point operations of a call)."""
    draw = np.random.default_rng(int(name))
    if name == "6":
        side, channels = (7 if on.rehearsal else 224), 480
        filters = {"4a": _module(draw, channels, WIDTHS["4a"])}
        shape = (N, channels, side, side)
    else:
        shape, filters = (N, 3, 224, 224), _net(draw)
    x = draw.standard_normal(shape, np.float32)
    placed = {key: [(on.put(w, "tf32"), on.put(b, "tf32")) for w, b in value]
              for key, value in filters.items()}  # fmt: skip
    given = on.put(x, "tf32")
    run = module_nchw if name == "6" else net_nchw
    arguments = (placed["4a"],) if name == "6" else (placed,)

    def call() -> Any:
        return run(given, *arguments)

    few = np.ascontiguousarray(x[:1].transpose(0, 2, 3, 1)).astype(np.float64)
    truth = _truth_module(few, filters["4a"]) if name == "6" else _truth_net(few, filters)
    got = backend.to_host(call())[:1].astype(np.float64)
    got = got.transpose(0, 2, 3, 1) if name == "6" else got
    return call, compare(got, truth), _flops(name, shape, filters)


def module_nchw(x: Any, filters: list[Any]) -> Any:
    """Problem 6: (N, C, H, W) -> (N, K, H, W)."""
    y = module(_nhwc(x), filters)
    return backend.array_module(y).ascontiguousarray(y.transpose(0, 3, 1, 2))


def module(x: Any, filters: list[Any]) -> Any:
    """[1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | pool 3x3 -> 1x1] without ReLU, each in its slice of y."""
    ends = filters[0], filters[2], filters[4], filters[5]
    widths = np.cumsum([0, *(w.shape[0] for w, _ in ends)])
    y = backend.array_module(x).empty((*x.shape[:3], int(widths[-1])), x.dtype)
    slices = [y[..., int(a) : int(b)] for a, b in itertools.pairwise(widths)]
    pyi.conv2d(x, *ends[0], out=slices[0])
    pyi.conv2d(pyi.conv2d(x, *filters[1]), *ends[1], padding=1, out=slices[1])
    pyi.conv2d(pyi.conv2d(x, *filters[3]), *ends[2], padding=2, out=slices[2])
    pyi.conv2d(pyi.max_pool2d(x, 3, 1, padding=1), *ends[3], out=slices[3])
    return y


def net_nchw(x: Any, filters: dict[str, list[Any]]) -> Any:
    """Problem 7: (N, 3, 224, 224) -> (N, 1000)."""
    x = pyi.conv2d(_nhwc(x), *filters["stem"][0], stride=2, padding=3, relu=True)
    x = pyi.max_pool2d(x, 3, 2, padding=1)
    x = pyi.conv2d(x, *filters["stem"][1], relu=True)
    x = pyi.conv2d(x, *filters["stem"][2], padding=1, relu=True)
    x = pyi.max_pool2d(x, 3, 2, padding=1)
    for name in WIDTHS:
        x = module(x, filters[name])
        if name in ("3b", "4e"):
            x = pyi.max_pool2d(x, 3, 2, padding=1)
    x = pyi.avg_pool2d(x, x.shape[1], 1).reshape(len(x), -1)
    w, b = filters["fc"][0]
    return pyi.linear(x, w.reshape(w.shape[0], -1), b)


def _nhwc(x: Any) -> Any:
    return backend.array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


# ------------------------------------------------------------------------------- filters and truth


def _filter(draw: np.random.Generator, K: int, R: int, C: int) -> Filter:
    w = draw.standard_normal((K, R, R, C), np.float32) * np.float32((1 / (C * R * R)) ** 0.5)
    return w, draw.standard_normal(K, np.float32) * np.float32(0.1)


def _module(draw: np.random.Generator, C: int, widths: tuple[int, ...]) -> list[Filter]:
    n1, r3, n3, r5, n5, proj = widths
    sizes = ((n1, 1, C), (r3, 1, C), (n3, 3, r3), (r5, 1, C), (n5, 5, r5), (proj, 1, C))
    return [_filter(draw, *size) for size in sizes]


def _net(draw: np.random.Generator) -> dict[str, list[Filter]]:
    sizes = ((64, 7, 3), (64, 1, 64), (192, 3, 64))
    found = {"stem": [_filter(draw, *size) for size in sizes]}
    channels = 192
    for name, widths in WIDTHS.items():
        found[name] = _module(draw, channels, widths)
        channels = widths[0] + widths[2] + widths[4] + widths[5]
    return found | {"fc": [_filter(draw, 1000, 1, channels)]}


def _conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """conv_relu without its ReLU: relu(z) - relu(-z) = z."""
    wide = w.astype(np.float64), b.astype(np.float64)
    return conv_relu(x, *wide) - conv_relu(x, -wide[0], -wide[1])


def _truth_module(x: np.ndarray, filters: list[Filter]) -> np.ndarray:
    one, reduce3, three, reduce5, five, proj = filters
    branches = (
        _conv(x, *one), _conv(_conv(x, *reduce3), *three), _conv(_conv(x, *reduce5), *five),
        _conv(max_pool_3x3(x), *proj),
    )  # fmt: skip
    return np.concatenate(branches, axis=-1)


def _truth_net(x: np.ndarray, filters: dict[str, list[Filter]]) -> np.ndarray:
    wide = {k: [(w.astype(np.float64), b.astype(np.float64)) for w, b in v]
            for k, v in filters.items()}  # fmt: skip
    stem = wide["stem"]
    with pyi.using(backend="reference", algorithm="auto"):
        x = pyi.conv2d(x, *stem[0], stride=2, padding=3, relu=True)
        x = pyi.max_pool2d(x, 3, 2, padding=1)
        x = pyi.conv2d(pyi.conv2d(x, *stem[1], relu=True), *stem[2], padding=1, relu=True)
        x = pyi.max_pool2d(x, 3, 2, padding=1)
        for name in WIDTHS:
            x = module(x, wide[name])
            if name in ("3b", "4e"):
                x = pyi.max_pool2d(x, 3, 2, padding=1)
        w, b = wide["fc"][0]
        return np.asarray(x.mean(axis=(1, 2)) @ w.reshape(w.shape[0], -1).T + b)


def _flops(name: str, shape: tuple[int, ...], filters: dict[str, list[Filter]]) -> int:
    """Twice the multiply-adds: every filter over the map it is swept over."""
    sides = {"stem": (112, 56, 56), "3": 28, "4": 14, "5": 7, "fc": 1}
    total = 0
    for key, found in filters.items():
        for i, (w, _) in enumerate(found):
            side = shape[2] if name == "6" else sides.get(key, sides.get(key[0]))
            side = side[i] if isinstance(side, tuple) else side
            total += 2 * shape[0] * int(side or 1) ** 2 * w.size
    return total
