// Entry points of linear layers: a 1x1 convolution over (1, 1, N, C).
#include "conv_plan.h"

namespace pyi {
namespace {

// Weights (K, C) as a (K, 1, 1, C) filter, or packed.
Filter weights(Check& check, const DLTensor* t, const char* name) {
  if (t == nullptr || t->ndim == 1) return check.filter(t, name, 1, 1);
  if (t->ndim != 2) {
    fail(PYI_INVALID_VALUE, check.function(), ": ", name, " has shape ",
         shape_text(t->shape, t->ndim), ", expected (K, C), or packed (floats,)");
  }
  int64_t shape[4] = {t->shape[0], 1, 1, t->shape[1]}, strides[4];
  DLTensor wide = *t;
  wide.ndim = 4, wide.shape = shape;
  if (t->strides != nullptr) {
    strides[0] = strides[1] = strides[2] = t->strides[0], strides[3] = t->strides[1];
    wide.strides = strides;
  }
  return check.filter(&wide, name, 1, 1);
}

// A matrix of this shape.
void check_matrix(Check& check, const char* name, const Map& m, int64_t N, int64_t C,
                  const char* letters) {
  const int64_t rows = m.N == 0 ? 0 : m.W;
  if (rows == N && m.C == C) return;
  int64_t actual[2] = {rows, m.C}, want[2] = {N, C};
  fail(PYI_INVALID_VALUE, check.function(), ": ", name, " has shape ", shape_text(actual, 2),
       ", expected ", letters, " = ", shape_text(want, 2));
}

int64_t rows_of(const Map& m) { return m.N == 0 ? 0 : m.W; }

Map column(Map m) {
  std::swap(m.H, m.W);
  m.h = m.w, m.w = m.C;
  return m;
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_linear_fprop(const DLTensor* x_, const DLTensor* w_, const DLTensor* b_,
                            const DLTensor* y_, int relu, const pyi_options* options) {
  return entry("linear_fprop", options, [&](Call& call) {
    call.check.allow_bfloat16();
    Map x = call.check.matrix(x_, "x");
    Filter w = weights(call.check, w_, "w");
    Map y = call.check.matrix(y_, "y", true);
    w = checked(call.check, w, call.level, y.C, x.C, "w");
    check_matrix(call.check, "x", x, rows_of(x), w.C, "(N, C)");
    check_matrix(call.check, "y", y, rows_of(x), w.K, "(N, K)");
    const float* b = call.check.vector(b_, "b", w.K);
    call.check.disjoint();
    if (x.empty()) return;
    const float* packed_w = call.plain ? nullptr : packed(call, w, false);
    call.list.barrier();
    add_fprop(call, x, w, packed_w, b, y, {}, relu != 0);
  });
}

pyi_status pyi_linear_dgrad(const DLTensor* gy_, const DLTensor* w_, const DLTensor* y_,
                            const DLTensor* gx_, const pyi_options* options) {
  return entry("linear_dgrad", options, [&](Call& call) {
    Map gy = call.check.matrix(gy_, "gy"), mask;
    Filter w = weights(call.check, w_, "w");
    if (y_ != nullptr) mask = call.check.matrix(y_, "y");
    Map gx = call.check.matrix(gx_, "gx", true);
    if (w.packed) {  // packed for dgrad: its outputs are the input channels
      w = checked(call.check, w, call.level, gx.C, gy.C, "w");
      std::swap(w.K, w.C);
    }
    check_matrix(call.check, "gy", gy, rows_of(gy), w.K, "(N, K)");
    if (y_ != nullptr) check_matrix(call.check, "y", mask, rows_of(gy), w.K, "(N, K)");
    check_matrix(call.check, "gx", gx, rows_of(gy), w.C, "(N, C)");
    call.check.disjoint();
    if (gx.empty()) return;
    const float* packed_w = call.plain ? nullptr : packed(call, w, true);
    call.list.barrier();
    // As a column of rows, so that a tile masks its own rows of gy and not all of them.
    add_dgrad(call, column(gy), w, packed_w, column(mask), column(gx), {}, false);
  });
}

pyi_status pyi_linear_wgrad(const DLTensor* x_, const DLTensor* gy_, const DLTensor* y_,
                            const DLTensor* gw_, const DLTensor* gb_, const pyi_options* options) {
  return entry("linear_wgrad", options, [&](Call& call) {
    Map x = call.check.matrix(x_, "x"), gy = call.check.matrix(gy_, "gy"), mask;
    if (y_ != nullptr) mask = call.check.matrix(y_, "y");
    check_matrix(call.check, "gy", gy, rows_of(x), gy.C, "(N, K)");
    if (y_ != nullptr) check_matrix(call.check, "y", mask, rows_of(gy), gy.C, "(N, K)");
    float* gw = call.check.contiguous(gw_, "gw", {gy.C, x.C});
    float* gb = call.check.vector(gb_, "gb", gy.C, true);
    call.check.disjoint();
    add_wgrad(call, x, gy, mask, gw, gb, 1, 1, {}, false);
  });
}

}  // extern "C"
