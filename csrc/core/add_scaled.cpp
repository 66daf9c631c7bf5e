// Entry points of the residual sum and of ReLU alone.
#include <limits>

#include "core.h"

namespace pyi {
namespace {

constexpr int64_t kTile = 8192;  // floats of a tile of dense maps: a few microseconds

// A map, or a matrix as rows of one pixel.
Map elements(Check& check, const DLTensor* t, const char* name, bool output = false) {
  if (t == nullptr) return {};
  return t->ndim == 2 ? check.matrix(t, name, output) : check.map(t, name, output);
}

bool dense(const Map& m) {
  return m.data == nullptr || (m.w == m.C && m.h == m.W * m.C && (m.N == 1 || m.n == m.H * m.h));
}

void same(Check& check, const DLTensor* t, const char* name, const Map& m, const Map& like,
          const char* letters) {
  if (t != nullptr) check.extents(name, m, like.N, like.H, like.W, like.C, letters);
}

void needed(const Check& check, const DLTensor* t, const char* name) {
  if (t == nullptr) {
    fail(PYI_INVALID_TYPE, check.function(), ": ", name, " is missing, expected an array");
  }
}

void add(Call& call, const char* program, const char* plain, Map a, Map b, Map y, Map g,
         const Map& like, float scale, bool relu) {
  if (like.empty()) return;
  auto* r = call.list.record<AddScaledArgs>();
  r->N = like.N, r->H = like.H, r->W = like.W, r->C = like.C;
  r->count = std::numeric_limits<Int>::max();
  if (dense(a) && dense(b) && dense(y) && dense(g)) {
    r->count = like.N * like.H * like.W * like.C;
    r->N = 1, r->H = ceil_div(r->count, kTile), r->W = 1, r->C = kTile;
    for (Map* m : {&a, &b, &y, &g}) m->h = kTile;
  }
  r->a = a.address(), r->a_n = a.n, r->a_h = a.h, r->a_w = a.w;
  r->b = b.address(), r->b_n = b.n, r->b_h = b.h, r->b_w = b.w;
  r->y = y.address(), r->y_n = y.n, r->y_h = y.h, r->y_w = y.w;
  r->g = g.address(), r->g_n = g.n, r->g_h = g.h, r->g_w = g.w;
  r->scale = scale, r->relu = relu;
  call.list.add(call.level.program(call.plain ? plain : program), r, r->N * r->H, 64);
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_add_scaled_fprop(const DLTensor* a_, const DLTensor* b_, const DLTensor* y_,
                                float scale, int relu, const pyi_options* options) {
  return entry("add_scaled_fprop", options, [&](Call& call) {
    needed(call.check, a_, "a"), needed(call.check, y_, "y");
    Map a = elements(call.check, a_, "a"), b = elements(call.check, b_, "b");
    Map y = elements(call.check, y_, "y", true);
    if (b_ == nullptr && relu == 0) {
      fail(PYI_INVALID_VALUE, "add_scaled_fprop: b is missing, expected it where relu is 0");
    }
    same(call.check, b_, "b", b, a, "the shape of a");
    same(call.check, y_, "y", y, a, "the shape of a");
    call.check.disjoint();
    add(call, "add_scaled_fprop", "add_scaled_fprop_plain", a, b, y, {}, a, scale, relu != 0);
  });
}

pyi_status pyi_add_scaled_dgrad(const DLTensor* gy_, const DLTensor* y_, const DLTensor* ga_,
                                const DLTensor* gb_, float scale, const pyi_options* options) {
  return entry("add_scaled_dgrad", options, [&](Call& call) {
    needed(call.check, gy_, "gy");
    Map gy = elements(call.check, gy_, "gy"), y = elements(call.check, y_, "y");
    Map ga = elements(call.check, ga_, "ga", true), gb = elements(call.check, gb_, "gb", true);
    same(call.check, y_, "y", y, gy, "the shape of gy");
    same(call.check, ga_, "ga", ga, gy, "the shape of gy");
    same(call.check, gb_, "gb", gb, gy, "the shape of gy");
    call.check.disjoint();
    add(call, "add_scaled_dgrad", "add_scaled_dgrad_plain", ga, gb, y, gy, gy, scale, false);
  });
}

}  // extern "C"
