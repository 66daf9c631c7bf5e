// reduce_conv, fp32 on CUDA cores, any GPU from sm_75:
//
//   fprop     r = relu(x wr^T + br)          1x1, (N, H, W, C) -> (N, H, W, Cr)
//             y = relu(conv(r, w) + b)       KxK, (N, H, W, Cr) -> (N, P, Q, K)
//   backward  gr = conv^T(gy [y > 0], w) [r > 0],   gx = gr wr
//             gw = (gy [y > 0])^T r,  gb = sum gy [y > 0],   gwr = gr^T x,  gbr = sum gr
//
// Layout: maps NHWC with unit channel stride, any image, row and pixel stride (a branch writes its
// slice of the module's output); filters KRSC, contiguous; nothing is packed. Every result is `=`
// but gx, which is `+=` where accumulate is set: the first branch of a module writes gx, the others
// add to it. r may be null in fprop: then the reduced map exists on chip only.
//
// Sums: fprop starts at the bias and goes over taps (r, s), then channels; dgrad over taps, then
// output channels; wgrad over the pixels of a chunk, then over chunks: always ascending, one fmaf a
// term, no atomics. The bits of y, r and gx do not depend on tile, batch or device; those of the
// filter gradients on the split into chunks, which is a function of shape and batch.
// Filter gradients are launches of conv.cu's entries.
//
// This is the first rung. It pays the recomputed halo of the 1x1, in every slice of the output
// channels that a small grid is split into; dgrad of a strided convolution multiplies the zeros
// between the samples. By the plan's model two launches of conv end first (docs/performance.md), as
// modules run them. Lost: summing Cr in slices for a smaller resident tile (another order of the
// sum); packed filters (one more format, where a row's quads already are whole sectors).
#include "reduce_conv.cuh"

// ---- entries -----------------------------------------------------------------------------------
// (128, 3) allows 168 registers, (128, 4) allows 128: there the wide forms, with 32 accumulators,
// staged values and addresses, spill up to 60 bytes (ptxas 13.0).
#define PYI_ENTRY(NAME, ARGS, BLOCKS, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS) NAME(const __grid_constant__ ARGS a) { \
    await_launches_before();                                                                       \
    __VA_ARGS__(a);                                                                                \
  }
PYI_ENTRY(reduce_conv_fprop_wide, ReduceConvCudaArgs, 3, fprop<WideTile>)
PYI_ENTRY(reduce_conv_fprop_narrow, ReduceConvCudaArgs, 4, fprop<NarrowTile>)
PYI_ENTRY(reduce_conv_dgrad_wide, ReduceConvCudaArgs, 3, dgrad<WideTile>)
PYI_ENTRY(reduce_conv_dgrad_narrow, ReduceConvCudaArgs, 4, dgrad<NarrowTile>)

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "launcher.cuh"
#include "reduce_conv_plan.h"

static_assert(kBlockThreads == WideTile::kThreads && kTileRows == WideTile::kRows,
              "the plan's tile is the kernels' tile");
static_assert(kPanelFloats == 2 * WideTile::kPanelA &&
                  WideTile::kPanels - kPanelFloats == 2 * 64 * (kChannelStep + 4) &&
                  NarrowTile::kPanels - kPanelFloats == 2 * 32 * (kChannelStep + 4),
              "panel_bytes() counts the shared memory the kernels carve");

PYI_ENTRY_TABLE(reduce_conv, PYI_REDUCE_CONV_ENTRIES)
#endif
