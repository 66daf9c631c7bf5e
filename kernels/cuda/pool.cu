// Pooling, any GPU from sm_75; storage fp32, bf16 or fp16, arithmetic fp32:
//
//   max fprop    y = max over the window, argmax = the tap r S + s that won
//   max dgrad    gx = the sum of gy over the windows whose argmax the pixel is
//   mean fprop   y = sum over the window / cells
//   mean dgrad   gx = the sum of gy / cells over the windows that hold the pixel
//
// Windows are clipped to the image. P = floor((H + 2 ph - R) / sh) + 1, or in ceil_mode Caffe's
// ceil, less a last window that would start at or beyond H + ph. The first maximum in row-major
// order wins, a NaN over every number. cells are the window's pixels inside the image, or with
// count_include_pad inside the padded one. Maps NHWC with free strides of image, row and pixel;
// argmax is contiguous. Results are `=` but gx, which is `+=` where accumulate is set.
//
// A thread makes four channels: one 16-byte access where strides and addresses allow it. Backward
// is a gather, so there are no atomics and the order of each sum is that of the taps. Lost: the
// window in shared memory (neighbouring threads' taps meet in L1); argmax recomputed from x in
// backward (nine loads a window instead of one).
#include "pool.cuh"

#define PYI_ENTRY(NAME, BODY)                          \
  extern "C" __global__ void __launch_bounds__(256, 4) \
      NAME(const __grid_constant__ PoolCudaArgs a) {   \
    await_launches_before();                           \
    PYI_BY_STORAGE(BODY, a);                           \
  }
PYI_ENTRY(pool_fprop, pool_fprop_body)
PYI_ENTRY(pool_dgrad, pool_dgrad_body)

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "launcher.cuh"
#include "pool_plan.h"

PYI_ENTRY_TABLE(pool, PYI_POOL_ENTRIES)
#endif
