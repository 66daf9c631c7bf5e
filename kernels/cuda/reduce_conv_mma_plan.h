// From ReduceConvMmaArgs to one launch: which tile, how many images or rows of one a block takes,
// and into how many slices the output channels are cut. Plain C++.
//
// The choice follows (shape, batch, multiprocessors); the bits do not: every output is summed over
// the same units in the same order under every tile.
#pragma once
#include "mma_plan.h"

// type * kMmaShapeCount + shape
// clang-format off
#define PYI_REDUCE_CONV_MMA_ENTRIES(X)                                                    \
  X(reduce_conv_mma_tf32_wide) X(reduce_conv_mma_tf32_tall) X(reduce_conv_mma_tf32_flat)  \
  X(reduce_conv_mma_bf16_wide) X(reduce_conv_mma_bf16_tall) X(reduce_conv_mma_bf16_flat)  \
  X(reduce_conv_mma_fp16_wide) X(reduce_conv_mma_fp16_tall) X(reduce_conv_mma_fp16_flat)
// clang-format on
constexpr const char* kReduceConvMmaEntries[] = {PYI_REDUCE_CONV_MMA_ENTRIES(PYI_NAME)};

using ReduceConvMmaPlan = MmaPlan<ReduceConvMmaArgs>;

// ---- the reduced tile ---------------------------------------------------------------------------
// Odd pixels, and rows (images) that go on where P Q (the image) ends, modulo 8 units.
inline void lay_out_reduced(ReduceConvMmaArgs& a, int unit) {
  const int right = (a.Q - 1) * a.stride_w - a.pad_w + a.S - a.W;
  const int halo = right > a.pad_w ? right : a.pad_w;
  a.pixel_units = a.Cr / unit | 1;
  a.row_units = (a.W + halo) * a.pixel_units;
  for (int i = 0; i < 8; i++)
    if ((a.stride_h * (a.row_units + i) - a.Q * a.stride_w * a.pixel_units) % 8 == 0) {
      a.row_units += i;
      break;
    }
  a.image_units = a.halo_h * a.row_units;
  while ((a.image_units - a.tile_p * a.stride_h * a.row_units) % 8) a.image_units++;
  a.origin_units = a.pad_w > 0 ? a.pad_w * a.pixel_units : 1;
  a.reduced_units = a.origin_units + a.tile_images * a.image_units;
}

inline long long reduce_conv_mma_bytes(const ReduceConvMmaArgs& a, const MmaShape& shape) {
  return shape.ring_bytes() + 16ll * a.reduced_units + 4ll * round_up(a.conv_units, 4);
}

// ---- the plan ----------------------------------------------------------------------------------
inline MmaCost reduce_conv_mma_cost(const ReduceConvMmaArgs& a, const MmaShape& s, int unit) {
  MmaCost cost{};
  const int rows = a.halo_h < a.H ? a.halo_h : a.H;
  add_gemm(s, a.tile_images * rows * a.W, a.Cr, a.reduce_units, unit, true, cost);
  add_gemm(s, a.tile_images * a.tile_p * a.Q, a.slice, a.conv_units, unit, false, cost);
  return cost;
}

inline void choose_mma_tile(const ReduceConvMmaArgs& asked, int unit, MmaChoice choice,
                            ReduceConvMmaPlan& plan, long long& least_bytes) {
  plan.clocks = 0, least_bytes = 0;
  for (int shape = choice.first; shape <= choice.last; shape++)
    for (int images = 1; images <= 4; images *= 2)
      for (int cuts = 1; cuts <= asked.P; cuts++) {
        const MmaShape s = mma_shape(asked.type, shape);
        ReduceConvMmaArgs a = asked;
        a.tile_images = images, a.tile_p = ceil_div(a.P, cuts);
        a.halo_h = halo_extent(a.tile_p, a.R, a.stride_h);
        const int bands = tiles_along(a.P, a.H, a.tile_p, a.R, a.stride_h, a.pad_h, a.r != nullptr);
        if (cuts > 1 && a.tile_p == ceil_div(a.P, cuts - 1)) continue;
        if (images > 1 && (bands > 1 || images > a.N)) continue;
        lay_out_reduced(a, unit);
        const long long bytes = reduce_conv_mma_bytes(a, s);
        if (least_bytes == 0 || bytes < least_bytes) least_bytes = bytes;
        if (bytes > a.shared_limit) continue;
        a.bands = make_divisor(bands);
        for (int slices = 1; slices <= 64 && slices <= ceil_div(a.K, 8 * s.warps_n); slices++) {
          a.slice = round_up(ceil_div(a.K, slices), 8 * s.warps_n);
          if (ceil_div(a.K, a.slice) != slices) continue;
          const long long blocks = (long long)ceil_div(a.N, images) * bands * slices;
          const double clocks = mma_clocks(s, reduce_conv_mma_cost(a, s, unit), blocks,
                                           a.multiprocessors, a.shared_limit, bytes);
          if (blocks > kMaxElements || (plan.clocks > 0 && clocks >= plan.clocks)) continue;
          plan.clocks = clocks, plan.args = a, plan.args.slices = make_divisor(slices);
          plan.count = 0;
          plan.launch(a.type == kMmaFp16Sm75
                          ? kMmaSm75Entries[shape]
                          : kReduceConvMmaEntries[a.type * kMmaShapeCount + shape],
                      blocks, 1, s.threads, bytes);
        }
      }
}

// Fills the plan, or declines.
inline CudaStatus plan_reduce_conv_mma(const ReduceConvMmaArgs& asked, ReduceConvMmaPlan& plan,
                                       int shape = kAnyShape) {
  plan = ReduceConvMmaPlan{};
  plan.args = asked;
  ReduceConvMmaArgs& a = plan.args;
  CudaStatus why;
  const char* const names[] = {"H", "W", "C", "Cr", "K", "shared_limit", "multiprocessors"};
  const int values[] = {a.H, a.W, a.C, a.Cr, a.K, a.shared_limit, a.multiprocessors};
  if (a.N < 0) why << "N is " << a.N << ", expected at least 0";
  if (why || !check_extents(why, names, values, 7) || !check_type(why, a.type, true)) return why;
  if (!check_windows(why, a.H, a.W, a.R, a.S, a.stride_h, a.stride_w, a.pad_h, a.pad_w)) return why;
  const int unit = unit_elements(a.type);
  if (!check_channels(why, "C", a.C, unit) || !check_channels(why, "Cr", a.Cr, unit) ||
      !check_channels(why, "K", a.K, unit))
    return why;
  a.P = output_extent(a.H, a.R, a.stride_h, a.pad_h);
  a.Q = output_extent(a.W, a.S, a.stride_w, a.pad_w);
  if (a.P == 0 || a.Q == 0) {
    why << "the filter is " << a.R << " x " << a.S << ", expected at most the padded map, "
        << a.H + 2 * a.pad_h << " x " << a.W + 2 * a.pad_w;
    return why;
  }
  if (!check_map(why, "x", a.x, a.x_strides, a.N, a.H, a.W, a.C, unit) ||
      !check_map(why, "y", a.y, a.y_strides, a.N, a.P, a.Q, a.K, unit) ||
      (a.r && !check_map(why, "r", a.r, a.r_strides, a.N, a.H, a.W, a.Cr, unit)))
    return why;
  if (a.N == 0) return why;
  if (!a.x || !a.y) why << (a.x ? "y" : "x") << " is null";
  if (why || !check_array(why, "wr", a.wr, (long long)a.Cr * a.C) ||
      !check_array(why, "w", a.w, (long long)a.K * a.R * a.S * a.Cr))
    return why;

  a.reduce_units = a.C / unit, a.conv_units = a.R * a.S * (a.Cr / unit);
  a.map_h = make_divisor(a.H), a.map_w = make_divisor(a.W), a.map_q = make_divisor(a.Q);
  a.channel_units = make_divisor(a.Cr / unit), a.filter_w = make_divisor(a.S);
  // beyond this the layout's numbers would not even fit an int
  long long least = 16ll * (a.W + a.pad_w) * (a.Cr / unit | 1);
  if (least <= a.shared_limit) choose_mma_tile(ReduceConvMmaArgs(a), unit, shape, plan, least);
  if (plan.clocks == 0) {
    why << "a row of the reduced map needs " << least
        << " bytes of shared memory, expected at most " << a.shared_limit;
    return why;
  }
  a.tile_rows = make_divisor(a.tile_p);
  return why;
}
