// A GoogLeNet module on tensor cores in one launch, sm_80 and later.
//
//   y = [1x1(x) | 3x3(1x1(x)) | 5x5(1x1(x)) | 1x1(max pool(x))], relu after each convolution
//
// Four roles share a grid: a block is one of the 3x3 branch, the 5x5 branch, the 1x1 of x or the
// 1x1 of its pool, and runs that kernel. Both reduced maps and the pooled map exist on chip only,
// every role writes its slice of y, and x is read from device memory once while it fits the L2
// cache. The longest role comes first, so that the short ones fill the device as its blocks end.
//
// Layout, storage and sums are those of reduce_conv_mma.cu and conv_mma.cu; results are `=`.
// Lost: one block per image for all roles (a batch of one would use one multiprocessor); roles
// ordered by image (a tail of long blocks at the end); the 224 x 128 tile (with four roles in one
// kernel it spills; 256 x 64 fills 13 of its 16 rows of tiles with a 14x14 map, where it fills 13
// of 14, but wastes less on the few channels of the 5x5).
#include "conv_mma.cuh"
#include "reduce_conv_mma.cuh"

template <class E>
using Mid = MmaTile<E, 4, 4, 2>;

template <class E>
__device__ __forceinline__ void inception_mma(const InceptionMmaArgs& a) {
  const int block = blockIdx.x;
  if (block < a.first[1]) {  // one copy of the code for both branches
    const int third = block >= a.first[0];
    reduce_conv_mma<Mid<E>>(a.branches[third], third ? block - a.first[0] : block);
  } else if (block < a.first[2])
    conv_mma<Mid<E>>(a.ones, block - a.first[1]);
  else
    conv_mma<Mid<E>, true>(a.projection, block - a.first[2]);
}

// ---- entries -----------------------------------------------------------------------------------
#define PYI_ENTRY(NAME, E)                               \
  extern "C" __global__ void __launch_bounds__(256, 1)   \
      NAME(const __grid_constant__ InceptionMmaArgs a) { \
    await_launches_before();                             \
    inception_mma<E>(a);                                 \
  }
PYI_ENTRY(inception_mma_tf32, float)
PYI_ENTRY(inception_mma_bf16, bf16)
PYI_ENTRY(inception_mma_fp16, f16)

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "inception_mma_plan.h"
#include "launcher.cuh"

static_assert(is_shape<Mid<bf16>, kMmaMid>(), "kMmaShapes has the tile");

PYI_ENTRY_TABLE(inception_mma, PYI_INCEPTION_MMA_ENTRIES)
#endif
