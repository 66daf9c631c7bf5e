// Depthwise convolution: plans and entry points. Filters are (K, R, S, 1), K = C M.
#include <algorithm>

#include "conv_plan.h"

namespace pyi {
namespace {

constexpr int64_t kEntryBytes = 24;       // 8 ENTRY of kernels/cpu/depthwise_tile.py
constexpr int64_t kRowBytes = 256 << 10;  // rows of a tile: a quarter of an L2 of 1 MiB
constexpr int64_t kStencilRows = 2;       // ROWS of kernels/cpu/depthwise_stencil.py
constexpr int64_t kTilesPerThread = 4;
constexpr int64_t kPartialBytes = 1 << 20;  // images' sums of a filter gradient held at a time

void check_depthwise(Call& call, const Map& x, const Filter& w, const Map& y, const Geometry& g) {
  const char* f = call.check.function();
  if (call.winograd && !call.automatic) {
    fail(PYI_UNSUPPORTED, f,
         ": algorithm 'winograd' needs a convolution that sums over channels, expected auto, "
         "direct or plain");
  }
  if (w.K % x.C != 0) {
    fail(PYI_INVALID_VALUE, f, ": w has K = ", w.K, " filters, expected a multiple of C = ", x.C,
         ", the channels of x");
  }
  if (w.C != 1) {
    fail(PYI_INVALID_VALUE, f, ": w has ", w.C, " input channels a filter, expected 1");
  }
  Filter dense = w;
  dense.C = x.C;
  check_conv(call.check, x, dense, y, g);
}

// With a multiplier the lanes are the M filters of a channel: packed like a convolution of C
// channels and M filters.
Filter lanes_of(const Filter& w, int64_t C) {
  Filter lanes = w;
  if (w.K == C) return lanes;
  lanes.K = w.K / C, lanes.C = C, lanes.c = lanes.K * w.k;
  return lanes;
}

int64_t panels_of(const Level& level, int64_t K, int64_t C) {
  return K == C ? ceil_div(K, level.nr()) : C * ceil_div(K / C, level.nr());
}

DepthwiseArgs* fill(Call& call, const Map& x, const Map& y, const Map& mask, const Filter& w,
                    const Geometry& g) {
  auto* a = call.list.record<DepthwiseArgs>();
  a->x = x.address(), a->x_n = x.n, a->x_h = x.h, a->x_w = x.w;
  a->y = y.address(), a->y_n = y.n, a->y_h = y.h, a->y_w = y.w;
  a->mask = mask.address(), a->m_n = mask.n, a->m_h = mask.h, a->m_w = mask.w;
  a->zero = address(zero_row(call.level.nr()));
  a->N = x.N, a->H = x.H, a->W = x.W, a->C = x.C, a->K = y.C, a->R = w.R, a->S = w.S;
  a->P = y.H, a->Q = y.W, a->stride_h = g.stride_h, a->stride_w = g.stride_w;
  a->pad_h = g.pad_h, a->pad_w = g.pad_w;
  a->panels = panels_of(call.level, y.C, x.C);
  return a;
}

// Tiles of whole rows of all panels while the rows they read stay in cache; fewer rows, then fewer
// panels, where there would be too few tiles.
void add_tiled(Call& call, const char* program, DepthwiseArgs* a, int64_t rows, const Map& read,
               int64_t rows_apart) {
  const int64_t bytes = std::max<int64_t>(1, rows_apart * read.W * read.C * 4);
  const int64_t want =
      ceil_div(kTilesPerThread * call.threads, std::max<int64_t>(a->N, 1));  // of one image
  const int64_t fit = std::max<int64_t>(kRowBytes / bytes, 1);
  a->tile_rows = std::min(round_up(fit, kStencilRows), rows);
  a->row_tiles = ceil_div(rows, a->tile_rows);
  const int64_t cut =
      call.threads > 1 ? std::min<int64_t>(a->panels, ceil_div(want, a->row_tiles)) : 1;
  a->tile_panels = ceil_div(a->panels, cut);
  a->panel_tiles = ceil_div(a->panels, a->tile_panels);
  call.list.add(call.level.program(program), a, a->N * a->row_tiles * a->panel_tiles,
                static_cast<size_t>(kEntryBytes * a->R * a->S));
}

void add_plain(Call& call, const char* program, const Map& x, const Filter& w, const float* bias,
               const Map& y, const Map& mask, const Geometry& g, bool relu, bool accumulate,
               int64_t tiles) {
  auto* a = call.list.record<PlainConvArgs>();
  a->x = x.address(), a->x_n = x.n, a->x_h = x.h, a->x_w = x.w;
  a->w = address(w.data), a->w_k = w.k, a->w_r = w.r, a->w_s = w.s, a->bias = address(bias);
  a->y = y.address(), a->y_n = y.n, a->y_h = y.h, a->y_w = y.w;
  a->mask = mask.address(), a->m_n = mask.n, a->m_h = mask.h, a->m_w = mask.w;
  a->N = x.N, a->H = x.H, a->W = x.W, a->C = x.C, a->K = y.C, a->R = w.R, a->S = w.S;
  a->P = y.H, a->Q = y.W, a->stride_h = g.stride_h, a->stride_w = g.stride_w;
  a->pad_h = g.pad_h, a->pad_w = g.pad_w, a->relu = relu, a->accumulate = accumulate;
  call.list.add(call.level.program(program), a, tiles, 64);
}

// Packing R S K floats costs less than the call, so there is no packed form to hand in.
Filter filter_of(Call& call, const DLTensor* w) {
  Filter f = call.check.filter(w, "w", 1, 1);
  if (f.packed) {
    fail(PYI_INVALID_VALUE, call.check.function(), ": w has rank 1, expected (K, R, S, 1)");
  }
  return f;
}

Map mask_of(Call& call, const DLTensor* y, const Map& gy) {
  Map mask;
  if (y == nullptr) return mask;
  mask = call.check.map(y, "y");
  call.check.extents("y", mask, gy.N, gy.H, gy.W, gy.C, "(N, P, Q, K)");
  return mask;
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_depthwise_conv_fprop(const DLTensor* x_, const DLTensor* w_, const DLTensor* b_,
                                    const DLTensor* y_, const pyi_conv_params* params,
                                    const pyi_options* options) {
  return entry("depthwise_conv_fprop", options, [&](Call& call) {
    Geometry g = geometry(call.check, params);
    Map x = call.check.map(x_, "x"), y = call.check.map(y_, "y", true);
    Filter w = filter_of(call, w_);
    const float* b = call.check.vector(b_, "b", w.K);
    check_depthwise(call, x, w, y, g);
    call.check.disjoint();
    if (x.empty()) return;
    if (call.plain) {
      add_plain(call, "depthwise_fprop_plain", x, w, b, y, {}, g, params->relu != 0, false,
                y.N * y.H);
      return;
    }
    const float* weights = packed(call, lanes_of(w, x.C), false);
    call.list.barrier();
    DepthwiseArgs* a = fill(call, x, y, {}, w, g);
    a->w = address(weights), a->bias = address(b), a->relu = params->relu != 0;
    add_tiled(call, "depthwise_fprop", a, y.H, x, g.stride_h);
  });
}

pyi_status pyi_depthwise_conv_dgrad(const DLTensor* gy_, const DLTensor* w_, const DLTensor* y_,
                                    const DLTensor* gx_, const pyi_conv_params* params,
                                    const pyi_options* options) {
  return entry("depthwise_conv_dgrad", options, [&](Call& call) {
    Geometry g = geometry(call.check, params);
    Map gy = call.check.map(gy_, "gy");
    Map mask = mask_of(call, y_, gy);
    Map gx = call.check.map(gx_, "gx", true);
    Filter w = filter_of(call, w_);
    check_depthwise(call, gx, w, gy, g);
    call.check.disjoint();
    if (gx.empty()) return;
    if (call.plain || gy.C != gx.C) {
      add_plain(call, "depthwise_dgrad_plain", gx, w, nullptr, gy, mask, g, false,
                params->accumulate != 0, gx.N * gx.H);
      return;
    }
    const float* weights = packed(call, w, false);
    call.list.barrier();
    DepthwiseArgs* a = fill(call, gx, gy, mask, w, g);
    a->w = address(weights), a->accumulate = params->accumulate != 0;
    add_tiled(call, "depthwise_dgrad", a, gx.H, gx, 1);
  });
}

pyi_status pyi_depthwise_conv_wgrad(const DLTensor* x_, const DLTensor* gy_, const DLTensor* y_,
                                    const DLTensor* gw_, const DLTensor* gb_,
                                    const pyi_conv_params* params, const pyi_options* options) {
  return entry("depthwise_conv_wgrad", options, [&](Call& call) {
    Geometry g = geometry(call.check, params);
    Map x = call.check.map(x_, "x"), gy = call.check.map(gy_, "gy");
    Map mask = mask_of(call, y_, gy);
    Filter gw = call.check.filter_gradient(gw_, "gw");
    check_depthwise(call, x, gw, gy, g);
    float* gb = call.check.vector(gb_, "gb", gw.K, true);
    call.check.disjoint();
    if (call.plain) {
      add_plain(call, "depthwise_wgrad_plain", x, gw, gb, gy, mask, g, false, false, gy.C);
      return;
    }
    const int64_t nr = call.level.nr(), sums = gw.R * gw.S + 1;
    const int64_t images =
        std::clamp<int64_t>(kPartialBytes / (4 * gy.C * sums), 1, std::max<int64_t>(x.N, 1));
    const int64_t partial = address(call.list.floats(images * gy.C * sums));
    // One run of images after another: the images' sums are added in one order for any number.
    int64_t n = 0;
    do {
      DepthwiseArgs* a = fill(call, x, gy, mask, gw, g);
      a->x += 4 * n * x.n, a->y += 4 * n * gy.n, a->mask += 4 * n * mask.n;
      a->N = std::min(images, x.N - n), a->accumulate = n > 0;
      a->gw = address(gw.data), a->gb = address(gb), a->partial = partial;
      call.list.add(call.level.program("depthwise_wgrad"), a, a->N * a->panels,
                    static_cast<size_t>(4 * nr * (sums + 1)));
      call.list.barrier();
      call.list.add(call.level.program("depthwise_wgrad_merge"), a, a->panels, 64);
      call.list.barrier();
      n += images;
    } while (n < x.N);
  });
}

}  // extern "C"
