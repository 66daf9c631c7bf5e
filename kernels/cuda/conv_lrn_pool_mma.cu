// A convolution of the stem with what follows it, in one launch, on tensor cores, sm_80 and later,
// forward, maps of 16 bits:
//
//   pool last    y = max over the window of lrn(relu(conv(x, w) + b))    GoogLeNet: conv2
//   pool_first   y = lrn(max over the window of relu(conv(x, w) + b))    GoogLeNet: conv1
//
// (N, H, W, C) -> (N, tail.P, tail.Q, K); maps NHWC, x and w as in conv_mma.cu, windows and
// constants as in lrn_pool.cu; y is `=`. A block makes a tile of pooled pixels with all their
// channels: the pixels of the convolution that their windows see, up to 256 of them, are made 64
// channels at a time and stay in shared memory. Pixels that two tiles see are made twice.
//
// Sums are in the order of conv_mma.cu, and what it would have stored is rounded to the storage:
// the bits are those of conv_mma and lrn_pool one after the other. The plan declines where it
// expects those two to end first.
//
// Lost: 128 rows a tile, 11 x 11 pixels, of which 1.46 times as many are made in all (256: 1.31);
// tf32, whose pixels take twice the room.
#include "conv_lrn_pool_mma.cuh"

template <class E>
using Mid = MmaTile<E, 4, 4, 2>;

#define PYI_ENTRY(NAME, E)                                 \
  extern "C" __global__ void __launch_bounds__(256, 2)     \
      NAME(const __grid_constant__ ConvLrnPoolMmaArgs a) { \
    await_launches_before();                               \
    conv_lrn_pool_mma<Mid<E>>(a);                          \
  }
PYI_ENTRY(conv_lrn_pool_mma_bf16, bf16)
PYI_ENTRY(conv_lrn_pool_mma_fp16, f16)

// ---- for the launcher --------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "conv_lrn_pool_mma_plan.h"
#include "launcher.cuh"

static_assert(is_shape<Mid<bf16>, kMmaMid>() && kMostNormalisedReach == kMostReach,
              "the plan's tile is the kernels' tile");

PYI_ENTRY_TABLE(conv_lrn_pool_mma, PYI_CONV_LRN_POOL_MMA_ENTRIES)
#endif
