// Entry points of local response normalisation.
#include <algorithm>

#include "core.h"

namespace pyi {
namespace {

// size, alpha, beta and k are free where the formula has a meaning for them.
void check_lrn(Check& check, int64_t size) {
  check.range("size", size, 1, 1 << 20);
  if (size % 2 == 0) {
    fail(PYI_INVALID_VALUE, check.function(), ": size is ", size, ", expected an odd number");
  }
}

// A window wider than the channels sees no more than all of them.
int64_t clipped_size(int64_t size, int64_t C) { return std::min(size, 2 * C - 1); }

void add_lrn(Call& call, const char* program, const Map& x, const Map& gy, const Map& y,
             int64_t size, float alpha, float beta, float k) {
  if (x.size == 2 && call.plain) {
    fail(PYI_UNSUPPORTED, call.check.function(),
         ": x is bfloat16, expected float32 with algorithm 'plain'");
  }
  const float scale = alpha / static_cast<float>(size);
  const float slope = 2 * alpha * beta / static_cast<float>(size);
  size = clipped_size(size, x.C);
  auto* a = call.list.record<LrnArgs>();
  *a = {x.address(), x.n, x.h, x.w, gy.address(), gy.n, gy.h,  gy.w, y.address(), y.n,  y.h,
        y.w,         x.N, x.H, x.W, x.C,          size, scale, beta, k,           slope};
  // Five rows of row_bytes in kernels/cpu/lrn.py.
  call.list.add(call.level.program(program), a, x.N * x.H,
                static_cast<size_t>(5 * ceil_div(x.C + size, 16) * 64));
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_lrn_fprop(const DLTensor* x_, const DLTensor* y_, int64_t size, float alpha,
                         float beta, float k, const pyi_options* options) {
  return entry("lrn_fprop", options, [&](Call& call) {
    check_lrn(call.check, size);
    call.check.allow_bfloat16();
    Map x = call.check.map(x_, "x"), y = call.check.map(y_, "y", true);
    call.check.extents("y", y, x.N, x.H, x.W, x.C, "(N, H, W, C)");
    call.check.disjoint();
    const char* program = x.size == 2 ? "lrn_fprop_bfloat16" : "lrn_fprop";
    add_lrn(call, call.plain ? "lrn_fprop_plain" : program, x, {}, y, size, alpha, beta, k);
  });
}

pyi_status pyi_lrn_dgrad(const DLTensor* gy_, const DLTensor* x_, const DLTensor* gx_, int64_t size,
                         float alpha, float beta, float k, const pyi_options* options) {
  return entry("lrn_dgrad", options, [&](Call& call) {
    check_lrn(call.check, size);
    Map gy = call.check.map(gy_, "gy"), x = call.check.map(x_, "x");
    Map gx = call.check.map(gx_, "gx", true);
    call.check.extents("gy", gy, x.N, x.H, x.W, x.C, "(N, H, W, C)");
    call.check.extents("gx", gx, x.N, x.H, x.W, x.C, "(N, H, W, C)");
    call.check.disjoint();
    add_lrn(call, call.plain ? "lrn_dgrad_plain" : "lrn_dgrad", x, gy, gx, size, alpha, beta, k);
  });
}

}  // extern "C"
