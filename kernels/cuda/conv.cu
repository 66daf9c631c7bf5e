// Convolution on CUDA cores, any GPU from sm_75; storage fp32, bf16 or fp16, arithmetic fp32:
//
//   fprop   y_i = relu(conv(x, w_i) + b_i)            (N, H, W, C) -> (N, P, Q, K_i)
//   dgrad   gx = sum_i conv^T(gy_i [y_i > 0], w_i)    (N, P, Q, K_i) -> (N, H, W, C)
//   wgrad   gw = (gy [y > 0])^T x,  gb = sum gy [y > 0]
//
// Any filter and stride up to 64, any padding up to 63, any C and K, no alignment asked of a slice.
// One to four panels i share a launch: siblings that read the same x. In dgrad they are summed, so
// a module's gx is written once. Layout: maps NHWC with unit channel stride and free strides of
// image, row and pixel; filters KRSC, contiguous; bias, gw and gb are fp32 in every storage. Every
// result is `=` but gx, which is `+=` where accumulate is set. A linear layer is a 1x1 on a 1x1
// map.
//
// Sums: fprop starts at the bias and goes over the filter's row (r, s, c); dgrad over panels, the
// taps that lead to an output, output channels; wgrad over the pixels of a chunk, then over chunks:
// always ascending, one fmaf a term, no atomics. The bits of y and gx do not depend on tile, batch
// or device; those of gw on the split into chunks, which is a function of shape and batch.
//
// Lost: a by-tap loop in fprop (C = 3 of the first layer fills 3 of 16 steps); dgrad over all taps
// with zeros between strided outputs (3 of 4 products at stride 2); filters of siblings stacked in
// memory (a copy of the weights, where the panel's own pointer does).
#include "conv.cuh"
#include "conv_wgrad.cuh"

#define PYI_ENTRY(NAME, ARGS, BLOCKS, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS) NAME(const __grid_constant__ ARGS a) { \
    await_launches_before();                                                                       \
    __VA_ARGS__(a);                                                                                \
  }
#define PYI_STORED_ENTRIES(NAME, ARGS, BLOCKS, BODY, TILE) \
  PYI_ENTRY(NAME##_f32, ARGS, BLOCKS, BODY<TILE, float>)   \
  PYI_ENTRY(NAME##_bf16, ARGS, BLOCKS, BODY<TILE, bf16>)   \
  PYI_ENTRY(NAME##_f16, ARGS, BLOCKS, BODY<TILE, f16>)
// (128, 4) allows 128 registers; there dgrad in 16 bits spills on sm_120 (ptxas 13.0).
PYI_STORED_ENTRIES(conv_fprop_wide, ConvCudaArgs, 4, conv_fprop, WideTile)
PYI_STORED_ENTRIES(conv_fprop_narrow, ConvCudaArgs, 4, conv_fprop, NarrowTile)
PYI_STORED_ENTRIES(conv_dgrad_wide, ConvCudaArgs, 3, conv_dgrad, WideTile)
PYI_STORED_ENTRIES(conv_dgrad_narrow, ConvCudaArgs, 4, conv_dgrad, NarrowTile)
PYI_STORED_ENTRIES(conv_wgrad_wide, ConvWgradCudaArgs, 4, conv_wgrad, WideTile)
PYI_STORED_ENTRIES(conv_wgrad_narrow, ConvWgradCudaArgs, 4, conv_wgrad, NarrowTile)

extern "C" __global__ void __launch_bounds__(256, 4)
    conv_sum_chunks(const __grid_constant__ SumChunksCudaArgs a) {
  await_launches_before();
  sum_chunks_body(a);
}

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "conv_plan.h"
#include "launcher.cuh"

static_assert(kBlockThreads == WideTile::kThreads && kTileRows == WideTile::kRows &&
                  4 * WideTile::kPanels <= 24 * 1024,
              "the plan's tile is the kernels' tile");

PYI_ENTRY_TABLE(conv, PYI_CONV_ENTRIES)
#endif
