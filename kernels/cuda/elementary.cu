// The layers beside convolution and pooling, and the steps around them, any GPU from sm_75; storage
// fp32, bf16 or fp16, arithmetic fp32:
//
//   lrn                    y_c = x_c s_c^-3/4, s_c = k + (alpha / size) sum of x_c'^2; and gx
//   softmax cross-entropy  loss_n = log sum_k e^(l_nk) - l_n,label, probs; glogits
//   batch norm             y = relu(gamma (x - mean) / sqrt(var + eps) + beta); gx, ggamma, gbeta
//   dropout                y = x keep / (1 - p), keep from Philox4x32-10 by place; backward: same
//   residual sum           y = relu(a + scale b), and the gradients of a and b
//   cast, finite check     y = x in another storage; verdict = is any element infinite or NaN
//   sgd                    v = momentum v + rate (g + decay w), w = w - v, and w's 16-bit copy
//   layout                 NCHW <-> NHWC
//
// Maps NHWC with unit channel stride and free strides of image, row and pixel; what belongs to a
// channel or a row (gamma, mean, loss, probs, ...) is fp32 in every storage. Every result is `=`.
// All sums are in a fixed order, without atomics; those of batch norm follow its split of the
// pixels, a function of the shape.
//
// The storage is a branch, uniform over the grid: once in LRN, else where a value is read or
// written.
#include "batch_norm.cuh"
#include "elementary.cuh"
#include "lrn.cuh"
#include "softmax.cuh"

#define PYI_ENTRY(NAME, ARGS, THREADS, BLOCKS, ...)             \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
      NAME(const __grid_constant__ ARGS a) {                    \
    await_launches_before();                                    \
    __VA_ARGS__;                                                \
  }
PYI_ENTRY(lrn_fprop, LrnCudaArgs, 256, 4, PYI_BY_STORAGE(lrn_fprop_body, a))
PYI_ENTRY(lrn_dgrad, LrnCudaArgs, 256, 4, PYI_BY_STORAGE(lrn_dgrad_body, a))
PYI_ENTRY(batch_norm_sums, BatchNormCudaArgs, 256, 4, batch_norm_sums_body(a))
PYI_ENTRY(batch_norm_fprop, BatchNormCudaArgs, 256, 4, batch_norm_apply<false>(a))
PYI_ENTRY(batch_norm_dgrad, BatchNormCudaArgs, 256, 4, batch_norm_apply<true>(a))
PYI_ENTRY(batch_norm_finish, BatchNormCudaArgs, 128, 8, batch_norm_finish_body(a))
PYI_ENTRY(softmax_fprop, SoftmaxCudaArgs, kSoftmaxThreads, 8, softmax_fprop_body(a))
PYI_ENTRY(softmax_backward, SoftmaxCudaArgs, 256, 4, softmax_backward_body(a))
PYI_ENTRY(add_scaled, AddScaledCudaArgs, 256, 4, add_scaled_body(a))
PYI_ENTRY(dropout, DropoutCudaArgs, 256, 4, dropout_body(a))
PYI_ENTRY(cast, CastCudaArgs, 256, 4, cast_body(a))
PYI_ENTRY(check_finite, FiniteCudaArgs, 256, 4, finite_body(a))
PYI_ENTRY(sgd, SgdCudaArgs, 256, 4, sgd_body(a))
PYI_ENTRY(layout, LayoutCudaArgs, 256, 4, layout_body(a))

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "elementary_plan.h"
#include "launcher.cuh"

static_assert(kBatchNormChannels == kSumLanes && kBatchNormPixels == kPixelsPerThread &&
                  kBatchNormShared == 2 * kSumRows * kSumLanes * 4 &&
                  kSoftmaxBlock == kSoftmaxThreads,
              "the plan's blocks are the kernels'");

PYI_ENTRY_TABLE(elementary, PYI_ELEMENTARY_ENTRIES)
#endif
