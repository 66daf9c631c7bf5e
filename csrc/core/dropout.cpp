// Entry point of dropout.
#include <cmath>

#include "core.h"

namespace pyi {
namespace {

constexpr int64_t kTile = 4096;  // TILE of kernels/cpu/dropout.py

// A map, or a matrix as one pixel per sample.
Map samples(Check& check, const DLTensor* t, const char* name, bool output = false) {
  if (t == nullptr || t->ndim != 2) return check.map(t, name, output);
  Map m = check.matrix(t, name, output);
  m.N = m.N * m.W, m.n = m.w, m.h = m.w = m.C, m.H = m.W = 1;
  return m;
}

bool dense(const Map& m) { return m.w == m.C && m.h == m.W * m.C; }

Map flat(Map m) {
  m.C = m.h = m.w = m.H * m.W * m.C;
  m.H = m.W = 1;
  return m;
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_dropout(const DLTensor* x_, const DLTensor* y_, double p, uint64_t seed,
                       uint32_t step, uint32_t layer, uint32_t first_sample,
                       const pyi_options* options) {
  return entry("dropout", options, [&](Call& call) {
    if (!(p >= 0 && p < 1)) {
      fail(PYI_INVALID_VALUE, "dropout: p is ", p, ", expected a number in [0, 1)");
    }
    Map x = samples(call.check, x_, "x"), y = samples(call.check, y_, "y", true);
    call.check.extents("y", y, x.N, x.H, x.W, x.C, "the shape of x");
    if (first_sample + x.N > int64_t{1} << 32) {
      fail(PYI_INVALID_VALUE, "dropout: first_sample is ", first_sample,
           ", expected at most 2^32 - N, N = ", x.N);
    }
    // In place is fine; any other overlap is not.
    const bool in_place = x.data == y.data && x.n == y.n && x.h == y.h && x.w == y.w;
    if (!in_place) call.check.disjoint();
    if (dense(x) && dense(y)) x = flat(x), y = flat(y);
    auto* a = call.list.record<DropoutArgs>();
    *a = {x.address(),
          x.n,
          x.h,
          x.w,
          y.address(),
          y.n,
          y.h,
          y.w,
          x.N,
          x.H,
          x.W,
          x.C,
          static_cast<Int>(seed),
          step,
          layer,
          first_sample,
          static_cast<Int>(std::nearbyint(std::ldexp(p, 32))),  // half to even
          static_cast<float>(1 - p),
          0};
    const int64_t tiles = call.plain ? 1 : ceil_div(x.H * x.W * x.C, kTile);
    call.list.add(call.level.program(call.plain ? "dropout_plain" : "dropout"), a, x.N * tiles,
                  4 * kTile + 64);
  });
}

}  // extern "C"
