// Entry points of batch normalisation.
#include <algorithm>
#include <cmath>

#include "core.h"

namespace pyi {
namespace {

constexpr int64_t kBlock = 64;              // BLOCK of kernels/cpu/batch_norm.py
constexpr int64_t kChunkBytes = 128 << 10;  // a chunk is read twice: the second time from L2

// A map, or a matrix as rows of one pixel.
Map pixels(Check& check, const DLTensor* t, const char* name, bool output = false) {
  if (t == nullptr || t->ndim != 2) return check.map(t, name, output);
  Map m = check.matrix(t, name, output);
  m.N = m.N * m.W, m.n = m.h = m.w, m.H = m.W = 1;
  return m;
}

void same(Check& check, const char* name, const Map& m, const Map& x) {
  check.extents(name, m, x.N, x.H, x.W, x.C, "the shape of x");
}

float checked_eps(Check& check, float eps) {
  if (!(eps >= 0) || std::isinf(eps)) {
    fail(PYI_INVALID_VALUE, check.function(), ": eps is ", eps,
         ", expected a number of at least 0");
  }
  return eps;
}

// The record of one op. Chunks are a function of the shape alone: they fix the order of the sums.
BatchNormArgs* fill(Call& call, const Map& x, const Map& y, const float* gamma, const float* mean,
                    const float* var, float eps) {
  auto* a = call.list.record<BatchNormArgs>();
  a->x = x.address(), a->x_n = x.n, a->x_h = x.h, a->x_w = x.w;
  a->y = y.address(), a->y_n = y.n, a->y_h = y.h, a->y_w = y.w;
  a->gamma = address(gamma), a->mean = address(mean), a->var = address(var), a->eps = eps;
  a->N = x.N, a->H = x.H, a->W = x.W, a->C = x.C;
  const int64_t rows = x.N * x.H;
  a->chunk_rows = std::clamp<int64_t>(kChunkBytes / (4 * x.W * x.C), 1, std::max<int64_t>(rows, 1));
  a->chunks = ceil_div(rows, a->chunk_rows);
  return a;
}

void add(Call& call, const char* program, BatchNormArgs* a, int64_t tiles) {
  call.list.add(call.level.program(program), a, tiles, static_cast<size_t>(12 * a->C));
  call.list.barrier();
}

void add_inference(Call& call, BatchNormArgs* a) {
  if (call.plain) {
    add(call, "batch_norm_inference_plain", a, a->C);
  } else {
    add(call, "batch_norm_inference", a, a->chunks);
  }
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_batch_norm_fprop(const DLTensor* x_, const DLTensor* gamma_, const DLTensor* beta_,
                                const DLTensor* y_, const DLTensor* mean_, const DLTensor* var_,
                                float eps, int relu, const pyi_options* options) {
  return entry("batch_norm_fprop", options, [&](Call& call) {
    eps = checked_eps(call.check, eps);
    Map x = pixels(call.check, x_, "x");
    const float* gamma = call.check.needed(gamma_, "gamma", x.C);
    const float* beta = call.check.needed(beta_, "beta", x.C);
    Map y = pixels(call.check, y_, "y", true);
    same(call.check, "y", y, x);
    float* mean = call.check.needed(mean_, "mean", x.C, true);
    float* var = call.check.needed(var_, "var", x.C, true);
    call.check.disjoint();
    BatchNormArgs* a = fill(call, x, y, gamma, mean, var, eps);
    a->beta = address(beta), a->relu = relu;
    if (call.plain) {
      add(call, "batch_norm_statistics_plain", a, a->C);
    } else {
      a->partial = address(call.list.floats(2 * a->chunks * a->C));
      add(call, "batch_norm_statistics", a, a->chunks);
      add(call, "batch_norm_merge", a, ceil_div(a->C, kBlock));
    }
    add_inference(call, a);
  });
}

pyi_status pyi_batch_norm_inference(const DLTensor* x_, const DLTensor* gamma_,
                                    const DLTensor* beta_, const DLTensor* mean_,
                                    const DLTensor* var_, const DLTensor* y_, float eps, int relu,
                                    const pyi_options* options) {
  return entry("batch_norm_inference", options, [&](Call& call) {
    eps = checked_eps(call.check, eps);
    Map x = pixels(call.check, x_, "x");
    const float* gamma = call.check.needed(gamma_, "gamma", x.C);
    const float* beta = call.check.needed(beta_, "beta", x.C);
    const float* mean = call.check.needed(mean_, "mean", x.C);
    const float* var = call.check.needed(var_, "var", x.C);
    Map y = pixels(call.check, y_, "y", true);
    same(call.check, "y", y, x);
    call.check.disjoint();
    BatchNormArgs* a = fill(call, x, y, gamma, mean, var, eps);
    a->beta = address(beta), a->relu = relu;
    add_inference(call, a);
  });
}

pyi_status pyi_batch_norm_dgrad(const DLTensor* gy_, const DLTensor* x_, const DLTensor* gamma_,
                                const DLTensor* mean_, const DLTensor* var_, const DLTensor* y_,
                                const DLTensor* gx_, const DLTensor* ggamma_,
                                const DLTensor* gbeta_, float eps, const pyi_options* options) {
  return entry("batch_norm_dgrad", options, [&](Call& call) {
    eps = checked_eps(call.check, eps);
    Map gy = pixels(call.check, gy_, "gy"), x = pixels(call.check, x_, "x"), y;
    same(call.check, "gy", gy, x);
    const float* gamma = call.check.needed(gamma_, "gamma", x.C);
    const float* mean = call.check.needed(mean_, "mean", x.C);
    const float* var = call.check.needed(var_, "var", x.C);
    if (y_ != nullptr) {
      y = pixels(call.check, y_, "y");
      same(call.check, "y", y, x);
    }
    Map gx = pixels(call.check, gx_, "gx", true);
    same(call.check, "gx", gx, x);
    float* ggamma = call.check.needed(ggamma_, "ggamma", x.C, true);
    float* gbeta = call.check.needed(gbeta_, "gbeta", x.C, true);
    call.check.disjoint();
    BatchNormArgs* a = fill(call, x, y, gamma, mean, var, eps);
    a->gy = gy.address(), a->gy_n = gy.n, a->gy_h = gy.h, a->gy_w = gy.w;
    a->gx = gx.address(), a->gx_n = gx.n, a->gx_h = gx.h, a->gx_w = gx.w;
    a->ggamma = address(ggamma), a->gbeta = address(gbeta);
    if (call.plain) {
      add(call, "batch_norm_dgrad_plain", a, a->C);
      return;
    }
    a->partial = address(call.list.floats(2 * a->chunks * a->C));
    add(call, "batch_norm_gradient_sums", a, a->chunks);
    add(call, "batch_norm_gradient_merge", a, ceil_div(a->C, kBlock));
    add(call, "batch_norm_gradient", a, a->chunks);
  });
}

}  // extern "C"
