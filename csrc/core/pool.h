// Plans of pooling, for the module and for the entry points.
#pragma once

#include "conv_plan.h"

namespace pyi {

// argmax may be NULL. Operands are checked already.
void add_max_pool(Call& call, const Map& x, const Map& y, uint8_t* argmax, int64_t R, int64_t S,
                  const Geometry& g);
void add_max_pool_dgrad(Call& call, const Map& gy, const uint8_t* argmax, const Map& gx, int64_t R,
                        int64_t S, const Geometry& g, bool accumulate = false);

}  // namespace pyi
