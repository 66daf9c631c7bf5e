"""The argument records of the tile programs: plain structs of pointers, strides and extents.

A tile program is ``kernel(args, tile, scratch)``; ``args`` points at one of the records below. Each
is declared here as a NumPy dtype (for Numba) and in ``args.h`` as a struct (for C++); a test
compiles the struct and compares every offset.

Every field has eight bytes but the float32 scalars, which come in pairs. Pointers are addresses in
bytes; strides count elements; a pixel has unit channel stride. ``N H W C`` are input extents,
``K R S`` filter extents, ``P Q`` output extents.
"""

import numpy as np

I = "<i8"  # noqa: E741  the one integer type of the records
F = "<f4"


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
    " stride_h stride_w pad_h pad_w chunk_rows tile_k staged_gy staged_x zero"
)

# Packing of a filter into panels of NR lanes; strides in elements, signed (dgrad flips the taps).
PACK = record("w w_k w_r w_s w_c packed K R S C")

# One record for the plain twins: x and y are the maps of fprop, or their gradients.
PLAIN_CONV = record(
    "x x_n x_h x_w w w_k w_r w_s w_c bias y y_n y_h y_w mask m_n m_h m_w N H W C K R S P Q"
    " stride_h stride_w pad_h pad_w relu accumulate"
)

POOL = record(
    "x x_n x_h x_w y y_n y_h y_w argmax a_n a_h a_w N H W C P Q R S"
    " stride_h stride_w pad_h pad_w count_include_pad accumulate"
)
LRN = record("x x_n x_h x_w gy gy_n gy_h gy_w y y_n y_h y_w N H W C size", "alpha beta k zero")
SOFTMAX = record("logits l_n labels loss probs p_n g N K")
BATCH_NORM = record(
    "x x_n x_h x_w y y_n y_h y_w gy gy_n gy_h gy_w gx gx_n gx_h gx_w gamma beta mean var"
    " ggamma gbeta partial N H W C chunks relu",
    "eps zero",
)
DROPOUT = record("x x_n y y_n N E seed step layer first_sample threshold", "scale zero")

RECORDS = {
    "Source": SOURCE,
    "Panel": PANEL,
    "ConvArgs": CONV,
    "WgradArgs": WGRAD,
    "PackArgs": PACK,
    "PlainConvArgs": PLAIN_CONV,
    "PoolArgs": POOL,
    "LrnArgs": LRN,
    "SoftmaxArgs": SOFTMAX,
    "BatchNormArgs": BATCH_NORM,
    "DropoutArgs": DROPOUT,
}
