// reduce_conv_mma.cu and conv_mma.cu (fprop) for sm_75, fp16: the same code, with eight k an
// instruction, and copies that go through registers into a ring of two stages, since sm_75 copies
// nothing asynchronously and gives a block 64 KB of shared memory. Contracts stand at the heads of
// those files; the sums' order is theirs. Plans ask for this by type kMmaFp16Sm75.
//
// Backward and whole modules are not here: sm_75 has no max.NaN.f16x2 for the pooled branch, and
// training on it is what the CUDA-core kernels are for.
#include "conv_mma.cuh"
#include "reduce_conv_mma.cuh"

using Wide = MmaTile<f16, 7, 2, 4, true>;
using Tall = MmaTile<f16, 4, 4, 1, true>;
using Flat = MmaTile<f16, 4, 1, 4, true>;

// ---- entries -----------------------------------------------------------------------------------
#define PYI_ENTRY(NAME, TILE, BLOCKS, ARGS, KERNEL)                    \
  extern "C" __global__ void __launch_bounds__(TILE::kThreads, BLOCKS) \
      NAME(const __grid_constant__ ARGS a) {                           \
    await_launches_before();                                           \
    KERNEL<TILE>(a, blockIdx.x);                                       \
  }
PYI_ENTRY(reduce_conv_mma_sm75_wide, Wide, 1, ReduceConvMmaArgs, reduce_conv_mma)
PYI_ENTRY(reduce_conv_mma_sm75_tall, Tall, 2, ReduceConvMmaArgs, reduce_conv_mma)
PYI_ENTRY(reduce_conv_mma_sm75_flat, Flat, 2, ReduceConvMmaArgs, reduce_conv_mma)
PYI_ENTRY(conv_mma_sm75_wide, Wide, 1, ConvMmaArgs, conv_mma)
PYI_ENTRY(conv_mma_sm75_tall, Tall, 2, ConvMmaArgs, conv_mma)
PYI_ENTRY(conv_mma_sm75_flat, Flat, 2, ConvMmaArgs, conv_mma)

// ---- for the launcher ---------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "launcher.cuh"
#include "mma_plan.h"

template <class T, int kShape>
constexpr bool is_sm75_shape() {
  constexpr MmaShape s = mma_shape(kMmaFp16Sm75, kShape);
  return s.rows == T::kRows && s.columns == T::kColumns && s.threads == T::kThreads &&
         s.ring_bytes() == T::kRing;
}
static_assert(is_sm75_shape<Wide, kMmaWide>() && is_sm75_shape<Tall, kMmaTall>() &&
                  is_sm75_shape<Flat, kMmaFlat>(),
              "kMmaShapes are the tiles");

PYI_ENTRY_TABLE(mma_sm75, PYI_MMA_SM75_ENTRIES)
#endif
