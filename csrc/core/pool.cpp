// Max and average pooling: plans and entry points.
#include "pool.h"

#include <algorithm>

namespace pyi {
namespace {

constexpr int64_t kEntryBytes = 24;  // 8 ENTRY of kernels/cpu/pool.py
constexpr int64_t kGroup = 3;        // GROUP of kernels/cpu/pool.py

// One record for all: x is the map of (H, W), y that of (P, Q).
void add_pool(Call& call, const char* program, const char* plain, const Map& x, const Map& y,
              const void* argmax, int64_t R, int64_t S, const Geometry& g, bool count_include_pad,
              bool accumulate, int64_t tiles) {
  if (x.size == 2 && (call.plain || argmax != nullptr)) {
    fail(PYI_UNSUPPORTED, call.check.function(), ": x is bfloat16, expected float32 with ",
         call.plain ? "algorithm 'plain'" : "an argmax");
  }
  auto* a = call.list.record<PoolArgs>();
  *a = {x.address(),
        x.n,
        x.h,
        x.w,
        y.address(),
        y.n,
        y.h,
        y.w,
        address(argmax),
        address(zero_row(x.C)),
        x.N,
        x.H,
        x.W,
        x.C,
        y.H,
        y.W,
        R,
        S,
        g.stride_h,
        g.stride_w,
        g.pad_h,
        g.pad_w,
        count_include_pad,
        accumulate};
  // bfloat16: a float32 row of one pixel behind the list of taps.
  call.list.add(call.level.program(call.plain ? plain : program), a, tiles,
                static_cast<size_t>(kEntryBytes * (R * S + kGroup) + (x.size == 2 ? 4 * x.C : 0)));
}

struct Window {
  Geometry geometry;
  int64_t R, S;
};

Window window(Check& check, const pyi_conv_params* params) {
  Geometry g = geometry(check, params);
  check.range("kernel[0]", params->kernel_h, 1, 1 << 20);
  check.range("kernel[1]", params->kernel_w, 1, 1 << 20);
  // Else a window could lie wholly in the padding.
  check.range("padding[0]", g.pad_h, 0, params->kernel_h - 1);
  check.range("padding[1]", g.pad_w, 0, params->kernel_w - 1);
  return {g, params->kernel_h, params->kernel_w};
}

void check_taps(Check& check, const Window& w) {
  if (w.R * w.S > 255) {
    fail(PYI_INVALID_VALUE, check.function(), ": kernel is ", w.R, "x", w.S,
         ", expected at most 255 taps (argmax is a byte)");
  }
}

// Output extent of one axis: floor, or Caffe's ceil less a last window that starts in the padding.
int64_t extent(int64_t size, int64_t kernel, int64_t stride, int64_t pad, bool ceil) {
  if (!ceil) return (size + 2 * pad - kernel) / stride + 1;
  int64_t count = ceil_div(size + 2 * pad - kernel, stride) + 1;
  return (count - 1) * stride >= size + pad ? count - 1 : count;
}

// y must have the floor or the ceil extents of x; a message names the floor ones.
void check_pool(Check& check, const Map& x, const char* name, const Map& y, const Window& w) {
  const Geometry& g = w.geometry;
  if (w.R > x.H + 2 * g.pad_h || w.S > x.W + 2 * g.pad_w) {
    fail(PYI_INVALID_VALUE, check.function(), ": kernel is ", w.R, "x", w.S,
         ", larger than the padded image of ", x.H + 2 * g.pad_h, "x", x.W + 2 * g.pad_w);
  }
  int64_t P[2], Q[2];
  for (int ceil = 0; ceil < 2; ++ceil) {
    P[ceil] = extent(x.H, w.R, g.stride_h, g.pad_h, ceil != 0);
    Q[ceil] = extent(x.W, w.S, g.stride_w, g.pad_w, ceil != 0);
  }
  int mode = y.H == P[1] && y.W == Q[1] ? 1 : 0;
  std::string letters = "(N, P, Q, C)";
  if (P[0] != P[1] || Q[0] != Q[1]) {
    letters +=
        text(" with (P, Q) = (", P[1], ", ", Q[1], ") by the ceil rule, or by the floor rule");
  }
  check.extents(name, y, x.N, P[mode], Q[mode], x.C, letters.c_str());
}

}  // namespace

void add_max_pool(Call& call, const Map& x, const Map& y, uint8_t* argmax, int64_t R, int64_t S,
                  const Geometry& g) {
  const char* program = x.size == 2 ? "max_pool_fprop_bfloat16" : "max_pool_fprop";
  add_pool(call, program, "max_pool_fprop_plain", x, y, argmax, R, S, g, false, false, y.N * y.H);
}

void add_max_pool_dgrad(Call& call, const Map& gy, const uint8_t* argmax, const Map& gx, int64_t R,
                        int64_t S, const Geometry& g, bool accumulate) {
  add_pool(call, "max_pool_dgrad", "max_pool_dgrad_plain", gx, gy, argmax, R, S, g, false,
           accumulate, gx.N * gx.H);
}

}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_max_pool_fprop(const DLTensor* x_, const DLTensor* y_, const DLTensor* argmax_,
                              const pyi_conv_params* params, const pyi_options* options) {
  return entry("max_pool_fprop", options, [&](Call& call) {
    Window w = window(call.check, params);
    check_taps(call.check, w);
    call.check.allow_bfloat16();
    Map x = call.check.map(x_, "x"), y = call.check.map(y_, "y", true);
    check_pool(call.check, x, "y", y, w);
    uint8_t* argmax = call.check.bytes(argmax_, "argmax", y, true);
    call.check.disjoint();
    add_max_pool(call, x, y, argmax, w.R, w.S, w.geometry);
  });
}

pyi_status pyi_max_pool_dgrad(const DLTensor* gy_, const DLTensor* argmax_, const DLTensor* gx_,
                              const pyi_conv_params* params, const pyi_options* options) {
  return entry("max_pool_dgrad", options, [&](Call& call) {
    Window w = window(call.check, params);
    check_taps(call.check, w);
    Map gy = call.check.map(gy_, "gy"), gx = call.check.map(gx_, "gx", true);
    check_pool(call.check, gx, "gy", gy, w);
    if (argmax_ == nullptr) {
      fail(PYI_INVALID_TYPE, "max_pool_dgrad: argmax is missing, expected an array");
    }
    const uint8_t* argmax = call.check.bytes(argmax_, "argmax", gy, false);
    call.check.disjoint();
    add_max_pool_dgrad(call, gy, argmax, gx, w.R, w.S, w.geometry, params->accumulate != 0);
  });
}

pyi_status pyi_avg_pool_fprop(const DLTensor* x_, const DLTensor* y_, int count_include_pad,
                              const pyi_conv_params* params, const pyi_options* options) {
  return entry("avg_pool_fprop", options, [&](Call& call) {
    Window w = window(call.check, params);
    call.check.allow_bfloat16();
    Map x = call.check.map(x_, "x"), y = call.check.map(y_, "y", true);
    check_pool(call.check, x, "y", y, w);
    call.check.disjoint();
    const char* program = x.size == 2 ? "avg_pool_fprop_bfloat16" : "avg_pool_fprop";
    add_pool(call, program, "avg_pool_fprop_plain", x, y, nullptr, w.R, w.S, w.geometry,
             count_include_pad != 0, false, y.N * y.H);
  });
}

pyi_status pyi_avg_pool_dgrad(const DLTensor* gy_, const DLTensor* gx_, int count_include_pad,
                              const pyi_conv_params* params, const pyi_options* options) {
  return entry("avg_pool_dgrad", options, [&](Call& call) {
    Window w = window(call.check, params);
    Map gy = call.check.map(gy_, "gy"), gx = call.check.map(gx_, "gx", true);
    check_pool(call.check, gx, "gy", gy, w);
    call.check.disjoint();
    add_pool(call, "avg_pool_dgrad", "avg_pool_dgrad_plain", gx, gy, nullptr, w.R, w.S, w.geometry,
             count_include_pad != 0, params->accumulate != 0, gx.N * gx.H);
  });
}

}  // extern "C"
