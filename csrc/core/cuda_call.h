// Calls on arrays in CUDA memory: checked operands become records of the CUDA kernels, whose plans
// are run on the caller's stream. Filters are contiguous (K, R, S, C).
#pragma once

#include "conv_plan.h"

namespace pyi {

void cuda_conv_fprop(Call& call, const Map& x, const Filter& w, const float* b, const Map& y,
                     const Geometry& g, bool relu);
void cuda_conv_dgrad(Call& call, const Map& gy, const Filter& w, const Map& mask, const Map& gx,
                     const Geometry& g, bool accumulate);
void cuda_conv_wgrad(Call& call, const Map& x, const Map& gy, const Map& mask, const Filter& gw,
                     float* gb, const Geometry& g);

// The operands of the fused branch; those that one direction has not are null.
struct BranchOperands {
  Map x, r, y, gy, gx;
  Filter wr, w;
  const float *br = nullptr, *b = nullptr;
  float *gwr = nullptr, *gbr = nullptr, *gw = nullptr, *gb = nullptr;
};
void cuda_reduce_conv(Call& call, bool backward, const BranchOperands& o, const Geometry& g,
                      bool accumulate);

// The operands of a module, filters and biases in the order of the C interface.
struct ModuleOperands {
  Map x, y, r3, r5, pooled, gy, gx;
  uint8_t* argmax = nullptr;
  Filter w[6];
  const float* b[6] = {};
  float *gw[6] = {}, *gb[6] = {};
};
void cuda_inception(Call& call, bool backward, const ModuleOperands& o);

}  // namespace pyi
