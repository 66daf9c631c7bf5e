"""The records of the tensor-core kernels as NumPy dtypes, field by field those of
``cuda_mma_args.h``.

A caller fills one ``np.zeros((), REDUCE_CONV_MMA_ARGS)``: device addresses as integers, extents,
strides in elements. The fields under "plan" there belong to the launch plan and stay zero.
"""

import numpy as np

from .cuda_args import LRN_POOL_CUDA_ARGS

__all__ = [
    "CONV_LRN_POOL_MMA_ARGS",
    "CONV_MMA_ARGS",
    "CONV_WGRAD_MMA_ARGS",
    "FLIP_FILTERS_MMA_ARGS",
    "FLIP_FILTER_MMA_ARGS",
    "INCEPTION_MMA_ARGS",
    "MASK_MMA_ARGS",
    "MMA_OUTPUT",
    "MMA_TYPES",
    "PAD_MAPS_MMA_ARGS",
    "PAD_MAP_MMA",
    "REDUCE_CONV_MMA_ARGS",
]

MMA_TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}  # storage; float32 is multiplied as tf32

_DIVISOR = np.dtype([(name, np.uint32) for name in ("value", "multiplier", "shift")])
_STRIDES = np.dtype([(name, np.int32) for name in ("image", "row", "pixel")])
MMA_OUTPUT = np.dtype(
    [("y", np.uint64), ("strides", _STRIDES), ("first", np.int32), ("count", np.int32)], align=True
)

_KINDS = {
    "pointer": np.uint64,
    "bytes": np.int64,
    "int": np.int32,
    "strides": _STRIDES,
    "divisor": _DIVISOR,
    "outputs": (MMA_OUTPUT, (4,)),
}


def _record(*rows: tuple[str, str]) -> np.dtype:
    """A dtype laid out as C lays out the struct; each row is (kind, "name name ...")."""
    fields = [(name, _KINDS[kind]) for kind, names in rows for name in names.split()]
    return np.dtype(fields, align=True)


REDUCE_CONV_MMA_ARGS = _record(
    ("pointer", "x wr br w b y r"),
    ("int", "N H W C Cr K R S stride_h stride_w pad_h pad_w"),
    ("strides", "x_strides y_strides r_strides"),
    ("int", "type shared_limit multiprocessors"),
    ("int", "P Q reduce_units conv_units tile_images tile_p halo_h slice"),
    ("int", "pixel_units row_units image_units origin_units reduced_units"),
    ("divisor", "slices bands map_h map_w map_q tile_rows channel_units filter_w"),
)

CONV_MMA_ARGS = _record(
    ("pointer", "x w b mask"),
    ("outputs", "outputs"),
    ("int", "output_count N H W C K R S stride_h stride_w pad_h pad_w step_h step_w P Q"),
    ("int", "relu accumulate"),
    ("strides", "x_strides mask_strides"),
    ("int", "type shared_limit multiprocessors"),
    ("int", "pixels units"),
    ("divisor", "map_pixels map_w channel_units filter_w dilation_h dilation_w column_tiles"),
)

CONV_LRN_POOL_MMA_ARGS = np.dtype(
    [
        ("conv", CONV_MMA_ARGS),
        ("tail", LRN_POOL_CUDA_ARGS),
        *((name, np.int32) for name in ("always", "pitch", "staged_at", "warp_pixels")),
    ],
    align=True,
)

INCEPTION_MMA_ARGS = np.dtype(
    [
        ("branches", REDUCE_CONV_MMA_ARGS, (2,)),
        ("ones", CONV_MMA_ARGS),
        ("projection", CONV_MMA_ARGS),
        ("first", np.int32, (3,)),
    ],
    align=True,
)

CONV_WGRAD_MMA_ARGS = _record(
    ("pointer", "gy x gw gb workspace"),
    ("bytes", "workspace_bytes"),
    ("int", "N H W C K R S stride_h stride_w pad_h pad_w P Q"),
    ("strides", "gy_strides x_strides"),
    ("int", "type shared_limit"),
    ("int", "pixels chunk_pixels chunk_stride chunks units"),
    ("divisor", "map_pixels map_w channel_units filter_w column_tiles"),
)

MASK_MMA_ARGS = _record(
    ("pointer", "gy y out"),
    ("int", "N P Q K type out_pitch"),
    ("strides", "gy_strides y_strides"),
    ("int", "count"),
    ("divisor", "channel_units map_pixels map_w"),
)

FLIP_FILTER_MMA_ARGS = _record(
    ("pointer", "w out"),
    ("int", "K R S C type out_pitch count"),
    ("divisor", "channel_units taps"),
)

FLIP_FILTERS_MMA_ARGS = np.dtype(
    [("filters", FLIP_FILTER_MMA_ARGS, (6,)), ("filter_count", np.int32)], align=True
)

PAD_MAP_MMA = _record(
    ("pointer", "narrow wide"),
    ("strides", "strides"),
    ("int", "N H W C front columns channels count"),
    ("divisor", "line map_h channel"),
)

PAD_MAPS_MMA_ARGS = np.dtype(
    [("maps", PAD_MAP_MMA, (2,)), *((name, np.int32) for name in ("map_count", "type", "crop"))],
    align=True,
)
