// From what is asked (ConvLrnPoolMmaArgs) to one launch, or to the sentence that two end first.
// Plain C++, no CUDA header.
#pragma once
#include "conv_mma_plan.h"
#include "lrn_pool_plan.h"

#define PYI_CONV_LRN_POOL_MMA_ENTRIES(X) X(conv_lrn_pool_mma_bf16) X(conv_lrn_pool_mma_fp16)
constexpr const char* kConvLrnPoolMmaEntries[] = {PYI_CONV_LRN_POOL_MMA_ENTRIES(PYI_NAME)};

using ConvLrnPoolMmaPlan = MmaPlan<ConvLrnPoolMmaArgs>;

constexpr int kMostNormalisedReach = 4;   // channels to either side; kMostReach of the kernel
constexpr int kMostNormalisedUnits = 32;  // of a pixel: the lanes of a warp

// Operations of CUDA cores: 25 for an element normalised, 3 for a tap of one pooled.
inline double tail_operations(const LrnPoolCudaArgs& t, double normalised, double pooled) {
  return (25 * normalised + 3.0 * t.R * t.S * pooled) * t.C;
}

inline double larger_of(double a, double b) { return a > b ? a : b; }

// Clocks of the convolution, which by itself takes `conv`, and of lrn_pool behind it.
inline double clocks_apart(const ConvMmaArgs& c, const LrnPoolCudaArgs& t, double conv) {
  const double outputs = (double)t.P * t.Q, map = (double)c.P * c.Q, x = (double)c.H * c.W * c.C;
  const double tail = c.N * tail_operations(t, t.pool_first ? outputs : map, outputs);
  return larger_of(conv, 2.0 * c.N * (x + map * c.K) / kMemoryPerClock) + kBoundaryClocks +
         larger_of(tail / kLanes / c.multiprocessors,
                   2.0 * c.N * (map + outputs) * c.K / kMemoryPerClock);
}

// Bytes of shared memory. A pixel takes an odd number of units; of a single pass of columns the map
// lies where the ring was, that of several behind it.
inline long long lay_out(ConvLrnPoolMmaArgs& a, const MmaShape& s, int halo) {
  a.pitch = 16 * (a.conv.K / 8 | 1), a.staged_at = a.conv.K > s.columns ? s.ring_bytes() : 0;
  const long long end = a.staged_at + (long long)halo * a.pitch;
  return end > s.ring_bytes() ? end : s.ring_bytes();
}

// The tile of pooled pixels that ends first; false where none fits. The kernel's time is returned.
inline bool choose_stem_tile(ConvLrnPoolMmaArgs& a, double& clocks, long long& shared_bytes) {
  MmaShape s = kMmaShapes[kMmaMid];
  s.blocks = 2;
  const ConvMmaArgs& c = a.conv;
  LrnPoolCudaArgs& t = a.tail;
  clocks = 0;
  for (int tp = 1; tp <= t.P && (tp - 1) * t.stride_h + t.R <= s.rows; tp++)
    for (int tq = 1; tq <= t.Q; tq++) {
      const int halo_h = (tp - 1) * t.stride_h + t.R, halo_w = (tq - 1) * t.stride_w + t.S;
      if (halo_h * halo_w > s.rows) break;
      ConvLrnPoolMmaArgs tried = a;
      const long long bytes = lay_out(tried, s, halo_h * halo_w);
      if (bytes > c.shared_limit) break;
      MmaCost cost{};
      add_gemm(s, s.rows, c.K, c.units, 8, true, cost);
      cost.lanes = tail_operations(t, t.pool_first ? tp * tq : halo_h * halo_w, tp * tq);
      const long long blocks = (long long)c.N * ceil_div(t.P, tp) * ceil_div(t.Q, tq);
      const double time = mma_clocks(s, cost, blocks, c.multiprocessors, c.shared_limit, bytes);
      if (clocks > 0 && time >= clocks) continue;
      a = tried, clocks = time, shared_bytes = bytes;
      t.tile_p = tp, t.halo_h = halo_h;
      t.tile_q = make_divisor(tq), t.halo_w = make_divisor(halo_w);
    }
  return clocks > 0;
}

inline CudaStatus plan_conv_lrn_pool_mma(const ConvLrnPoolMmaArgs& asked,
                                         ConvLrnPoolMmaPlan& plan) {
  plan = ConvLrnPoolMmaPlan{};
  plan.args = asked;
  ConvMmaArgs& c = plan.args.conv;
  LrnPoolCudaArgs& t = plan.args.tail;
  CudaStatus why;
  if (c.type != kMmaBf16 && c.type != kMmaFp16) {
    why << "type is " << c.type << ", expected 1 (bf16) or 2 (fp16)";
    return why;
  }
  if ((double)c.P * c.Q * c.K > kMaxElements) {
    why << "P x Q x K is " << c.P << " x " << c.Q << " x " << c.K << ", expected at most "
        << kMaxElements;
    return why;
  }
  // The plans of the two kernels check their halves, as if the map between were stored.
  c.step_h = c.step_w = c.output_count = c.relu = 1, c.accumulate = 0, c.mask = nullptr;
  c.outputs[0] = {t.y, {c.P * c.Q * c.K, c.Q * c.K, c.K}, 0, c.K};
  ConvMmaPlan conv;
  if ((why = plan_conv_mma(c, conv))) return why;
  t.x = c.x, t.x_strides = c.outputs[0].strides, t.storage = c.type;
  t.N = c.N, t.H = c.P, t.W = c.Q, t.C = c.K;
  LrnPoolPlan tail;
  if ((why = plan_lrn_pool(t, tail))) return why;
  c = conv.args, t = tail.args;
  const int units = c.K / 8;
  if (t.reach > kMostNormalisedReach)
    why << "size is " << t.size << ", expected at most " << 2 * kMostNormalisedReach + 1;
  else if (units > kMostNormalisedUnits)
    why << "K is " << c.K << ", expected at most " << 8 * kMostNormalisedUnits;
  if (why || !check_map(why, "y", t.y, t.y_strides, t.N, t.P, t.Q, t.C, 8) || c.N == 0) return why;

  double clocks;
  long long bytes = 0;
  if (!choose_stem_tile(plan.args, clocks, bytes)) {
    why << "a window of " << t.R << " x " << t.S << " over " << c.K
        << " channels needs more than 256 pixels or " << c.shared_limit
        << " bytes of shared memory";
    return why;
  }
  const double apart = clocks_apart(c, t, conv.clocks);
  const double moved = (double)c.H * c.W * c.C + (double)t.P * t.Q * c.K;
  clocks = larger_of(clocks, 2 * c.N * moved / kMemoryPerClock);
  if (!asked.always && clocks >= apart) {
    why << "one kernel would take " << (long long)clocks << " clocks, the convolution and lrn_pool "
        << (long long)apart;
    return why;
  }
  const int rows = ceil_div(t.P, t.tile_p), columns = ceil_div(t.Q, (int)t.tile_q.value);
  t.groups = make_divisor(units), plan.args.warp_pixels = 32 / units;
  t.image_tiles = make_divisor(rows * columns), t.tiles_q = make_divisor(columns);
  plan.clocks = clocks;
  plan.launch(kConvLrnPoolMmaEntries[c.type - kMmaBf16], (long long)c.N * rows * columns, 1, 256,
              bytes);
  return why;
}
