// Entry points of reduce_conv: 1x1 -> ReLU -> KxK -> ReLU, forward and backward.
//
// Forward without a saved reduced map is the fused program; with one, two launches over that map
// (the backward needs it in memory anyway). Both give the same bits. A 3x3 by Winograd reads the
// reduced map tile by tile across images, so it is two launches too, over groups of images.
#include <algorithm>

#include "cuda_call.h"

namespace pyi {

// The fused program: one source, computed tile by tile by the 1x1 of `first`.
static void add_reduce_conv(Call& call, Map x, const Filter& wr, const float* packed_r,
                            const float* br, const Filter& w, const float* packed_w, const float* b,
                            Map y, const Geometry& g) {
  const Level& level = call.level;
  Map r;  // as it will lie in scratch: no address of its own
  const int64_t terms =
      wr.K * x.size / 4;  // of r's channels; pairs of bfloat16 (conv_bfloat16.cpp)
  r.N = x.N, r.H = x.H, r.W = x.W, r.C = terms;
  const int64_t size = x.size;
  if (size == 2) x = in_pairs(x, true), y = in_pairs(y, false);
  ConvSource from_x{x, {}, packed_r, 1, 1, {}}, from_r{r, {}, packed_w, w.R, w.S, g};
  ConvArgs* a = fill_conv(call, {from_r}, {{y, b, nullptr}}, true, false);
  auto* source = reinterpret_cast<Source*>(a->sources);
  source->staged = source->merged = 1;
  const int64_t width = staged_width(from_r, true, a->Q), pixels = a->P * a->Q;
  r.w = terms, r.h = width * terms, r.n = 0, r.C = wr.K, r.size = size;
  ConvArgs* first = fill_conv(call, {from_x}, {{r, br, nullptr}}, true, false);
  first->N = x.N, first->P = x.H, first->Q = x.W;
  a->reduce = address(first);
  a->zero = address(zero_row(std::max(w.S * terms, x.C)));
  a->lists = std::max(a->lists, first->lists);
  // Whole maps compute no halo twice; larger maps are cut so that the reduced rows stay in L2, and
  // a batch smaller than the team so that every thread has a piece.
  int64_t pieces = std::max<int64_t>(1, ceil_div(call.threads, std::max<Int>(a->N, 1)));
  int64_t tile = std::min(round_up(ceil_div(pixels, pieces), level.mr), round_up(pixels, level.mr));
  while (tile > level.mr && staged_bytes(from_r, true, tile, a->Q) > kStagedBytes) tile -= level.mr;
  a->tile_pixels = tile;
  a->pixel_tiles = ceil_div(pixels, tile);
  a->tile_panels = a->panel_count, a->panel_tiles = 1;
  call.list.add(level.program(conv_program(call, true, size)), a, a->N * a->pixel_tiles,
                static_cast<size_t>(a->lists + staged_bytes(from_r, true, tile, a->Q)));
}

}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_reduce_conv_fprop(const DLTensor* x_, const DLTensor* wr_, const DLTensor* br_,
                                 const DLTensor* w_, const DLTensor* b_, const DLTensor* y_,
                                 const DLTensor* r_, const pyi_conv_params* params,
                                 const pyi_options* options) {
  return entry("reduce_conv_fprop", options, [&](Call& call) {
    call.check.allow_cuda();
    call.check.allow_bfloat16();
    Geometry g = geometry(call.check, params);
    Map x = call.check.map(x_, "x");
    Filter wr = call.check.filter(wr_, "wr", 1, 1);
    Filter w = call.check.filter(w_, "w", params->kernel_h, params->kernel_w);
    Map y = call.check.map(y_, "y", true), r;
    if (r_ != nullptr) r = call.check.map(r_, "r", true);
    // Two packed filters do not tell the reduced width.
    int64_t Cr = !wr.packed ? wr.K : !w.packed ? w.C : r_ ? r.C : params->reduced;
    if (Cr == 0 && br_ != nullptr && br_->ndim == 1) Cr = br_->shape[0];
    if (Cr < 1) {
      fail(PYI_INVALID_VALUE,
           "reduce_conv_fprop: wr and w are packed, so the reduced width must be "
           "given, got reduced = ",
           Cr);
    }
    wr = checked(call.check, wr, call.level, Cr, x.C, "wr");
    w = checked(call.check, w, call.level, y.C, Cr, "w");
    if (wr.R != 1 || wr.S != 1 || wr.C != x.C) {
      fail(PYI_INVALID_VALUE, "reduce_conv_fprop: wr is (", wr.K, ", ", wr.R, ", ", wr.S, ", ",
           wr.C, "), expected (Cr, 1, 1, C) = (", wr.K, ", 1, 1, ", x.C, ")");
    }
    if (w.C != wr.K) {
      fail(PYI_INVALID_VALUE, "reduce_conv_fprop: w is (", w.K, ", ", w.R, ", ", w.S, ", ", w.C,
           "), expected (K, R, S, Cr) = (", w.K, ", ", w.R, ", ", w.S, ", ", wr.K, ")");
    }
    const float* br = call.check.vector(br_, "br", wr.K);
    const float* b = call.check.vector(b_, "b", w.K);
    Map reduced = x;
    reduced.C = wr.K;
    check_conv(call.check, reduced, w, y, g);
    w.winograd = choose_winograd(call, w, g);
    if (r_ != nullptr) call.check.extents("r", r, x.N, x.H, x.W, wr.K, "(N, H, W, Cr)");
    call.check.disjoint();
    if (x.empty()) return;
    if (call.check.on_cuda()) {
      BranchOperands o;
      o.x = x, o.wr = wr, o.br = br, o.w = w, o.b = b, o.y = y, o.r = r;
      return cuda_reduce_conv(call, false, o, g, false);
    }
    const float* packed_r = call.plain ? nullptr : packed(call, wr, false);
    const float* packed_w = call.plain ? nullptr : packed(call, w, false);
    call.list.barrier();
    const bool pairs = x.size == 4 || (x.C % 2 == 0 && wr.K % 2 == 0 && is_even(x) && is_even(y));
    if (r_ == nullptr && !call.plain && !w.winograd && pairs) {
      add_reduce_conv(call, x, wr, packed_r, br, w, packed_w, b, y, g);
      return;
    }
    // Without a saved map the batch goes through in groups whose reduced maps stay in cache.
    int64_t group = x.N;
    if (r_ == nullptr) {
      group = images_in_cache(call, x.N, x.H * x.W * wr.K * 4);
      r = new_map(call, group, x.H, x.W, wr.K, x.size);
    }
    for (int64_t n = 0; n < x.N; n += group) {
      const int64_t count = std::min(group, x.N - n);
      const Map part = images(r, r_ == nullptr ? 0 : n, count);
      add_fprop(call, images(x, n, count), wr, packed_r, br, part, {}, true);
      call.list.barrier();
      add_fprop(call, part, w, packed_w, b, images(y, n, count), g, true);
      call.list.barrier();
    }
  });
}

pyi_status pyi_reduce_conv_backward(const DLTensor* gy_, const DLTensor* x_, const DLTensor* wr_,
                                    const DLTensor* w_, const DLTensor* r_, const DLTensor* y_,
                                    const DLTensor* gx_, const DLTensor* gwr_, const DLTensor* gbr_,
                                    const DLTensor* gw_, const DLTensor* gb_,
                                    const pyi_conv_params* params, const pyi_options* options) {
  return entry("reduce_conv_backward", options, [&](Call& call) {
    call.check.allow_cuda();
    Geometry g = geometry(call.check, params);
    Map gy = call.check.map(gy_, "gy"), x = call.check.map(x_, "x");
    Filter wr = call.check.filter(wr_, "wr", 0, 0), w = call.check.filter(w_, "w", 0, 0);
    Map r = call.check.map(r_, "r"), y = call.check.map(y_, "y"), gx;
    if (gx_ != nullptr) {
      gx = call.check.map(gx_, "gx", true);
      call.check.extents("gx", gx, x.N, x.H, x.W, x.C, "(N, H, W, C)");
    }
    if (wr.packed || w.packed) {
      fail(PYI_UNSUPPORTED, "reduce_conv_backward: wr and w must be (K, R, S, C), not packed");
    }
    call.check.extents("r", r, x.N, x.H, x.W, wr.K, "(N, H, W, Cr)");
    check_conv(call.check, x, wr, r, {});
    check_conv(call.check, r, w, gy, g);
    const bool winograd = choose_winograd(call, w, g);
    w.winograd = choose_winograd(call, w, g, true);
    call.check.extents("y", y, gy.N, gy.H, gy.W, gy.C, "(N, P, Q, K)");
    float* gwr = call.check.contiguous(gwr_, "gwr", {wr.K, 1, 1, wr.C});
    float* gw = call.check.contiguous(gw_, "gw", {w.K, w.R, w.S, w.C});
    float* gbr = call.check.vector(gbr_, "gbr", wr.K, true);
    float* gb = call.check.vector(gb_, "gb", w.K, true);
    call.check.disjoint();
    if (call.check.on_cuda()) {
      BranchOperands o;
      o.gy = gy, o.x = x, o.wr = wr, o.w = w, o.r = r, o.y = y;
      o.gx = gx, o.gwr = gwr, o.gbr = gbr, o.gw = gw, o.gb = gb;
      return cuda_reduce_conv(call, true, o, g, params->accumulate != 0);
    }
    Map gr = new_map(call, x.N, x.H, x.W, wr.K);
    const bool empty = x.empty();
    const float* packed_w = call.plain || empty ? nullptr : packed(call, w, true);
    const float* packed_r = call.plain || empty || !gx_ ? nullptr : packed(call, wr, true);
    call.list.barrier();
    if (!empty) add_dgrad(call, gy, w, packed_w, y, gr, g, false);
    add_wgrad(call, r, gy, y, gw, gb, w.R, w.S, g, winograd);
    call.list.barrier();
    if (gx_ != nullptr && !empty) {
      add_dgrad(call, gr, wr, packed_r, r, gx, {}, params->accumulate != 0);
    }
    add_wgrad(call, x, gr, r, gwr, gbr, 1, 1, {}, false);
  });
}

}  // extern "C"
