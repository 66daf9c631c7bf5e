"""The records of the CUDA kernels as NumPy dtypes, field by field those of ``cuda_args.h``.

A caller fills one ``np.zeros((), REDUCE_CONV_CUDA_ARGS)``: device addresses as integers, extents,
strides in elements. The fields that the header puts under "plan" belong to the launch plan and
stay zero.
"""

import numpy as np

__all__ = [
    "ADD_SCALED_CUDA_ARGS",
    "BATCH_NORM_CUDA_ARGS",
    "CAST_CUDA_ARGS",
    "CONV_CUDA_ARGS",
    "CONV_CUDA_PANEL",
    "CONV_WGRAD_CUDA_ARGS",
    "CUDA_DIVISOR",
    "CUDA_STRIDES",
    "DEPTHWISE_CUDA_ARGS",
    "DROPOUT_CUDA_ARGS",
    "FINITE_CUDA_ARGS",
    "INCEPTION_CUDA_ARGS",
    "LAYOUT_CUDA_ARGS",
    "LRN_CUDA_ARGS",
    "LRN_POOL_CUDA_ARGS",
    "POOL_CUDA_ARGS",
    "REDUCE_CONV_CUDA_ARGS",
    "SGD_CUDA_ARGS",
    "SOFTMAX_CUDA_ARGS",
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
    "float": np.float32,
    "word": np.uint32,
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
    ("int", "slice tile_pixels"),
)

CONV_WGRAD_CUDA_ARGS = _record(
    ("pointer", "gy y x gw gb"),
    ("int", "H W C K R S stride_h stride_w pad_h pad_w pixels chunk_pixels chunk_stride"),
    ("strides", "gy_strides y_strides x_strides"),
    ("divisor", "map_pixels map_w column_tiles channels filter_w"),
)

SUM_CHUNKS_CUDA_ARGS = _record(
    ("pointer", "partial gw gb"),
    ("int", "chunks chunk_stride filter_count count"),
)

CONV_CUDA_PANEL = _record(
    ("pointer", "w b y gy"),
    ("strides", "y_strides gy_strides"),
    ("int", "K relu first_tile"),
)
_KINDS["panels"] = np.dtype((CONV_CUDA_PANEL, 4))

CONV_CUDA_ARGS = _record(
    ("pointer", "x gx gw gb workspace"),
    ("bytes", "workspace_bytes"),
    ("panels", "panels"),
    ("int", "panel_count storage N H W C R S stride_h stride_w pad_h pad_w"),
    ("strides", "x_strides gx_strides"),
    ("int", "accumulate P Q pixels"),
    ("divisor", "map_pixels map_w channels filter_w step_h step_w"),
)

_KINDS["pointers"] = np.dtype((np.uint64, 6))
_KINDS["channels"] = np.dtype((np.int32, 6))

INCEPTION_CUDA_ARGS = _record(
    ("pointer", "x y r3 r5 pooled argmax gy gx"),
    ("pointers", "w b gw gb"),
    ("pointer", "workspace"),
    ("bytes", "workspace_bytes"),
    ("int", "N H W C"),
    ("channels", "K"),
    ("int", "filter storage tensor_cores shared_limit multiprocessors"),
    ("strides", "x_strides y_strides r3_strides r5_strides pooled_strides gy_strides gx_strides"),
)

POOL_CUDA_ARGS = _record(
    ("pointer", "x y argmax gy gx"),
    ("int", "average storage N H W C R S stride_h stride_w pad_h pad_w"),
    ("int", "ceil_mode count_include_pad accumulate"),
    ("strides", "x_strides y_strides gy_strides gx_strides"),
    ("int", "P Q count"),
    ("divisor", "groups map_w map_h step_h step_w"),
)

DEPTHWISE_CUDA_ARGS = _record(
    ("pointer", "x w b y gy gx gw gb workspace"),
    ("bytes", "workspace_bytes"),
    ("strides", "x_strides y_strides gy_strides gx_strides"),
    ("int", "storage N H W C K R S stride_h stride_w pad_h pad_w relu accumulate"),
    ("pointer", "partial"),
    ("int", "P Q pixels block_pixels chunks lanes"),
    ("divisor", "multiplier slab taps filter_w channels map_w map_h step_h step_w"),
)

LRN_CUDA_ARGS = _record(
    ("pointer", "x y gy gx"),
    ("strides", "x_strides y_strides gy_strides gx_strides"),
    ("int", "storage N H W C size"),
    ("float", "alpha beta k scale slope"),
    ("int", "reach pixels tile_pixels tile_channels"),
    ("divisor", "tile x_row t_row groups map_w map_h"),
)

LRN_POOL_CUDA_ARGS = _record(
    ("pointer", "x y"),
    ("strides", "x_strides y_strides"),
    ("int", "storage N H W C R S stride_h stride_w pad_h pad_w"),
    ("int", "ceil_mode pool_first size"),
    ("float", "alpha beta k scale"),
    ("int", "P Q reach margin tile_p halo_h"),
    ("divisor", "tile_q halo_w image_tiles tiles_q groups margins"),
)

SOFTMAX_CUDA_ARGS = _record(
    ("pointer", "logits glogits labels loss probs g"),
    ("int", "storage N K logits_row"),
)

BATCH_NORM_CUDA_ARGS = _record(
    ("pointer", "x y gy gx gamma beta mean var ggamma gbeta workspace"),
    ("bytes", "workspace_bytes"),
    ("strides", "x_strides y_strides gy_strides gx_strides"),
    ("int", "storage N H W C relu"),
    ("float", "eps"),
    ("int", "mode"),
    ("pointer", "partial"),
    ("int", "pixels chunk_pixels chunks count"),
    ("divisor", "groups map_w map_h"),
)

DROPOUT_CUDA_ARGS = _record(
    ("pointer", "x y"),
    ("bytes", "threshold"),
    ("strides", "x_strides y_strides"),
    ("word", "seed_low seed_high step layer first_sample"),
    ("float", "divisor"),
    ("int", "storage N H W C elements count"),
    ("divisor", "blocks channels map_w"),
)

ADD_SCALED_CUDA_ARGS = _record(
    ("pointer", "a b y gy"),
    ("strides", "a_strides b_strides y_strides gy_strides"),
    ("int", "storage N H W C relu"),
    ("float", "scale"),
    ("int", "backward count"),
    ("divisor", "groups map_w map_h"),
)

CAST_CUDA_ARGS = _record(("pointer", "x y"), ("int", "from to count"))

FINITE_CUDA_ARGS = _record(
    ("pointer", "x verdict workspace"),
    ("bytes", "workspace_bytes"),
    ("int", "storage count last"),
)

SGD_CUDA_ARGS = _record(
    ("pointer", "w v g copy skip"),
    ("float", "rate momentum decay scale"),
    ("int", "storage count"),
)

LAYOUT_CUDA_ARGS = _record(
    ("pointer", "x y"),
    ("strides", "strides"),
    ("int", "storage N H W C to_nchw padding pixels"),
    ("divisor", "tiles map_w"),
)
