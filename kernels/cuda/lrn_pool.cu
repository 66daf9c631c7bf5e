// Local response normalisation and max pooling in one launch, forward, any GPU from sm_75; storage
// fp32, bf16 or fp16, arithmetic fp32:
//
//   pool last   y = max over the window of lrn(x)       GoogLeNet: conv2, norm2, pool2
//   pool_first  y = lrn(max over the window of x)       GoogLeNet: conv1, pool1, norm1
//   lrn(x)_c = x_c s_c^-3/4,  s_c = k + (alpha / size) sum of x_c'^2,  |c' - c| <= size / 2
//
// (N, H, W, C) -> (N, P, Q, C); windows as in pool.cu, sums as in elementary.cu. What one kernel
// would have stored for the other is rounded to the storage, so the bits are those of the two run
// one after the other. Maps NHWC with free strides of image, row and pixel; y is `=`.
//
// A block makes a tile of outputs with all their channels, since the window of the sum runs over
// channels: the normalised pixels of its windows (pool last) or the pooled ones (pool_first) stay
// in shared memory. For inference: backward needs x, the normalised map and the argmax.
//
// Lost: the convolution in the same kernel, on CUDA cores (tensor cores: conv_lrn_pool_mma.cu). Its
// tile must hold all channels and the windows' last row and column twice: 5x5 pixels for 2x2
// outputs of conv2 are 1.56 times the multiply-adds, 194 M an image on top of 347 M, for 2.4 MB
// less (bf16). A CUDA core of an H100-class device makes the first in 6.5 us and moves the second
// in 0.6.
#include "lrn_pool.cuh"

extern "C" __global__ void __launch_bounds__(256, 4)
    lrn_pool(const __grid_constant__ LrnPoolCudaArgs a) {
  await_launches_before();
  PYI_BY_STORAGE(lrn_pool_body, a);
}

// ---- for the launcher --------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "launcher.cuh"
#include "lrn_pool_plan.h"

PYI_ENTRY_TABLE(lrn_pool, PYI_LRN_POOL_ENTRIES)
#endif
