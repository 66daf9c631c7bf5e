"""The argument records of the tile programs: plain structs of pointers, strides and extents.

A tile program is ``kernel(args, tile, scratch)``; ``args`` points at one of the records below. Each
is declared here as a NumPy dtype (for Numba) and in ``args.h`` as a struct (for C++); a test
compiles the struct and compares every offset.

Every field has eight bytes but the float32 scalars, which come in pairs. Pointers are addresses in
bytes; strides count elements; a pixel has unit channel stride. ``N H W C`` are input extents,
``K R S`` filter extents, ``P Q`` output extents.
"""

import numpy as np

I = "<i8"
F = "<f4"

SUM_CHUNK = 256  # terms of one chain of multiply-adds at most; see cpu/sums.py


def record(integers: str, floats: str = "") -> np.dtype:
    """Struct of int64 fields, then float32 fields (an even number, to keep the size at 8 n)."""
    return np.dtype([(n, I) for n in integers.split()] + [(n, F) for n in floats.split()])


# What a convolution reads: one map, one filter. `dilation` spreads the map (dgrad of a strided
# convolution is a convolution of the spread gradient). Input row of output row p and tap r:
# (p stride_h + r - pad_h) / dilation_h, where it divides and lies in [0, H).
SOURCE = record(
    "x x_n x_h x_w mask m_n m_h m_w H W C R S"
    " stride_h stride_w pad_h pad_w dilation_h dilation_w staged merged"
)
# staged: the rows a tile needs are copied (masked) into scratch first, or computed there.
# merged: staged rows carry zero columns, so a filter row is one tap of S C channels.

# A group of at most NR output channels: where its bias is and where its lanes go.
PANEL = record("bias y y_n y_h y_w lanes")

# A convolution: sources x panels of one output map. weights[source, panel] is an address.
# reduce: another CONV record, whose output is this one's staged source, or 0. zero: a row of zeros.
# lists: bytes of scratch before the staged maps. phase_w: the dilation_w of all sources.
CONV = record(
    "sources source_count panels panel_count weights reduce zero N P Q phase_w lists"
    " tile_pixels pixel_tiles tile_panels panel_tiles relu accumulate"
)

# gw[k, r, s, c] = sum over pixels of gy[p, k] x[p stride + r - pad, c], gy masked by y > 0.
WGRAD = record(
    "x x_n x_h x_w gy gy_n gy_h gy_w mask m_n m_h m_w gw gb N H W C K R S P Q"
    " stride_h stride_w pad_h pad_w chunk_rows tile_k tile_b b_tiles"
    " rows staged_gy lanes staged_x zero"
)

# The same for 1x1 filters of stride 1 that read one map: `gradients` of them. first: vectors of
# output channels before a gradient's own. A tile has tile_vectors of those and tile_lanes of C;
# chunk: pixels of a sum. lists, staged_gy, staged_x: bytes of scratch before those.
GRADIENT = record("gy gy_n gy_h gy_w mask m_n m_h m_w gw gb K first")
POINTWISE_WGRAD = record(
    "x x_n x_h x_w gradients gradient_count N H W C chunk tile_vectors tile_lanes lane_tiles"
    " lists staged_gy staged_x"
)

# Packing of a filter into panels of NR lanes; strides in elements, signed (dgrad flips the taps).
PACK = record("w w_k w_r w_s w_c packed K R S C")

# Winograd: y = x * w over `tile_count` output tiles, tiles_h x tiles_w an image, cut into blocks;
# weights are transformed panels. v, m: bytes of scratch before the transformed inputs and the
# products, whose points lie v_plane and m_plane floats apart, a tile's channels v_row.
WINOGRAD = record(
    "x x_n x_h x_w mask m_n m_h m_w y y_n y_h y_w weights bias zero H W C K R S P Q"
    " pad_h pad_w tiles_h tiles_w tile_count block_tiles tile_panels panel_tiles"
    " v v_row v_plane m m_plane relu accumulate"
)

# Its filter gradient: blocks of tile_k x tile_c channels, tiles in chunks. v, w, m: bytes of
# scratch before the transformed inputs, gradients and their products; v_row, w_row: floats a tile.
WINOGRAD_WGRAD = record(
    "x x_n x_h x_w gy gy_n gy_h gy_w mask m_n m_h m_w gw gb zero H W C K R S P Q pad_h pad_w"
    " tiles_h tiles_w tile_count chunk_tiles tile_k tile_c c_tiles"
    " v v_row v_plane w w_row w_plane m m_plane"
)

# The phases of stride 2 of a map, side by side as channels: y is (N, P, Q, 4 C), contiguous. size:
# bytes an element; row: bytes of scratch for a row of x with its frame.
SPACE_TO_DEPTH = record("x x_n x_h x_w y H W C P Q pad_h pad_w size row")

# One record for the plain twins: x and y are the maps of fprop, or their gradients.
PLAIN_CONV = record(
    "x x_n x_h x_w w w_k w_r w_s w_c bias y y_n y_h y_w mask m_n m_h m_w N H W C K R S P Q"
    " stride_h stride_w pad_h pad_w relu accumulate"
)

# Depthwise convolution: x is the map of H W (the input or its gradient), y that of P Q. w: the
# packed filters; partial: the sums of the filter gradient, image by image. Plain twins: PLAIN_CONV.
DEPTHWISE = record(
    "x x_n x_h x_w y y_n y_h y_w mask m_n m_h m_w w bias zero partial gw gb N H W C K R S P Q"
    " stride_h stride_w pad_h pad_w relu accumulate tile_rows row_tiles panels tile_panels"
    " panel_tiles"
)
# The residual sum; count: floats, where the maps are dense and C is a piece of them. Backward: a
# and b are the gradients, g that of the sum, y the mask.
ADD_SCALED = record(
    "a a_n a_h a_w b b_n b_h b_w y y_n y_h y_w g g_n g_h g_w N H W C count relu", "scale unused"
)

# Pooling: x is the map of H W (the input or its gradient), y that of P Q; argmax is contiguous.
POOL = record(
    "x x_n x_h x_w y y_n y_h y_w argmax zero N H W C P Q R S"
    " stride_h stride_w pad_h pad_w count_include_pad accumulate"
)
# scale = alpha / size, slope = 2 alpha beta / size. Backward: y is gx.
LRN = record("x x_n x_h x_w gy gy_n gy_h gy_w y y_n y_h y_w N H W C size", "scale beta k slope")
# Backward: logits is glogits.
SOFTMAX = record("logits l_n labels loss probs p_n g N K")
# partial: two rows of C floats per chunk of chunk_rows image rows. y is the mask of the backward.
BATCH_NORM = record(
    "x x_n x_h x_w y y_n y_h y_w gy gy_n gy_h gy_w gx gx_n gx_h gx_w gamma beta mean var"
    " ggamma gbeta partial N H W C chunks chunk_rows relu",
    "eps unused",
)
# A copy of maps of bfloat16 whose channels are x_c and y_c.
COPY = record("x x_n x_h x_w x_c y y_n y_h y_w y_c N H W")
DROPOUT = record(
    "x x_n x_h x_w y y_n y_h y_w N H W C seed step layer first_sample threshold", "divisor unused"
)
# One run of numbers: weights and velocity are written, the gradient is read.
SGD = record("w v g count", "rate momentum decay unused")

RECORDS = {
    "Source": SOURCE,
    "Panel": PANEL,
    "ConvArgs": CONV,
    "WgradArgs": WGRAD,
    "Gradient": GRADIENT,
    "PointwiseWgradArgs": POINTWISE_WGRAD,
    "PackArgs": PACK,
    "WinogradArgs": WINOGRAD,
    "WinogradWgradArgs": WINOGRAD_WGRAD,
    "SpaceToDepthArgs": SPACE_TO_DEPTH,
    "PlainConvArgs": PLAIN_CONV,
    "DepthwiseArgs": DEPTHWISE,
    "AddScaledArgs": ADD_SCALED,
    "PoolArgs": POOL,
    "LrnArgs": LRN,
    "SoftmaxArgs": SOFTMAX,
    "BatchNormArgs": BATCH_NORM,
    "DropoutArgs": DROPOUT,
    "SgdArgs": SGD,
    "CopyArgs": COPY,
}
