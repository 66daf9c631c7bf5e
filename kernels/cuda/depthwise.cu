// Depthwise convolution on CUDA cores, any GPU from sm_75; storage fp32, bf16 or fp16, sums fp32:
//
//   fprop   y[k]  = relu(b[k] + sum over taps of w[k] x[k / M]),  M = K / C
//   dgrad   gx[c] = the sum over taps and the M filters of c of g[k] w[k],  g = gy where y > 0
//   wgrad   gw[k] = the sum over pixels of g[k] x[k / M], gb[k] = that of g[k]
//
// Maps NHWC with free strides of image, row and pixel; filters (K, R, S), contiguous; b, gw and gb
// are fp32. Results are `=` but gx, which is `+=` where accumulate is set.
//
// A thread makes four channels of a pixel, then of the next of its block's run; the filters of the
// block's channels lie in shared memory as [tap][channel], so that four of them are one access (in
// global memory four channels are four accesses, R S apart). A tap's x is read from L1, where the
// taps of neighbouring pixels meet. Gradients to x are a gather; those of filters are sums of one
// tap a block over chunks of pixels, a function of the shape, added in ascending order. Lost: the
// halo of a tile in shared memory (an access to L1 costs the same); all taps of a filter gradient
// in one block (their sums would be 4 R S registers).
#include "depthwise.cuh"

#define PYI_ENTRY(NAME, ...)                              \
  extern "C" __global__ void __launch_bounds__(256, 3)    \
      NAME(const __grid_constant__ DepthwiseCudaArgs a) { \
    await_launches_before();                              \
    __VA_ARGS__;                                          \
  }
PYI_ENTRY(depthwise_fprop, PYI_BY_STORAGE(depthwise_fprop_body, a))
PYI_ENTRY(depthwise_dgrad, PYI_BY_STORAGE(depthwise_dgrad_body, a))
PYI_ENTRY(depthwise_wgrad, PYI_BY_STORAGE(depthwise_wgrad_body, a))
PYI_ENTRY(depthwise_finish, depthwise_finish_body(a))

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "depthwise_plan.h"
#include "launcher.cuh"

PYI_ENTRY_TABLE(depthwise, PYI_DEPTHWISE_ENTRIES)
#endif
