// From the records of conv_mma.cu to launches. Plain C++.
#pragma once
#include "conv_plan.h"
#include "mma_plan.h"

enum ConvMmaEntry {
  kConvMma = 0,                                    // + type * kMmaShapeCount + shape
  kConvWgradMma = kMmaTypeCount * kMmaShapeCount,  // + type
  kMaskUnits = kConvWgradMma + kMmaTypeCount,
  kFlipFilters,
  kPadMaps,
  kConvMmaEntryCount
};
// clang-format off
#define PYI_CONV_MMA_ENTRIES(X)                                         \
  X(conv_mma_tf32_wide) X(conv_mma_tf32_tall) X(conv_mma_tf32_flat)     \
  X(conv_mma_bf16_wide) X(conv_mma_bf16_tall) X(conv_mma_bf16_flat)     \
  X(conv_mma_fp16_wide) X(conv_mma_fp16_tall) X(conv_mma_fp16_flat)     \
  X(conv_wgrad_mma_tf32) X(conv_wgrad_mma_bf16) X(conv_wgrad_mma_fp16)  \
  X(mask_units) X(flip_filters) X(pad_maps)
// clang-format on
constexpr const char* kConvMmaEntries[] = {PYI_CONV_MMA_ENTRIES(PYI_NAME)};
static_assert(sizeof kConvMmaEntries / sizeof *kConvMmaEntries == kConvMmaEntryCount,
              "a name for every entry");

using ConvMmaPlan = MmaPlan<ConvMmaArgs>;
using ConvWgradMmaPlan = MmaPlan<ConvWgradMmaArgs>;
using MaskMmaPlan = MmaPlan<MaskMmaArgs>;
using FlipFiltersMmaPlan = MmaPlan<FlipFiltersMmaArgs>;
using PadMapsMmaPlan = MmaPlan<PadMapsMmaArgs>;

// ---- fprop and dgrad ---------------------------------------------------------------------------
// The convolution that is the dgrad of `f`, without pointers and outputs: x is gy, w the flipped
// filter. gx[h] = sum over r of gy[(h + pad - r) / stride] w[r] where the division is exact.
inline ConvMmaArgs dgrad_of(const ConvMmaArgs& f) {
  ConvMmaArgs d{};
  d.N = f.N, d.H = f.P, d.W = f.Q, d.C = f.K, d.K = f.C, d.R = f.R, d.S = f.S, d.P = f.H, d.Q = f.W;
  d.stride_h = d.stride_w = 1, d.pad_h = f.R - 1 - f.pad_h, d.pad_w = f.S - 1 - f.pad_w;
  d.step_h = f.stride_h, d.step_w = f.stride_w;
  d.type = f.type, d.shared_limit = f.shared_limit, d.multiprocessors = f.multiprocessors;
  return d;
}

inline bool check_outputs(const ConvMmaArgs& a, int unit, CudaStatus& why) {
  if (a.output_count < 1 || a.output_count > 4)
    why << "output_count is " << a.output_count << ", expected 1..4";
  if (!why && a.output_count > 1 && (a.mask || a.accumulate))
    why << "output_count is " << a.output_count << ", expected 1 with a mask or accumulate";
  int columns = 0;
  for (int i = 0; i < a.output_count && !why; i++) {
    const MmaOutput& o = a.outputs[i];
    if (o.first != columns || o.count < 1)
      why << "output " << i << " takes " << o.count << " columns from " << o.first
          << ", expected some from " << columns;
    else if (a.N > 0 && !o.y)
      why << "output " << i << " is null";
    else if (check_channels(why, "count of an output", o.count, unit))
      check_map(why, "an output", o.y, o.strides, a.N, a.P, a.Q, o.count, unit);
    columns += o.count;
  }
  if (!why && columns != a.K) why << "the outputs take " << columns << " columns, expected " << a.K;
  return !why;
}

inline CudaStatus plan_conv_mma(const ConvMmaArgs& asked, ConvMmaPlan& plan, int only = kAnyShape) {
  const MmaChoice choice(only);
  plan = ConvMmaPlan{};
  plan.args = asked;
  ConvMmaArgs& a = plan.args;
  CudaStatus why;
  const char* const names[] = {"H", "W", "C", "K", "P", "Q", "step_h", "step_w", "multiprocessors"};
  const int values[] = {a.H, a.W, a.C, a.K, a.P, a.Q, a.step_h, a.step_w, a.multiprocessors};
  if (a.N < 0) why << "N is " << a.N << ", expected at least 0";
  if (why || !check_extents(why, names, values, 9) || !check_type(why, a.type, true)) return why;
  // dgrad has paddings of R - 1 - pad, below zero where the pad was larger than needed
  const int pads[] = {a.pad_h < 0 ? -a.pad_h : a.pad_h, a.pad_w < 0 ? -a.pad_w : a.pad_w};
  if (!check_windows(why, a.H, a.W, a.R, a.S, a.stride_h, a.stride_w, pads[0], pads[1]) ||
      !check_windows(why, a.P, a.Q, 1, 1, a.step_h, a.step_w, 0, 0))
    return why;
  const int reach_h = (a.P - 1) * a.stride_h + a.R + 64,
            reach_w = (a.Q - 1) * a.stride_w + a.S + 64;
  if (reach_h > 32767 || reach_w > 32767) {
    why << "the windows reach pixel " << (reach_h > reach_w ? reach_h : reach_w)
        << ", expected at most 32767";
    return why;
  }
  const int unit = unit_elements(a.type);
  if (!check_channels(why, "C", a.C, unit) || !check_channels(why, "K", a.K, unit) ||
      !check_map(why, "x", a.x, a.x_strides, a.N, a.H, a.W, a.C, unit) ||
      (a.mask && !check_map(why, "mask", a.mask, a.mask_strides, a.N, a.P, a.Q, a.K, unit)) ||
      !check_outputs(a, unit, why))
    return why;
  if ((long long)a.N * a.P * a.Q > kMaxElements)
    why << "the outputs have " << (long long)a.N * a.P * a.Q << " pixels, expected at most "
        << kMaxElements;
  if (why || a.N == 0) return why;
  if (!a.x) why << "x is null";
  if (why || !check_array(why, "w", a.w, (long long)a.K * a.R * a.S * a.C)) return why;

  a.pixels = a.N * a.P * a.Q, a.units = a.R * a.S * (a.C / unit);
  a.map_pixels = make_divisor(a.P * a.Q), a.map_w = make_divisor(a.Q);
  a.channel_units = make_divisor(a.C / unit), a.filter_w = make_divisor(a.S);
  a.dilation_h = make_divisor(a.step_h), a.dilation_w = make_divisor(a.step_w);
  for (int shape = choice.first; shape <= choice.last; shape++) {
    const MmaShape s = mma_shape(a.type, shape);
    const int column_tiles = ceil_div(a.K, s.columns);
    const long long blocks = (long long)ceil_div(a.pixels, s.rows) * column_tiles;
    MmaCost cost{};
    add_gemm(s, s.rows, a.K < s.columns ? a.K : s.columns, a.units, unit, true, cost);
    const double clocks =
        mma_clocks(s, cost, blocks, a.multiprocessors, a.shared_limit, s.ring_bytes());
    if (s.ring_bytes() > a.shared_limit || blocks > kMaxElements ||
        (plan.clocks > 0 && clocks >= plan.clocks))
      continue;
    plan.clocks = clocks, a.column_tiles = make_divisor(column_tiles);
    plan.count = 0;
    plan.launch(a.type == kMmaFp16Sm75
                    ? kMmaSm75Entries[kMmaShapeCount + shape]
                    : kConvMmaEntries[kConvMma + a.type * kMmaShapeCount + shape],
                blocks, 1, s.threads, s.ring_bytes());
  }
  if (plan.count == 0)
    why << "a block needs " << mma_shape(a.type, choice.last).ring_bytes()
        << " bytes of shared memory, expected at most " << a.shared_limit;
  return why;
}

// ---- wgrad -------------------------------------------------------------------------------------
constexpr int kWgradRows = 64, kWgradColumns = 128, kWgradRing = 36864;

// Pixels of a chunk: about two blocks on each of 132 multiprocessors, at most 64 chunks and none
// under 256 pixels. A function of shape and batch: the split is part of the sum's order. (4e's 3x3
// at batch 256 gets 5: at 32 the partial sums would take half as long as the products.)
inline int mma_chunk_extent(int pixels, int blocks_per_chunk) {
  int chunks = ceil_div(264, blocks_per_chunk);
  if (chunks > 64) chunks = 64;
  const int extent = round_up(ceil_div(pixels, chunks), 32);
  return extent < 256 ? 256 : extent;
}

// Set size_only for the dry run: pointers may be null, and
// plan.workspace_bytes is the answer.
inline CudaStatus plan_conv_wgrad_mma(const ConvWgradMmaArgs& asked, bool size_only,
                                      ConvWgradMmaPlan& plan) {
  plan = ConvWgradMmaPlan{};
  plan.args = asked;
  ConvWgradMmaArgs& a = plan.args;
  CudaStatus why;
  const char* const names[] = {"H", "W", "C", "K", "P", "Q"};
  const int values[] = {a.H, a.W, a.C, a.K, a.P, a.Q};
  if (a.N < 0) why << "N is " << a.N << ", expected at least 0";
  if (why || !check_extents(why, names, values, 6) || !check_type(why, a.type) ||
      !check_windows(why, a.H, a.W, a.R, a.S, a.stride_h, a.stride_w, a.pad_h, a.pad_w))
    return why;
  const int P = output_extent(a.H, a.R, a.stride_h, a.pad_h);
  const int Q = output_extent(a.W, a.S, a.stride_w, a.pad_w);
  // fewer where a map of few channels was padded: its last windows may be none of the caller's
  if (a.P > P || a.Q > Q) {
    why << "P x Q is " << a.P << " x " << a.Q << ", expected at most " << P << " x " << Q;
    return why;
  }
  const int unit = unit_elements(a.type);
  const long long filter_count = (long long)a.K * a.R * a.S * a.C, count = filter_count + a.K;
  const long long pixels = (long long)a.N * a.P * a.Q;
  if (!check_channels(why, "C", a.C, unit) || !check_channels(why, "K", a.K, unit) ||
      !check_map(why, "gy", a.gy, a.gy_strides, a.N, a.P, a.Q, a.K, unit) ||
      !check_map(why, "x", a.x, a.x_strides, a.N, a.H, a.W, a.C, unit))
    return why;
  if (pixels > kMaxElements || count > kMaxElements)
    why << "there are " << pixels << " pixels and " << count << " gradients, expected at most "
        << kMaxElements;
  if (!why && a.shared_limit < kWgradRing)
    why << "a block needs " << kWgradRing << " bytes of shared memory, expected at most "
        << a.shared_limit;
  if (why) return why;

  a.units = a.R * a.S * (a.C / unit);
  const int columns = ceil_div(a.units * unit, kWgradColumns), rows = ceil_div(a.K, kWgradRows);
  a.pixels = (int)pixels, a.chunk_pixels = mma_chunk_extent(a.pixels, rows * columns);
  a.chunks = a.pixels > 0 ? ceil_div(a.pixels, a.chunk_pixels) : 1;
  const long long stride = (count + 3) / 4 * 4, bytes = a.chunks > 1 ? 4 * stride * a.chunks : 0;
  plan.workspace_bytes = bytes;
  if (stride * a.chunks > kMaxElements)
    why << "the chunks have " << stride * a.chunks << " sums, expected at most " << kMaxElements;
  if (why || size_only) return why;
  if (!a.gw || (a.N > 0 && (!a.gy || !a.x)))
    why << (!a.gw ? "gw" : !a.gy ? "gy" : "x") << " is null";
  if (!why && (unsigned long long)a.gw % 16)
    why << "gw begins " << (int)((unsigned long long)a.gw % 16)
        << " bytes past a multiple of 16, expected 0";
  if (!why && bytes > 0 &&
      (!a.workspace || (unsigned long long)a.workspace % 16 || a.workspace_bytes < bytes))
    why << "the workspace has " << (a.workspace ? a.workspace_bytes : 0) << " bytes, expected "
        << bytes << " that begin on a multiple of 16";
  if (why) return why;

  a.chunk_stride = (int)stride;
  a.map_pixels = make_divisor(a.P * a.Q), a.map_w = make_divisor(a.Q);
  a.channel_units = make_divisor(a.C / unit), a.filter_w = make_divisor(a.S);
  a.column_tiles = make_divisor(columns);
  plan.sum = {a.workspace, a.gw, a.gb, a.chunks, a.chunk_stride, (int)filter_count, (int)count};
  if (a.chunks > 1) {
    a.gw = a.workspace;
    if (a.gb) a.gb = a.workspace + filter_count;
  }
  plan.launch(kConvMmaEntries[kConvWgradMma + a.type], rows * columns, a.chunks, 128, kWgradRing);
  if (a.chunks > 1) {
    if (!a.gb) plan.sum.count = plan.sum.filter_count;
    plan.launches[plan.count++] = {kConvEntries[kConvSumChunks],
                                   (unsigned)ceil_div(plan.sum.count, 256),
                                   1,
                                   1,
                                   256,
                                   0,
                                   &plan.sum,
                                   sizeof(plan.sum)};
  }
  return why;
}

// ---- small kernels ------------------------------------------------------------------------------
inline bool check_pitch(CudaStatus& why, int& pitch, int channels, int unit) {
  if (pitch == 0) pitch = channels;
  if (pitch < channels || pitch % unit)
    why << "out_pitch is " << pitch << ", expected a multiple of " << unit << " from " << channels;
  return !why;
}

inline CudaStatus plan_mask_mma(const MaskMmaArgs& asked, MaskMmaPlan& plan) {
  plan = MaskMmaPlan{};
  plan.args = asked;
  MaskMmaArgs& a = plan.args;
  CudaStatus why;
  const char* const names[] = {"P", "Q", "K"};
  const int values[] = {a.P, a.Q, a.K}, unit = unit_elements(a.type);
  const long long pixels = (long long)a.N * a.P * a.Q;
  if (a.N < 0) why << "N is " << a.N << ", expected at least 0";
  if (why || !check_extents(why, names, values, 3) || !check_type(why, a.type) ||
      !check_channels(why, "K", a.K, unit) ||
      !check_map(why, "gy", a.gy, a.gy_strides, a.N, a.P, a.Q, a.K, unit) ||
      !check_map(why, "y", a.y, a.y_strides, a.N, a.P, a.Q, a.K, unit) ||
      !check_pitch(why, a.out_pitch, a.K, unit))
    return why;
  if (a.N == 0) return why;
  if (!a.gy || !a.y) why << (a.gy ? "y" : "gy") << " is null";
  if (why || !check_array(why, "out", a.out, pixels * a.out_pitch)) return why;
  a.count = (int)(pixels * a.K / unit);
  a.channel_units = make_divisor(a.K / unit);
  a.map_pixels = make_divisor(a.P * a.Q), a.map_w = make_divisor(a.Q);
  plan.launch(kConvMmaEntries[kMaskUnits], ceil_div(a.count, 256), 1, 256, 0);
  return why;
}

inline CudaStatus complete_flip(FlipFilterMmaArgs& a) {
  CudaStatus why;
  const char* const names[] = {"K", "R", "S", "C"};
  const int values[] = {a.K, a.R, a.S, a.C}, unit = unit_elements(a.type);
  const long long lines = (long long)a.R * a.S * a.C;
  if (!check_extents(why, names, values, 4) || !check_type(why, a.type) ||
      !check_channels(why, "K", a.K, unit) || !check_pitch(why, a.out_pitch, a.K, unit) ||
      !check_array(why, "w", a.w, lines * a.K) ||
      !check_array(why, "out", a.out, (lines - 1) * a.out_pitch + a.K))
    return why;
  a.count = (int)(lines * a.K / unit);
  a.channel_units = make_divisor(a.K / unit), a.taps = make_divisor(a.R * a.S);
  return why;
}

inline CudaStatus plan_flip_filters_mma(const FlipFiltersMmaArgs& asked, FlipFiltersMmaPlan& plan) {
  plan = FlipFiltersMmaPlan{};
  plan.args = asked;
  CudaStatus why;
  if (asked.filter_count < 1 || asked.filter_count > 6) {
    why << "filter_count is " << asked.filter_count << ", expected 1..6";
    return why;
  }
  int most = 0;
  for (int i = 0; i < asked.filter_count; i++) {
    const CudaStatus status = complete_flip(plan.args.filters[i]);
    if (status) {
      why << "filter " << i << ": " << status.text;
      return why;
    }
    if (most < plan.args.filters[i].count) most = plan.args.filters[i].count;
  }
  plan.launch(kConvMmaEntries[kFlipFilters], ceil_div(most, 256), asked.filter_count, 256, 0);
  return why;
}

// One map checked and completed.
inline CudaStatus complete_pad(PadMapMma& a, int type, bool crop) {
  CudaStatus why;
  const char* const names[] = {"H", "W", "C", "columns"};
  const int values[] = {a.H, a.W, a.C, a.columns}, unit = unit_elements(type);
  if (a.N < 0) why << "N is " << a.N << ", expected at least 0";
  if (why || !check_extents(why, names, values, 4)) return why;
  if ((a.channels != 4 && a.channels != 8) || a.C > a.channels)
    why << "channels is " << a.channels << " for C = " << a.C << ", expected 4 or 8 of at least C";
  else if ((long long)a.columns * a.channels % unit)
    why << "columns x channels is " << a.columns << " x " << a.channels
        << ", expected a multiple of " << unit;
  else if (a.front < 0 || a.columns < a.front + a.W)
    why << "columns is " << a.columns << " behind " << a.front << " of front, expected at least "
        << a.front + (long long)a.W;
  if (!why && !crop && negative(a.strides)) why << "narrow has a negative stride";
  const long long lines = (long long)a.N * a.H;
  if (why || a.N == 0) return why;
  if (!a.narrow) why << "narrow is null";
  if (why || !check_array(why, "wide", a.wide, lines * a.columns * a.channels)) return why;
  if (!crop && !fits(a.strides, a.N, a.H, a.W, a.C))
    why << "narrow spans more than " << kMaxElements << " elements";
  const int line = crop ? a.W * a.C : a.columns * a.channels / unit;
  a.count = (int)(lines * line);
  a.line = make_divisor(line), a.map_h = make_divisor(a.H), a.channel = make_divisor(a.C);
  return why;
}

inline CudaStatus plan_pad_maps_mma(const PadMapsMmaArgs& asked, PadMapsMmaPlan& plan) {
  plan = PadMapsMmaPlan{};
  plan.args = asked;
  CudaStatus why;
  if (!check_type(why, asked.type)) return why;
  if (asked.crop && asked.type != kMmaTf32)
    why << "type is " << asked.type << ", expected 0 (fp32): gradients are cropped";
  else if (asked.map_count < 1 || asked.map_count > 2)
    why << "map_count is " << asked.map_count << ", expected 1..2";
  int most = 0;
  for (int i = 0; i < asked.map_count && !why; i++) {
    const CudaStatus status = complete_pad(plan.args.maps[i], asked.type, asked.crop);
    if (status) why << "map " << i << ": " << status.text;
    if (most < plan.args.maps[i].count) most = plan.args.maps[i].count;
  }
  if (why || most == 0) return why;
  plan.launch(kConvMmaEntries[kPadMaps], ceil_div(most, 256), asked.map_count, 256, 0);
  return why;
}
