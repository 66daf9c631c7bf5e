// From what is asked (ReduceConvCudaArgs) to launches as data: entry, grid, block, shared bytes and
// the address of the record. Plain C++, no CUDA header: the CUDA runtime and the emulator run the
// same list.
#pragma once
#include "conv_plan.h"

// ---- tile choices ------------------------------------------------------------------------------
// Wanted for a block: three blocks on the 227 KB of sm_90, two on the 163 KB of sm_80. A larger
// tile recomputes less halo but leaves four warps alone with their latencies; unmeasured so far.
constexpr int kSharedWanted = 72 * 1024;
constexpr int kMaxTile = 16, kMaxSplits = 16;
static_assert(kMaxTile >= 14,
              "14x14 and 7x7 maps must be among the tiles whole; a whole 28x28 lost: 360 KB at "
              "Cr = 96");
enum ReduceConvEntry { kFpropWide, kFpropNarrow, kDgradWide, kDgradNarrow };
// clang-format off
#define PYI_REDUCE_CONV_ENTRIES(X)                        \
  X(reduce_conv_fprop_wide) X(reduce_conv_fprop_narrow)   \
  X(reduce_conv_dgrad_wide) X(reduce_conv_dgrad_narrow)
// clang-format on
constexpr const char* kReduceConvEntries[] = {PYI_REDUCE_CONV_ENTRIES(PYI_NAME)};

struct ReduceConvPlan {
  ReduceConvCudaArgs args;
  ConvWgradCudaArgs wgrad[2];
  SumChunksCudaArgs sum[2];
  CudaLaunch launches[5];
  int count;
  long long workspace_bytes;
};

// ---- checks ------------------------------------------------------------------------------------
// Checks what forward and backward share and derives the extents.
inline CudaStatus complete(ReduceConvCudaArgs& a) {
  if (a.N < 0 || a.H < 1 || a.W < 1 || a.C < 1 || a.Cr < 1 || a.K < 1) return kCudaBadExtent;
  const int geometry[] = {a.R, a.S, a.stride_h, a.stride_w, a.pad_h + 1, a.pad_w + 1};
  for (int v : geometry)
    if (v < 1 || v > 64) return kCudaBadGeometry;
  if (!fits(a.N + 1ll, (a.H + 128ll) * (a.W + 128))) return kCudaTooLarge;
  a.P = output_extent(a.H, a.R, a.stride_h, a.pad_h);
  a.Q = output_extent(a.W, a.S, a.stride_w, a.pad_w);
  if (a.P == 0 || a.Q == 0) return kCudaNoOutput;
  if (!fits(a.Cr, a.C) || !fits((long long)a.K * a.Cr, a.R * a.S)) return kCudaTooLarge;
  a.map_pixels = make_divisor(a.H * a.W), a.map_w = make_divisor(a.W);
  a.step_h = make_divisor(a.stride_h), a.step_w = make_divisor(a.stride_w);
  return kCudaOk;
}

// ---- fprop -------------------------------------------------------------------------------------
// The tile and the slices of the output channels with the least cost that fit `limit` bytes: the
// eighth power of the clocks, recomputed halo and 1x1 included, times the steps of all blocks.
// Twice the work must buy 9 % of the clocks, or 98 blocks of two pixels each would be preferred to
// four of 64 for a quarter of them. Returns the cost, or 0 where none fits.
inline double choose_tile(ReduceConvCudaArgs& a, int columns, int limit, int& shared_bytes) {
  double best = 0;
  // tiles of columns in a slice; of those that make as many slices the fewest
  int each[kMaxSplits], splits = 0;
  const int column_tiles = ceil_div(a.K, columns);
  for (int e = column_tiles; e > 0 && splits < kMaxSplits; e--)
    if (e == 1 || ceil_div(column_tiles, e - 1) > ceil_div(column_tiles, e)) each[splits++] = e;
  const double taps = (double)a.R * a.S * ceil_div(a.Cr, kChannelStep);
  const auto is_smallest = [](int outputs, int tile) {  // of those that make as many tiles
    return tile == 1 || ceil_div(outputs, tile - 1) > ceil_div(outputs, tile);
  };
  for (int tp = 1; tp <= kMaxTile && tp <= a.P; tp++)
    for (int tq = 1; tq <= kMaxTile && tq <= a.Q; tq++) {
      if (!is_smallest(a.P, tp) || !is_smallest(a.Q, tq)) continue;
      const int hh = halo_extent(tp, a.R, a.stride_h), hw = halo_extent(tq, a.S, a.stride_w);
      const double bytes = panel_bytes(columns) + 4.0 * hh * hw * resident_pitch(a.Cr);
      if (bytes > limit) break;
      const double tiles = (double)(a.N > 0 ? a.N : 1) *
                           tiles_along(a.P, a.H, tp, a.R, a.stride_h, a.pad_h, a.r) *
                           tiles_along(a.Q, a.W, tq, a.S, a.stride_w, a.pad_w, a.r);
      const double reduce = (double)ceil_div(hh * hw, kTileRows) * ceil_div(a.Cr, columns) *
                            ceil_div(a.C, kChannelStep);
      const double conv = ceil_div(tp * tq, kTileRows) * taps;
      for (int i = 0; i < splits; i++) {
        const double blocks = tiles * ceil_div(column_tiles, each[i]);
        const double steps = reduce + each[i] * conv, work = blocks * steps * columns;
        const double clocks = tile_clocks(blocks, steps, columns), squared = clocks * clocks;
        const double cost = squared * squared * squared * squared * work;
        if (best == 0 || cost < best || (cost == best && bytes < shared_bytes)) {
          best = cost, shared_bytes = (int)bytes, a.slice = each[i] * columns;
          a.tile_p = tp, a.halo_h = hh, a.tile_q = make_divisor(tq), a.halo_w = make_divisor(hw);
        }
        if (blocks >= kPlannedMultiprocessors) break;  // more would only repeat the 1x1
      }
    }
  return best;
}

inline CudaStatus plan_reduce_conv_fprop(const ReduceConvCudaArgs& asked, ReduceConvPlan& plan) {
  plan = ReduceConvPlan{};
  ReduceConvCudaArgs& a = plan.args;
  a = asked;
  if (const CudaStatus status = complete(a)) return status;
  if (negative(a.x_strides) || negative(a.y_strides) || (a.r && negative(a.r_strides)))
    return kCudaBadStrides;
  if (!fits(a.x_strides, a.N, a.H, a.W, a.C) || !fits(a.y_strides, a.N, a.P, a.Q, a.K) ||
      (a.r && !fits(a.r_strides, a.N, a.H, a.W, a.Cr)))
    return kCudaTooLarge;

  int entry = kFpropWide, shared_bytes = 0, narrow_bytes = 0, limit = kSharedWanted;
  if (limit > a.shared_limit) limit = a.shared_limit;
  double wide = choose_tile(a, 64, limit, shared_bytes);
  if (wide == 0) wide = choose_tile(a, 64, limit = a.shared_limit, shared_bytes);
  ReduceConvCudaArgs other = a;
  const double narrow = choose_tile(other, 32, limit, narrow_bytes);
  if (narrow > 0 && (wide == 0 || narrow < wide))
    a = other, entry = kFpropNarrow, shared_bytes = narrow_bytes;
  else if (wide == 0)
    return beyond_shared_memory(panel_bytes(32) + 4.0 * halo_extent(1, a.R, a.stride_h) *
                                                      halo_extent(1, a.S, a.stride_w) *
                                                      resident_pitch(a.Cr),
                                a.shared_limit);

  const int rows = tiles_along(a.P, a.H, a.tile_p, a.R, a.stride_h, a.pad_h, a.r);
  const int columns = tiles_along(a.Q, a.W, a.tile_q.value, a.S, a.stride_w, a.pad_w, a.r);
  a.tiles_q = make_divisor(columns), a.image_tiles = make_divisor(rows * columns);
  if (!fits(a.N, rows * columns) || ceil_div(a.K, a.slice) > 65535) return kCudaTooLarge;
  if (a.N == 0) return kCudaOk;
  if (!a.x || !a.wr || !a.w || !a.y) return kCudaMissingArray;
  plan.launches[plan.count++] = {kReduceConvEntries[entry],
                                 (unsigned)(a.N * rows * columns),
                                 (unsigned)ceil_div(a.K, a.slice),
                                 1,
                                 kBlockThreads,
                                 (unsigned)shared_bytes,
                                 &plan.args,
                                 sizeof(plan.args)};
  return kCudaOk;
}

// ---- backward ----------------------------------------------------------------------------------
// The entries of conv.cu in fp32.
inline WgradSlot wgrad_slot(ReduceConvPlan& plan, int i) {
  return {plan.wgrad[i],
          plan.sum[i],
          plan.launches,
          plan.count,
          kConvEntries[kConvWgradWide],
          kConvEntries[kConvWgradNarrow],
          kConvEntries[kConvSumChunks]};
}

// Set size_only for the dry run: pointers may be null (null results count as wanted), and
// plan.workspace_bytes is the answer.
inline CudaStatus plan_reduce_conv_backward(const ReduceConvCudaArgs& asked, bool size_only,
                                            ReduceConvPlan& plan) {
  plan = ReduceConvPlan{};
  ReduceConvCudaArgs& a = plan.args;
  a = asked;
  if (const CudaStatus status = complete(a)) return status;
  const bool wants_gw = size_only || a.gw, wants_gwr = size_only || a.gwr;
  const bool wants_gr = wants_gwr || a.gx;
  const CudaStrides strides[] = {a.x_strides, a.y_strides, a.r_strides, a.gy_strides, a.gx_strides};
  for (const CudaStrides& s : strides)
    if (negative(s)) return kCudaBadStrides;
  if (!fits(a.x_strides, a.N, a.H, a.W, a.C) || !fits(a.y_strides, a.N, a.P, a.Q, a.K) ||
      !fits(a.r_strides, a.N, a.H, a.W, a.Cr) || !fits(a.gy_strides, a.N, a.P, a.Q, a.K) ||
      !fits(a.gx_strides, a.N, a.H, a.W, a.C) || !fits((long long)a.N * a.H * a.W, a.Cr) ||
      !fits((long long)a.N * a.P, a.Q))
    return kCudaTooLarge;
  if (!size_only) {
    if ((a.gb && !a.gw) || (a.gbr && !a.gwr)) return kCudaMissingArray;
    if (a.N > 0 && (!a.gy || !a.y || !a.r || !a.w)) return kCudaMissingArray;
    if (a.N > 0 && ((a.gx && !a.wr) || (a.gwr && !a.x))) return kCudaMissingArray;
    if ((unsigned long long)a.workspace & 15) return kCudaWorkspace;
  }

  CudaArena arena{size_only ? 0 : (unsigned long long)a.workspace, 0};
  if (wants_gr && a.N > 0) {
    a.gr = arena.take((long long)a.N * a.H * a.W * a.Cr);
    const double conv = (double)a.R * a.S * round_up(a.K, kChannelStep);
    const double reduce = a.gx || size_only ? round_up(a.Cr, kChannelStep) : 0;
    const bool is_narrow = prefer_narrow(conv * round_up(a.Cr, 64) + reduce * round_up(a.C, 64),
                                         conv * round_up(a.Cr, 32) + reduce * round_up(a.C, 32));
    const int panels = panel_bytes(is_narrow ? 32 : 64), pitch = resident_pitch(a.Cr);
    // fewer pixels leave the register tile part empty; only a wide Cr on a small chip needs it
    a.tile_pixels = kTileRows;
    while (a.tile_pixels > 1 && panels + 4.0 * a.tile_pixels * pitch > a.shared_limit)
      a.tile_pixels /= 2;
    const double needs = panels + 4.0 * a.tile_pixels * pitch;
    if (needs > a.shared_limit) return beyond_shared_memory(needs, a.shared_limit);
    plan.launches[plan.count++] = {kReduceConvEntries[is_narrow ? kDgradNarrow : kDgradWide],
                                   (unsigned)ceil_div(a.N * a.H * a.W, a.tile_pixels),
                                   1,
                                   1,
                                   kBlockThreads,
                                   (unsigned)(panels + 4 * a.tile_pixels * pitch),
                                   &plan.args,
                                   sizeof(plan.args)};
  }
  if (wants_gw) {
    ConvWgradCudaArgs& g = plan.wgrad[0];
    g.gy = a.gy, g.y = a.y, g.x = a.r;
    g.H = a.H, g.W = a.W, g.C = a.Cr, g.K = a.K, g.R = a.R, g.S = a.S;
    g.stride_h = a.stride_h, g.stride_w = a.stride_w, g.pad_h = a.pad_h, g.pad_w = a.pad_w;
    g.gy_strides = a.gy_strides, g.y_strides = a.y_strides, g.x_strides = a.r_strides;
    if (const CudaStatus status = plan_wgrad(wgrad_slot(plan, 0), a.N, a.P, a.Q, a.gw, a.gb, arena))
      return status;
  }
  if (wants_gwr) {  // a 1x1 from x to gr, which carries its mask already
    ConvWgradCudaArgs& g = plan.wgrad[1];
    g.gy = a.gr, g.x = a.x;
    g.H = a.H, g.W = a.W, g.C = a.C, g.K = a.Cr, g.R = g.S = g.stride_h = g.stride_w = 1;
    g.gy_strides = g.y_strides = {a.H * a.W * a.Cr, a.W * a.Cr, a.Cr}, g.x_strides = a.x_strides;
    if (const CudaStatus status =
            plan_wgrad(wgrad_slot(plan, 1), a.N, a.H, a.W, a.gwr, a.gbr, arena))
      return status;
  }
  plan.workspace_bytes = (long long)arena.used;
  if (!size_only && arena.used > 0 && (!a.workspace || plan.workspace_bytes > a.workspace_bytes))
    return kCudaWorkspace;
  return kCudaOk;
}
