// Bytes a launch asks of global memory, as planned: halos, operands read again by every tile that
// needs them, results once. Caches are left out of it, and so is what alignment adds, but for taps
// and results of the tensor-core kernels, which are counted in sectors: the counters of the
// emulator are held to these. Plain C++.
//
//   conv      A: every column tile reads the pixels of all taps inside the map
//             B: every row tile reads the filter
#pragma once
#include "conv_lrn_pool_mma_plan.h"
#include "conv_plan.h"
#include "inception_mma_plan.h"
#include "lrn_pool_plan.h"
#include "reduce_conv_plan.h"

// Pairs (output, tap) along one axis whose pixel lies inside the map; x is dilated by `step`.
inline double pairs_along(int outputs, int extent, int filter, int stride, int pad, int step = 1) {
  double pairs = 0;
  for (int p = 0; p < outputs; p++)
    for (int r = 0; r < filter; r++) {
      const int at = halo_origin(p, stride, pad) + r;
      pairs += at >= 0 && at % step == 0 && at / step < extent;
    }
  return pairs;
}

// Pixels inside the map along one axis that `tiles` halos of `halo` pixels hold together.
inline double pixels_along(int tiles, int distance, int halo, int extent, int pad) {
  double pixels = 0;
  for (int i = 0; i < tiles; i++) {
    const int first = i * distance - pad, end = first + halo;
    const int inside = (end < extent ? end : extent) - (first > 0 ? first : 0);
    pixels += inside > 0 ? inside : 0;
  }
  return pixels;
}

inline int storage_bytes(int storage) { return storage == 0 ? 4 : 2; }

// Where a launch's entry stands in the table that its plan took it from.
inline int entry_of(const CudaLaunch& launch, const char* const* entries) {
  int i = 0;
  while (entries[i] != launch.entry) i++;
  return i;
}

// ---- gathers -----------------------------------------------------------------------------------
// The (tap, channel) list in units, as a thread fetches them.
struct GatherUnits {
  int element, bytes, a_tap, count;  // bytes of an element and a unit; units of a tap and in all
};

// What warps gather of x: one instruction is `rows` neighbouring output pixels by 32 / rows units
// of the list. With few channels it spans taps, and those of neighbours meet in the same sectors:
// each is asked for once. place(m, n, p, q) says where pixel m of `count` lies, or false.
template <class Args, class Place>
double gathered_bytes(const Args& a, const GatherUnits& units, int rows, int count, Place place,
                      int step_h, int step_w) {
  const int width = 32 / rows;
  double sectors = 0;
  for (int m0 = 0; m0 < count; m0 += rows)
    for (int u0 = 0; u0 < units.count; u0 += width) {
      long long asked[32];
      int found = 0;
      for (int lane = 0; lane < 32; lane++) {
        const int m = m0 + lane / width, u = u0 + lane % width, tap = u / units.a_tap;
        int n = 0, p = 0, q = 0;
        if (m >= count || u >= units.count || !place(m, n, p, q)) continue;
        const int h = halo_origin(p, a.stride_h, a.pad_h) + tap / a.S;
        const int w = halo_origin(q, a.stride_w, a.pad_w) + tap % a.S;
        if (h < 0 || w < 0 || h % step_h || w % step_w || h / step_h >= a.H || w / step_w >= a.W)
          continue;
        const long long pixel = offset_of(a.x_strides, n, h / step_h, w / step_w);
        const long long sector = (pixel * units.element + u % units.a_tap * units.bytes) / 32;
        int i = 0;
        while (i < found && asked[i] != sector) i++;
        if (i == found) asked[found++] = sector;
      }
      sectors += found;
    }
  return 32 * sectors;
}

// Output pixels (N, P, Q) in their order
struct EveryOutput {
  int P, Q;
  bool operator()(int m, int& n, int& p, int& q) const {
    n = m / (P * Q), p = m / Q % P, q = m % Q;
    return true;
  }
};

// ---- CUDA cores --------------------------------------------------------------------------------
inline double wgrad_traffic(const ConvWgradCudaArgs& g, const CudaLaunch& launch, int element) {
  const int Q = g.map_w.value, P = g.map_pixels.value / Q, images = g.pixels / (P * Q);
  const double taps = pairs_along(P, g.H, g.R, g.stride_h, g.pad_h) *
                      pairs_along(Q, g.W, g.S, g.stride_w, g.pad_w) * images;
  const double row = (double)g.R * g.S * g.C;
  const double a = (double)g.column_tiles.value * g.pixels * g.K * (g.y ? 2 : 1);
  const GatherUnits quads = {element, 4 * element, g.C / 4, g.R * g.S * g.C / 4};
  const double b =  // quads go by eight of each of four pixels, else value by value
      g.C % 4 == 0 ? gathered_bytes(g, quads, 4, g.pixels, EveryOutput{P, Q}, 1, 1)
                   : taps * g.C * element;
  return element * a + ceil_div(g.K, kTileRows) * b +
         4.0 * launch.grid_z * g.K * (row + (g.gb ? 1 : 0));
}

inline double sum_traffic(const SumChunksCudaArgs& s) { return 4.0 * s.count * (s.chunks + 1.0); }

inline double conv_fprop_traffic(const ConvPlan& plan) {
  const ConvCudaArgs& a = plan.args;
  if (plan.count == 0) return 0;
  const int columns = entry_of(plan.launches[0], kConvEntries) >= kConvFpropNarrow ? 32 : 64;
  const double taps = pairs_along(a.P, a.H, a.R, a.stride_h, a.pad_h) *
                      pairs_along(a.Q, a.W, a.S, a.stride_w, a.pad_w) * a.N * a.C;
  const double row = (double)a.R * a.S * a.C, row_tiles = plan.launches[0].grid_x;
  double elements = 0, bias = 0;
  for (int i = 0; i < a.panel_count; i++) {
    const ConvCudaPanel& p = a.panels[i];
    elements += ceil_div(p.K, columns) * taps + row_tiles * p.K * row + (double)a.pixels * p.K;
    bias += p.b ? row_tiles * p.K : 0;
  }
  return storage_bytes(a.storage) * elements + 4 * bias;
}

inline double conv_dgrad_traffic(const ConvPlan& plan) {
  const ConvCudaArgs& a = plan.args;
  if (plan.count == 0) return 0;
  const int columns = entry_of(plan.launches[0], kConvEntries) >= kConvDgradNarrow ? 32 : 64;
  const double taps = pairs_along(a.P, a.H, a.R, a.stride_h, a.pad_h) *
                      pairs_along(a.Q, a.W, a.S, a.stride_w, a.pad_w) * a.N;
  const double filter = (double)plan.launches[0].grid_x * a.R * a.S * a.C;
  double elements = (double)a.N * a.H * a.W * a.C * (a.accumulate ? 2 : 1);
  for (int i = 0; i < a.panel_count; i++) {
    const ConvCudaPanel& p = a.panels[i];
    elements += (ceil_div(a.C, columns) * taps * (p.y ? 2 : 1) + filter) * p.K;
  }
  return storage_bytes(a.storage) * elements;
}

inline double conv_wgrad_traffic(const ConvPlan& plan, int launch) {
  return launch == 0 ? wgrad_traffic(plan.wgrad, plan.launches[0], storage_bytes(plan.args.storage))
                     : sum_traffic(plan.sum);
}

inline double reduce_conv_traffic(const ReduceConvPlan& plan, int launch) {
  const ReduceConvCudaArgs& a = plan.args;
  const CudaLaunch& l = plan.launches[launch];
  const double maps = (double)a.N * a.H * a.W, filter = (double)a.K * a.R * a.S * a.Cr;
  const double reduce = (double)a.Cr * a.C;
  for (int i = 0; i < 2; i++) {
    if (l.params == &plan.wgrad[i]) return wgrad_traffic(plan.wgrad[i], l, 4);
    if (l.params == &plan.sum[i]) return sum_traffic(plan.sum[i]);
  }
  const int entry = entry_of(l, kReduceConvEntries);
  switch (entry) {
    case kFpropWide:
    case kFpropNarrow: {
      const int columns = entry == kFpropWide ? 64 : 32;
      const int tiles_q = a.tiles_q.value, tiles_p = a.image_tiles.value / tiles_q;
      const int tile_q = a.tile_q.value, halo = a.halo_h * a.halo_w.value;
      const double pixels =
          pixels_along(tiles_p, a.tile_p * a.stride_h, a.halo_h, a.H, a.pad_h) *
          pixels_along(tiles_q, tile_q * a.stride_w, a.halo_w.value, a.W, a.pad_w) * a.N;
      const double convolving =
          (double)a.N * ceil_div(a.P, a.tile_p) * ceil_div(a.Q, a.tile_q.value);
      const double passes = ceil_div(a.tile_p * tile_q, kTileRows) * convolving;
      const double slices = l.grid_y;  // each makes the 1x1 anew
      return 4 * (slices * ceil_div(a.Cr, columns) * pixels * a.C +
                  slices * l.grid_x * ceil_div(halo, kTileRows) * (reduce + (a.br ? a.Cr : 0)) +
                  passes * (filter + (a.b ? a.K : 0)) + (double)a.N * a.P * a.Q * a.K +
                  (a.r ? maps * a.Cr : 0));
    }
    case kDgradWide:
    case kDgradNarrow: {
      const int columns = entry == kDgradWide ? 64 : 32;
      const double taps = pairs_along(a.P, a.H, a.R, a.stride_h, a.pad_h) *
                          pairs_along(a.Q, a.W, a.S, a.stride_w, a.pad_w) * a.N;
      const double gx = a.gx ? maps * a.C * (a.accumulate ? 2 : 1) + l.grid_x * reduce : 0;
      return 4 *
             (ceil_div(a.Cr, columns) * taps * a.K * 2 + l.grid_x * filter + 2 * maps * a.Cr + gx);
    }
    default:
      break;
  }
  return 0;
}

// Pool last: every pixel of the tiles' windows; pool first: every pixel of every window.
inline double lrn_pool_traffic(const LrnPoolPlan& plan) {
  const LrnPoolCudaArgs& a = plan.args;
  if (plan.count == 0) return 0;
  const int tiles_q = a.tiles_q.value, tiles_p = a.image_tiles.value / tiles_q;
  const double pixels =
      a.pool_first
          ? pairs_along(a.P, a.H, a.R, a.stride_h, a.pad_h) *
                pairs_along(a.Q, a.W, a.S, a.stride_w, a.pad_w)
          : pixels_along(tiles_p, a.tile_p * a.stride_h, a.halo_h, a.H, a.pad_h) *
                pixels_along(tiles_q, a.tile_q.value * a.stride_w, a.halo_w.value, a.W, a.pad_w);
  return storage_bytes(a.storage) * (double)a.N * a.C * (pixels + (double)a.P * a.Q);
}

// ---- tensor cores ------------------------------------------------------------------------------
constexpr int kGatherRows = 8;  // pixels of a warp's copy where a stage is four units deep

// What a block asks for at columns first .. end - 1 of a pixel of the result, whole sectors: each
// pass of columns begins with one, and at most its last is asked for in part.
inline double result_bytes(int first, int end, const MmaShape& s, int element) {
  int sectors = 0;
  for (int n0 = first; n0 < end; n0 += s.columns) {
    const int to = n0 + s.columns < end ? n0 + s.columns : end;
    sectors += ceil_div(to * element, 32) - n0 * element / 32;
  }
  return 32.0 * sectors;
}

inline double reduce_conv_mma_traffic(const ReduceConvMmaArgs& a, const MmaShape& s) {
  const int bands = a.bands.value, slices = a.slices.value, tile_pixels = a.tile_p * a.Q;
  const double groups = ceil_div(a.N, a.tile_images), maps = (double)a.N * a.H * a.W;
  double pixels = 0, reduce_passes = 0, conv_passes = 0;
  for (int band = 0; band < bands; band++) {
    const int first = halo_origin(band * a.tile_p, a.stride_h, a.pad_h), end = first + a.halo_h;
    const int rows = (end < a.H ? end : a.H) - (first > 0 ? first : 0);
    pixels += (double)rows * a.W * a.N;
    reduce_passes += groups * ceil_div(a.tile_images * rows * a.W, s.rows);
    if (band * a.tile_p < a.P)
      conv_passes += groups * ceil_div(a.tile_images * tile_pixels, s.rows);
  }
  const double x = ceil_div(a.Cr, s.columns) * pixels * a.C;
  const double wr = reduce_passes * a.Cr * a.C;
  const double w = conv_passes * a.K * a.R * a.S * a.Cr;
  const int element = storage_bytes(a.type);
  double results = a.r ? maps * result_bytes(0, a.Cr, s, element) : 0;
  for (int k = 0; k < a.K; k += a.slice) {
    const int end = k + a.slice < a.K ? k + a.slice : a.K;
    results += (double)a.N * a.P * a.Q * result_bytes(k, end, s, element);
  }
  return element * (slices * (x + wr) + w) + results +
         4 * (slices * reduce_passes * (a.br ? a.Cr : 0) + conv_passes * (a.b ? a.K : 0));
}

// Units of the tensor-core kernels are 16 bytes.
template <class Args>
GatherUnits mma_units(const Args& a) {
  return {storage_bytes(a.type), 16, (int)a.channel_units.value, a.units};
}
template <class Args>
double gathered_bytes(const Args& a, int rows, int step_h = 1, int step_w = 1) {
  return gathered_bytes(a, mma_units(a), rows, a.pixels, EveryOutput{a.P, a.Q}, step_h, step_w);
}

inline double conv_mma_traffic(const ConvMmaArgs& a, const MmaShape& s, bool pooled = false) {
  const double windows = pairs_along(a.P, a.H, 3, 1, 1) * pairs_along(a.Q, a.W, 3, 1, 1) * a.N;
  const double x = pooled ? storage_bytes(a.type) * windows * a.C
                          : gathered_bytes(a, kGatherRows, a.step_h, a.step_w);
  const double row_tiles = ceil_div(a.pixels, s.rows), element = storage_bytes(a.type);
  const double outputs = a.pixels * result_bytes(0, a.K, s, storage_bytes(a.type));
  return a.column_tiles.value * x + element * row_tiles * a.K * a.R * a.S * a.C +
         outputs * (1 + (a.mask ? 1 : 0) + (a.accumulate ? 1 : 0)) +
         4 * row_tiles * (a.b ? a.K : 0);
}

inline double conv_lrn_pool_mma_traffic(const ConvLrnPoolMmaArgs& a) {
  const ConvMmaArgs& c = a.conv;
  const LrnPoolCudaArgs& t = a.tail;
  const int tiles_q = t.tiles_q.value, halo_w = t.halo_w.value, halo = t.halo_h * halo_w;
  double x = 0;  // of a pass; each tile sees its own part of the convolution's map
  for (int tile = 0; tile < (int)t.image_tiles.value; tile++) {
    const int top = halo_origin(tile / tiles_q * t.tile_p, t.stride_h, t.pad_h);
    const int left = halo_origin(tile % tiles_q * (int)t.tile_q.value, t.stride_w, t.pad_w);
    const auto place = [&](int m, int& n, int& p, int& q) {
      n = 0, p = top + m / halo_w, q = left + m % halo_w;
      return inside(p, c.P) && inside(q, c.Q);
    };
    x += gathered_bytes(c, mma_units(c), kGatherRows, halo, place, 1, 1);
  }
  const double blocks = t.image_tiles.value, passes = ceil_div(c.K, kMmaShapes[kMmaMid].columns);
  const double elements = blocks * c.K * c.R * c.S * c.C + (double)t.P * t.Q * c.K;
  return c.N * (passes * x + 2 * elements + 4 * blocks * (c.b ? c.K : 0));
}

inline double conv_wgrad_mma_traffic(const ConvWgradMmaPlan& plan, int launch) {
  const ConvWgradMmaArgs& a = plan.args;
  if (launch == 1) return sum_traffic(plan.sum);
  const double gy = (double)storage_bytes(a.type) * a.column_tiles.value * a.pixels * a.K;
  const int rows = 32 / (kWgradColumns * storage_bytes(a.type) / 16);
  return gy + ceil_div(a.K, kWgradRows) * gathered_bytes(a, rows) +
         4.0 * a.chunks * a.K * ((double)a.R * a.S * a.C + (a.gb ? 1 : 0));
}

inline double inception_mma_traffic(const InceptionMmaArgs& a) {
  const MmaShape& s = kMmaShapes[kMmaMid];
  return reduce_conv_mma_traffic(a.branches[0], s) + reduce_conv_mma_traffic(a.branches[1], s) +
         conv_mma_traffic(a.ones, s) + conv_mma_traffic(a.projection, s, true);
}
