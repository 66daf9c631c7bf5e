"""Few channels as whole units, for the tensor cores: a network's first convolution.

They read 16 bytes of a pixel at a time: four channels of fp32, eight of 16 bits. A map of
fewer is padded with zeros in the launch before, and so is its filter. In 16 bits with an even
stride two neighbouring pixels of four channels are one of eight:

    pixels         -1 0 | 1 2 | 3 4 | 5 6 | 7 8       x (N, H, W / 2, 8)
    taps of 7x7      .0 | 1 2 | 3 4 | 5 6 |           w (K, 7, 4, 8): padding 3 is odd, so a tap
                                                       of zeros stands in front; the stride 2 is 1

Conventions as in `records`.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pyinception.cuda.executor import Executor, Scratch
from pyinception.cuda.records import SM75_FLOAT16, Call, extents, mma_type
from pyinception.kernels import cuda_mma_args
from pyinception.spec import ConvSpec


class Widened(NamedTuple):
    """A convolution of few channels as one of whole units."""

    spec: ConvSpec  # of the units; P and Q stay those of the convolution
    channels: int  # of a padded pixel
    columns: int  # pixels of a padded row of x
    taps: int  # of a padded row of the filter
    front: int  # of these before the first one

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.spec.N, self.spec.H, self.columns, self.channels

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.spec.K, self.spec.R, self.taps, self.channels


def widened(on: Executor, spec: ConvSpec, x: Any) -> Widened | None:
    """How tensor cores take ``spec``; None where its channels are units or have no kernel."""
    unit = 16 // int(x.dtype.itemsize)
    if spec.C >= unit or mma_type(on, x) == SM75_FLOAT16:
        return None
    (step_h, step_w), (pad_h, pad_w) = spec.stride, spec.padding
    paired = unit == 8 and spec.C <= 4 and step_w % 2 == 0
    pixels = 2 if paired else 1  # of a unit
    front = pad_w % pixels
    columns, taps = (-(-extent // pixels) * pixels for extent in (spec.W, front + spec.S))
    units = ConvSpec(
        spec.N, spec.H, columns // pixels, unit, spec.K, spec.R, taps // pixels,
        (step_h, step_w // pixels), (pad_h, (pad_w + front) // pixels), spec.relu, spec.bias,
        spec.function,
    )  # fmt: skip
    return Widened(units, unit // pixels, columns, taps, front)


def pad(on: Executor, spec: ConvSpec, wide: Widened, x: Any, w: Any = None) -> list[Scratch]:
    """x and, if given, w as ``wide`` has them: one launch."""
    call = Call(on, cuda_mma_args.PAD_MAPS_MMA_ARGS, type=mma_type(on, x))
    maps = [("x", x, spec.x_shape, wide.x_shape, wide.spec.x_shape, 0)]
    if w is not None:
        maps.append(("w", w, spec.w_shape, wide.w_shape, wide.spec.w_shape, wide.front))
    padded = []
    for i, (name, array, shape, stored, units, front) in enumerate(maps):
        out = on.scratch(f"padded {name}", stored, x.dtype)
        _pad_map(call, i, shape, stored, front, out)
        address, strides = on.put(name, array, unit=1)
        into = call.record["maps"][i]
        into["narrow"] = address
        into["strides"] = strides[:3] if len(strides) == 4 else (strides[0],) * 3
        padded.append(replace(out, shape=units))
    call.fill(map_count=len(maps))
    call.run("pad_maps_mma")
    return padded


def crop(on: Executor, spec: ConvSpec, wide: Widened, padded: Scratch, gw: Any) -> None:
    """gw from the filter gradient of ``wide``, fp32."""
    call = Call(on, cuda_mma_args.PAD_MAPS_MMA_ARGS, type=0, crop=1, map_count=1)
    _pad_map(call, 0, spec.w_shape, wide.w_shape, wide.front, padded)
    call.record["maps"][0]["narrow"] = on.put("gw", gw, output=True)[0]
    call.run("pad_maps_mma")


def _pad_map(
    call: Call, i: int, shape: Any, stored: tuple[int, ...], front: int, padded: Scratch
) -> None:
    into = call.record["maps"][i]
    fields = {**extents(shape), "front": front, "columns": stored[2], "channels": stored[3]}
    for name, value in fields.items():
        into[name] = value
    into["wide"] = call.on.put("padded", padded)[0]


def padded_gradient(on: Executor, wide: Widened) -> Scratch:
    """Memory for the filter gradient of ``wide``."""
    return on.scratch("padded gw", wide.spec.w_shape, np.float32)
