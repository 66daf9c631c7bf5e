// From what is asked (ConvCudaArgs) to launches as data. Plain C++, no CUDA header.
#pragma once
#include "conv_wgrad_plan.h"

// An entry is a kernel of this list plus the storage: fp32, bf16, fp16.
enum ConvKernel {
  kConvFpropWide = 0,
  kConvFpropNarrow = 3,
  kConvDgradWide = 6,
  kConvDgradNarrow = 9,
  kConvWgradWide = 12,
  kConvWgradNarrow = 15,
  kConvSumChunks = 18,
  kConvEntryCount
};
// clang-format off
#define PYI_CONV_ENTRIES(X)                                              \
  PYI_STORED(X, conv_fprop_wide) PYI_STORED(X, conv_fprop_narrow)        \
  PYI_STORED(X, conv_dgrad_wide) PYI_STORED(X, conv_dgrad_narrow)        \
  PYI_STORED(X, conv_wgrad_wide) PYI_STORED(X, conv_wgrad_narrow)        \
  X(conv_sum_chunks)
// clang-format on
constexpr const char* kConvEntries[] = {PYI_CONV_ENTRIES(PYI_NAME)};
static_assert(sizeof kConvEntries / sizeof *kConvEntries == kConvEntryCount,
              "a name for every entry");

struct ConvPlan {
  ConvCudaArgs args;
  ConvWgradCudaArgs wgrad;
  SumChunksCudaArgs sum;
  CudaLaunch launches[2];
  int count;
  long long workspace_bytes;
};

enum class ConvDirection { kFprop, kDgrad, kWgrad };

// Checks what the directions share and derives the extents; the panels' maps are those the
// direction reads or writes.
inline CudaStatus complete(ConvCudaArgs& a, ConvDirection direction) {
  if (a.storage < 0 || a.storage > 2) return kCudaBadStorage;
  if (a.N < 0 || a.H < 1 || a.W < 1 || a.C < 1) return kCudaBadExtent;
  if (a.panel_count < 1 || a.panel_count > 4) return kCudaBadExtent;
  const int geometry[] = {a.R, a.S, a.stride_h, a.stride_w, a.pad_h + 1, a.pad_w + 1};
  for (int v : geometry)
    if (v < 1 || v > 64) return kCudaBadGeometry;
  if (!fits(a.N + 1ll, (a.H + 128ll) * (a.W + 128))) return kCudaTooLarge;
  a.P = output_extent(a.H, a.R, a.stride_h, a.pad_h);
  a.Q = output_extent(a.W, a.S, a.stride_w, a.pad_w);
  if (a.P == 0 || a.Q == 0) return kCudaNoOutput;

  const bool fprop = direction == ConvDirection::kFprop, dgrad = direction == ConvDirection::kDgrad;
  const CudaStrides& map = dgrad ? a.gx_strides : a.x_strides;
  if (negative(map)) return kCudaBadStrides;
  if (!fits(map, a.N, a.H, a.W, a.C)) return kCudaTooLarge;
  for (int i = 0; i < a.panel_count; i++) {
    const ConvCudaPanel& p = a.panels[i];
    if (p.K < 1) return kCudaBadExtent;
    if (negative(p.y_strides) || (!fprop && negative(p.gy_strides))) return kCudaBadStrides;
    if (!fits(p.y_strides, a.N, a.P, a.Q, p.K) ||
        (!fprop && !fits(p.gy_strides, a.N, a.P, a.Q, p.K)) ||
        !fits(p.K + 64ll, (long long)a.R * a.S * a.C))
      return kCudaTooLarge;
  }
  a.channels = make_divisor(a.C), a.filter_w = make_divisor(a.S);
  a.step_h = make_divisor(a.stride_h), a.step_w = make_divisor(a.stride_w);
  return kCudaOk;
}

// Rows of the launch: `height` x `width` pixels of each image.
inline void set_rows(ConvCudaArgs& a, int height, int width) {
  a.pixels = a.N * height * width;
  a.map_pixels = make_divisor(height * width), a.map_w = make_divisor(width);
}

// Of the two tiles, with this many of columns each. Small grids take the narrow one: twice the
// blocks.
inline bool fewer_clocks_narrow(const ConvCudaArgs& a, double wide, double narrow) {
  const double rows = ceil_div(a.pixels, kTileRows);
  return tile_clocks(rows * narrow, 1, 32) < tile_clocks(rows * wide, 1, 64);
}

inline CudaStatus plan_conv_fprop(const ConvCudaArgs& asked, ConvPlan& plan) {
  plan = ConvPlan{};
  ConvCudaArgs& a = plan.args;
  a = asked;
  if (const CudaStatus status = complete(a, ConvDirection::kFprop)) return status;
  if (a.N == 0) return kCudaOk;
  if (!a.x) return kCudaMissingArray;
  set_rows(a, a.P, a.Q);
  double wide = 0, narrow = 0;
  for (int i = 0; i < a.panel_count; i++) {
    if (!a.panels[i].w || !a.panels[i].y) return kCudaMissingArray;
    wide += ceil_div(a.panels[i].K, 64), narrow += ceil_div(a.panels[i].K, 32);
  }
  const bool is_narrow = fewer_clocks_narrow(a, wide, narrow);
  const int columns = is_narrow ? 32 : 64;
  int tiles = 0;
  for (int i = 0; i < a.panel_count; i++) {
    a.panels[i].first_tile = tiles;
    tiles += ceil_div(a.panels[i].K, columns);
  }
  if (tiles > 65535) return kCudaTooLarge;
  plan.launches[plan.count++] = {
      kConvEntries[(is_narrow ? kConvFpropNarrow : kConvFpropWide) + a.storage],
      (unsigned)ceil_div(a.pixels, kTileRows),
      (unsigned)tiles,
      1,
      kBlockThreads,
      (unsigned)panel_bytes(columns),
      &plan.args,
      sizeof(plan.args)};
  return kCudaOk;
}

inline CudaStatus plan_conv_dgrad(const ConvCudaArgs& asked, ConvPlan& plan) {
  plan = ConvPlan{};
  ConvCudaArgs& a = plan.args;
  a = asked;
  if (const CudaStatus status = complete(a, ConvDirection::kDgrad)) return status;
  if (a.N == 0) return kCudaOk;
  if (!a.gx) return kCudaMissingArray;
  for (int i = 0; i < a.panel_count; i++)
    if (!a.panels[i].w || !a.panels[i].gy) return kCudaMissingArray;
  set_rows(a, ceil_div(a.H, a.stride_h), ceil_div(a.W, a.stride_w));
  const int planes = a.stride_h * a.stride_w;
  const bool is_narrow =
      fewer_clocks_narrow(a, planes * ceil_div(a.C, 64), planes * ceil_div(a.C, 32));
  const int columns = is_narrow ? 32 : 64, tiles = ceil_div(a.C, columns);
  if (tiles > 65535) return kCudaTooLarge;
  plan.launches[plan.count++] = {
      kConvEntries[(is_narrow ? kConvDgradNarrow : kConvDgradWide) + a.storage],
      (unsigned)ceil_div(a.pixels, kTileRows),
      (unsigned)tiles,
      (unsigned)planes,
      kBlockThreads,
      (unsigned)panel_bytes(columns),
      &plan.args,
      sizeof(plan.args)};
  return kCudaOk;
}

// Of the first panel. Set size_only for the dry run: pointers may be null, and
// plan.workspace_bytes is the answer.
inline CudaStatus plan_conv_wgrad(const ConvCudaArgs& asked, bool size_only, ConvPlan& plan) {
  plan = ConvPlan{};
  ConvCudaArgs& a = plan.args;
  a = asked, a.panel_count = 1;
  if (const CudaStatus status = complete(a, ConvDirection::kWgrad)) return status;
  const ConvCudaPanel& p = a.panels[0];
  if (!size_only) {
    if (!a.gw || (a.N > 0 && (!a.x || !p.gy))) return kCudaMissingArray;
    if ((unsigned long long)a.workspace & 15) return kCudaWorkspace;
  }
  ConvWgradCudaArgs& g = plan.wgrad;
  g.gy = p.gy, g.y = p.y, g.x = a.x;
  g.H = a.H, g.W = a.W, g.C = a.C, g.K = p.K, g.R = a.R, g.S = a.S;
  g.stride_h = a.stride_h, g.stride_w = a.stride_w, g.pad_h = a.pad_h, g.pad_w = a.pad_w;
  g.gy_strides = p.gy_strides, g.y_strides = p.y_strides, g.x_strides = a.x_strides;
  CudaArena arena{size_only ? 0 : (unsigned long long)a.workspace, 0};
  const WgradSlot slot{plan.wgrad,
                       plan.sum,
                       plan.launches,
                       plan.count,
                       kConvEntries[kConvWgradWide + a.storage],
                       kConvEntries[kConvWgradNarrow + a.storage],
                       kConvEntries[kConvSumChunks]};
  if (const CudaStatus status = plan_wgrad(slot, a.N, a.P, a.Q, a.gw, a.gb, arena)) return status;
  plan.workspace_bytes = (long long)arena.used;
  if (!size_only && arena.used > 0 && (!a.workspace || plan.workspace_bytes > a.workspace_bytes))
    return kCudaWorkspace;
  return kCudaOk;
}
