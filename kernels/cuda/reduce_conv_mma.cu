// reduce_conv on tensor cores, sm_80 and later: both stages in one launch, the reduced map on chip.
//
//   r = relu(x wr^T + br)        1x1, (N, H, W, C) -> (N, H, W, Cr), rounded to the storage type
//   y = relu(conv(r, w) + b)     KxK, (N, H, W, Cr) -> (N, P, Q, K)
#include "reduce_conv_mma.cuh"

template <class E>
using Wide = MmaTile<E, 7, 2, 4>;
template <class E>
using Tall = MmaTile<E, 4, 4, 1>;
template <class E>
using Flat = MmaTile<E, 4, 1, 4>;
#define PYI_ENTRY(NAME, TILE, BLOCKS)                                  \
  extern "C" __global__ void __launch_bounds__(TILE::kThreads, BLOCKS) \
      NAME(const __grid_constant__ ReduceConvMmaArgs a) {              \
    reduce_conv_mma<TILE>(a);                                          \
  }
PYI_ENTRY(reduce_conv_mma_bf16_wide, Wide<Bf16>, 1)
PYI_ENTRY(reduce_conv_mma_bf16_tall, Tall<Bf16>, 2)
PYI_ENTRY(reduce_conv_mma_bf16_flat, Flat<Bf16>, 3)
PYI_ENTRY(reduce_conv_mma_fp16_wide, Wide<Fp16>, 1)
PYI_ENTRY(reduce_conv_mma_fp16_tall, Tall<Fp16>, 2)
PYI_ENTRY(reduce_conv_mma_fp16_flat, Flat<Fp16>, 3)
PYI_ENTRY(reduce_conv_mma_tf32_wide, Wide<float>, 1)
PYI_ENTRY(reduce_conv_mma_tf32_tall, Tall<float>, 2)
PYI_ENTRY(reduce_conv_mma_tf32_flat, Flat<float>, 3)
