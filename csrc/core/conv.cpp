// Entry points of convolution: fprop, dgrad, wgrad, and packing.
#include "cuda_call.h"

using namespace pyi;

// Packs that are recorded one after the other run side by side, unless one writes what another one
// touches: most have too few panels for a team.
static void join_packs(pyi_launches& list, const std::vector<Span>& operands) {
  bool apart = list.packs_phase == list.phase - 1;  // no other call came between
  for (const Span& ours : operands) {
    for (const Span& theirs : list.packs) {
      apart = apart && !((ours.output || theirs.output) && ours.meets(theirs));
    }
  }
  if (apart) {
    list.phase = list.packs_phase;
  } else {
    list.packs.clear();
  }
  list.packs.insert(list.packs.end(), operands.begin(), operands.end());
  list.packs_phase = list.phase;
}

extern "C" {

pyi_status pyi_packed_size(int64_t K, int64_t R, int64_t S, int64_t C, const char* direction,
                           const pyi_options* options, int64_t* floats) {
  pyi_options now = options ? *options : pyi_options{};
  return entry("packed_size", &now, [&](Call& call) {
    bool dgrad = direction != nullptr && std::strcmp(direction, "dgrad") == 0;
    if (!dgrad && (direction == nullptr || std::strcmp(direction, "fprop") != 0)) {
      fail(PYI_INVALID_VALUE, "packed_size: direction is '", direction ? direction : "NULL",
           "', expected fprop or dgrad");
    }
    for (int64_t extent : {K, R, S, C}) call.check.range("extent", extent, 1, 1 << 24);
    Filter w;
    w.K = K, w.R = R, w.S = S, w.C = C;
    bool winograd = choose_winograd_format(call, w, dgrad);
    *floats = packed_floats(call.level, dgrad ? C : K, R, S, dgrad ? K : C, winograd);
  });
}

pyi_status pyi_pack(const DLTensor* w_, const DLTensor* packed_, const char* direction,
                    const pyi_options* options) {
  return entry("pack", options, [&](Call& call) {
    bool dgrad = direction != nullptr && std::strcmp(direction, "dgrad") == 0;
    if (!dgrad && (direction == nullptr || std::strcmp(direction, "fprop") != 0)) {
      fail(PYI_INVALID_VALUE, "pack: direction is '", direction ? direction : "NULL",
           "', expected fprop or dgrad");
    }
    call.check.allow_bfloat16();
    Filter w = call.check.filter(w_, "w", 0, 0);
    if (w.packed) fail(PYI_INVALID_VALUE, "pack: w is packed already, expected (K, R, S, C)");
    w.winograd = choose_winograd_format(call, w, dgrad);
    if (dgrad && w.size == 2) {
      fail(PYI_UNSUPPORTED, "pack: w is bfloat16, expected float32 for direction 'dgrad'");
    }
    int64_t size = packed_elements(call.level, w, dgrad ? w.C : w.K, dgrad ? w.K : w.C, w.winograd);
    float* to = call.check.packed(packed_, "packed", size);
    call.check.disjoint();
    join_packs(call.list, call.check.spans());
    packed(call, w, dgrad, to);
  });
}

pyi_status pyi_conv_fprop(const DLTensor* x_, const DLTensor* w_, const DLTensor* b_,
                          const DLTensor* y_, const pyi_conv_params* params,
                          const pyi_options* options) {
  return entry("conv_fprop", options, [&](Call& call) {
    call.check.allow_cuda();
    call.check.allow_bfloat16();
    Geometry g = geometry(call.check, params);
    Map x = call.check.map(x_, "x");
    Filter w = call.check.filter(w_, "w", params->kernel_h, params->kernel_w);
    Map y = call.check.map(y_, "y", true);
    w = checked(call.check, w, call.level, y.C, x.C, "w");
    const float* b = call.check.vector(b_, "b", w.K);
    check_conv(call.check, x, w, y, g);
    w.winograd = choose_winograd(call, w, g);
    call.check.disjoint();
    if (x.empty()) return;
    if (call.check.on_cuda()) return cuda_conv_fprop(call, x, w, b, y, g, params->relu != 0);
    const float* weights = call.plain ? nullptr : packed(call, w, false);
    call.list.barrier();
    add_fprop(call, x, w, weights, b, y, g, params->relu != 0);
  });
}

pyi_status pyi_conv_dgrad(const DLTensor* gy_, const DLTensor* w_, const DLTensor* y_,
                          const DLTensor* gx_, const pyi_conv_params* params,
                          const pyi_options* options) {
  return entry("conv_dgrad", options, [&](Call& call) {
    call.check.allow_cuda();
    Geometry g = geometry(call.check, params);
    Map gy = call.check.map(gy_, "gy");
    Filter w = call.check.filter(w_, "w", params->kernel_h, params->kernel_w);
    Map mask;
    if (y_ != nullptr) {
      mask = call.check.map(y_, "y");
      call.check.extents("y", mask, gy.N, gy.H, gy.W, gy.C, "(N, P, Q, K)");
    }
    Map gx = call.check.map(gx_, "gx", true);
    if (w.packed) {  // packed for dgrad: its outputs are the input channels
      w = checked(call.check, w, call.level, gx.C, gy.C, "w");
      std::swap(w.K, w.C);
    }
    check_conv(call.check, gx, w, gy, g);
    w.winograd = choose_winograd(call, w, g, true);
    call.check.disjoint();
    if (gx.empty()) return;
    if (call.check.on_cuda()) {
      return cuda_conv_dgrad(call, gy, w, mask, gx, g, params->accumulate != 0);
    }
    const float* weights = call.plain ? nullptr : packed(call, w, true);
    call.list.barrier();
    add_dgrad(call, gy, w, weights, mask, gx, g, params->accumulate != 0);
  });
}

pyi_status pyi_conv_wgrad(const DLTensor* x_, const DLTensor* gy_, const DLTensor* y_,
                          const DLTensor* gw_, const DLTensor* gb_, const pyi_conv_params* params,
                          const pyi_options* options) {
  return entry("conv_wgrad", options, [&](Call& call) {
    call.check.allow_cuda();
    Geometry g = geometry(call.check, params);
    Map x = call.check.map(x_, "x");
    Map gy = call.check.map(gy_, "gy");
    Map mask;
    if (y_ != nullptr) {
      mask = call.check.map(y_, "y");
      call.check.extents("y", mask, gy.N, gy.H, gy.W, gy.C, "(N, P, Q, K)");
    }
    Filter gw = call.check.filter_gradient(gw_, "gw");
    check_conv(call.check, x, gw, gy, g);
    const bool winograd = choose_winograd(call, gw, g);
    float* gb = call.check.vector(gb_, "gb", gw.K, true);
    call.check.disjoint();
    if (call.check.on_cuda()) return cuda_conv_wgrad(call, x, gy, mask, gw, gb, g);
    add_wgrad(call, x, gy, mask, gw.data, gb, gw.R, gw.S, g, winograd);
  });
}

}  // extern "C"
