"""Depthwise convolution on Xception's maps: share of the load bound, beside torch, and of its 1x1.

A multiply-add of every x read from memory is one vector load to one FMA, so loads bound the rate
where a core has no more of them than of FMAs. The time that bytes take is that of a copy of as
many, measured in the same turns.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception.bench.timing import Peak, interleave
from pyinception.spec import ConvSpec, DepthwiseConvSpec

# name: map, channels, filters a channel, filter, stride; the 1x1's output channels
SHAPES = {
    "block2, 147x147 x 128": (147, 128, 1, 3, 1, 128),
    "block4, 37x37 x 728": (37, 728, 1, 3, 1, 728),
    "middle, 19x19 x 728": (19, 728, 1, 3, 1, 728),
    "block14b, 10x10 x 1536": (10, 1536, 1, 3, 1, 2048),
    "GoogLeNet's stem, 7x7/2, M = 8": (224, 3, 8, 7, 2, 64),
}
THREADS = 1


def depthwise(quick: bool = False) -> Figure:
    """Forward, filter gradient and gradient of x, batch 1, one thread, in turns with torch's."""
    if find_spec("torch") is None:
        raise Unavailable("torch is not installed (extra 'rivals')")
    import torch

    figure = Figure("depthwise", f"depthwise convolution beside torch, batch 1, {THREADS} thread")
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    peak = Peak(THREADS)
    peak.measure()
    try:
        with pyi.using(threads=THREADS):
            for name, shape in SHAPES.items():
                _row(figure, name, shape, peak, 3 if quick else 15)
    finally:
        torch.set_num_threads(before)
    figure.notes.append(f"FMA peak {peak.best:.0f} GFLOP/s, {peak.method}")
    return figure


def _row(figure: Figure, name: str, shape: tuple[int, ...], peak: Peak, rounds: int) -> None:
    import torch
    from torch.nn import functional as F

    side, c, multiplier, r, stride, out = shape
    k, pad = c * multiplier, r // 2
    draw = np.random.default_rng(0)

    def array(*extents: int) -> Any:
        return draw.standard_normal(extents, np.float32)

    spec = DepthwiseConvSpec(1, side, side, c, k, r, r, (stride, stride), (pad, pad), False, False)
    point = ConvSpec(1, spec.P, spec.Q, k, out, 1, 1, bias=False)
    x, w, w1 = array(*spec.x_shape), array(*spec.w_shape), array(*point.w_shape)
    y, gy, z = array(*spec.y_shape), array(*spec.y_shape), array(*point.y_shape)
    source, target = np.empty(spec.bytes // 8, np.float32), np.empty(spec.bytes // 8, np.float32)
    packed = pyi.prepack(w1, pyi.Format(out, 1, 1, k, algorithm="direct"))
    window = {"stride": stride, "padding": pad}
    theirs = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(w).permute(0, 3, 1, 2)
    theirs_gy = torch.from_numpy(gy).permute(0, 3, 1, 2)

    def rival() -> Any:
        with torch.no_grad():
            return F.conv2d(*theirs, None, stride, pad, groups=c)

    def rival_backward() -> None:
        torch.ops.aten.convolution_backward(
            theirs_gy, *theirs, None, (stride, stride), (pad, pad), (1, 1), False, (0, 0), c,
            (c > 3, True, False),
        )  # fmt: skip

    def backward() -> None:
        from pyinception.ops import depthwise_conv as ops

        if c > 3:
            ops.depthwise_conv_dgrad(spec, gy, w, None)
        ops.depthwise_conv_wgrad(spec, x, gy, None)

    pyi.depthwise_conv2d(x, w, out=y, **window)
    expected = rival().permute(0, 2, 3, 1).numpy()
    figure.at_most(f"{name}: error", float(np.abs(y - expected).max() / np.abs(y).max()), 1e-5)
    times = interleave(
        {
            "ours": lambda: pyi.depthwise_conv2d(x, w, out=y, **window),
            "torch": rival,
            "copy": lambda: np.copyto(target, source),
            "1x1": lambda: pyi.conv2d(y, packed, out=z),
            "backward": backward,
            "torch backward": rival_backward,
        },
        rounds=rounds,
    )
    peak.measure(3)
    ours = times["ours"].median
    figure.add(
        what=name,
        us=1e6 * ours,
        GFLOPs=2e-9 * spec.macs / ours,
        of_peak=2e-9 * spec.macs / ours / peak.best,
        of_copy=times["copy"].median / ours,
        torch=times["torch"].median / ours,
        torch_backward=times["torch backward"].median / times["backward"].median,
        of_both=ours / (ours + times["1x1"].median),
    )
