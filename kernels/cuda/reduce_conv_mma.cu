// reduce_conv on tensor cores, sm_80 and later: both stages in one launch, the reduced map on chip.
//
//   r = relu(x wr^T + br)        1x1, (N, H, W, C) -> (N, H, W, Cr), rounded to the storage type
//   y = relu(conv(r, w) + b)     KxK, (N, H, W, Cr) -> (N, P, Q, K)
//
// Layout: maps NHWC with unit channel stride, bases and other strides multiples of 16 bytes (y is a
// slice of the module's output); filters KRSC, contiguous, read as they are. Results are `=`; r may
// be null. Storage bf16, fp16 or fp32 as tf32; sums and biases fp32.
//
// A block takes whole rows: bands of one image, or whole images, so that halo and recomputation lie
// in one direction and 14x14 and 7x7 maps have none. The output channels may be cut into slices;
// each repeats the 1x1, 11 to 16 % of a module, and fills a device that one block an image would
// leave idle. Sums go over units in ascending order, whatever the tile: tiles do not change bits.
//
// Backward is conv_mma.cu: dgrad of the KxK with r as mask, then of the 1x1; wgrad of both.
// Lost: square tiles (the in-map part of a halo is then no rectangle of rows, and its pixels cannot
// be counted by one division); r in the ring's place (it is read once per tap); rows of 128 bytes
// with an XOR for r (96 channels would fill 256 bytes a pixel, where an odd pitch takes 208).
#include "reduce_conv_mma.cuh"

template <class E>
using Wide = MmaTile<E, 7, 2, 4>;  // 224 x 128: 14x14, 7x28, four of 7x7
template <class E>
using Tall = MmaTile<E, 4, 4, 1>;  // 256 x 32: few channels, the 5x5 branches
template <class E>
using Flat = MmaTile<E, 4, 1, 4>;  // 64 x 128: one 7x7, or a small batch cut fine

// ---- entries -----------------------------------------------------------------------------------
#define PYI_ENTRY(NAME, TILE, BLOCKS)                                  \
  extern "C" __global__ void __launch_bounds__(TILE::kThreads, BLOCKS) \
      NAME(const __grid_constant__ ReduceConvMmaArgs a) {              \
    await_launches_before();                                           \
    reduce_conv_mma<TILE>(a, blockIdx.x);                              \
  }
PYI_ENTRY(reduce_conv_mma_bf16_wide, Wide<bf16>, 1)
PYI_ENTRY(reduce_conv_mma_bf16_tall, Tall<bf16>, 2)
PYI_ENTRY(reduce_conv_mma_bf16_flat, Flat<bf16>, 3)
PYI_ENTRY(reduce_conv_mma_fp16_wide, Wide<f16>, 1)
PYI_ENTRY(reduce_conv_mma_fp16_tall, Tall<f16>, 2)
PYI_ENTRY(reduce_conv_mma_fp16_flat, Flat<f16>, 3)
PYI_ENTRY(reduce_conv_mma_tf32_wide, Wide<float>, 1)
PYI_ENTRY(reduce_conv_mma_tf32_tall, Tall<float>, 2)
PYI_ENTRY(reduce_conv_mma_tf32_flat, Flat<float>, 2)

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "launcher.cuh"
#include "reduce_conv_mma_plan.h"

static_assert(is_shape<Wide<bf16>, kMmaWide>() && is_shape<Tall<bf16>, kMmaTall>() &&
                  is_shape<Flat<bf16>, kMmaFlat>(),
              "kMmaShapes are the tiles");

PYI_ENTRY_TABLE(reduce_conv_mma, PYI_REDUCE_CONV_MMA_ENTRIES)
#endif
