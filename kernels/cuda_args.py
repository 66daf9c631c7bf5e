"""The records of the CUDA kernels as NumPy dtypes, field by field those of ``cuda_args.h``.

A caller fills one ``np.zeros((), REDUCE_CONV_CUDA_ARGS)``: device addresses as integers, extents,
strides in elements. The fields from ``gr`` on belong to the launch plan and stay zero.
"""

import numpy as np

__all__ = [
    "CONV_WGRAD_CUDA_ARGS",
    "CUDA_DIVISOR",
    "CUDA_STRIDES",
    "REDUCE_CONV_CUDA_ARGS",
    "SUM_CHUNKS_CUDA_ARGS",
]

CUDA_DIVISOR = np.dtype([(name, np.uint32) for name in ("value", "multiplier", "shift")])
CUDA_STRIDES = np.dtype([(name, np.int32) for name in ("image", "row", "pixel")])

_KINDS = {
    "pointer": np.uint64,
    "bytes": np.int64,
    "int": np.int32,
    "strides": CUDA_STRIDES,
    "divisor": CUDA_DIVISOR,
}


def _record(*rows: tuple[str, str]) -> np.dtype:
    """A dtype laid out as C lays out the struct; each row is (kind, "name name ...")."""
    fields = [(name, _KINDS[kind]) for kind, names in rows for name in names.split()]
    return np.dtype(fields, align=True)


REDUCE_CONV_CUDA_ARGS = _record(
    ("pointer", "x wr br w b y r gy gx gwr gbr gw gb workspace"),
    ("bytes", "workspace_bytes"),
    ("int", "N H W C Cr K R S stride_h stride_w pad_h pad_w"),
    ("strides", "x_strides y_strides r_strides gy_strides gx_strides"),
    ("int", "accumulate shared_limit"),
    ("pointer", "gr"),
    ("int", "P Q tile_p halo_h"),
    ("divisor", "tile_q halo_w image_tiles tiles_q map_pixels map_w step_h step_w"),
    ("int", "tile_pixels"),
)

CONV_WGRAD_CUDA_ARGS = _record(
    ("pointer", "gy y x gw gb"),
    ("int", "H W C K R S stride_h stride_w pad_h pad_w pixels chunk_pixels chunk_stride"),
    ("strides", "gy_strides y_strides x_strides"),
    ("divisor", "map_pixels map_w column_tiles filter_w"),
)

SUM_CHUNKS_CUDA_ARGS = _record(
    ("pointer", "partial gw gb"),
    ("int", "chunks chunk_stride filter_count count"),
)
