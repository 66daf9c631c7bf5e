// Entry point of a step of SGD with momentum.
#include "core.h"

namespace pyi {
namespace {

constexpr int64_t kTile = 16384;  // TILE of kernels/cpu/sgd.py

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_sgd(const DLTensor* w_, const DLTensor* v_, const DLTensor* g_, float rate,
                   float momentum, float decay, const pyi_options* options) {
  return entry("sgd", options, [&](Call& call) {
    int64_t count = w_ != nullptr && w_->ndim == 1 ? w_->shape[0] : 0;
    auto* r = call.list.record<SgdArgs>();
    r->w = address(call.check.needed(w_, "w", count, true));
    r->v = address(call.check.needed(v_, "v", count, true));
    r->g = address(call.check.needed(g_, "g", count));
    call.check.disjoint();
    r->count = count, r->rate = rate, r->momentum = momentum, r->decay = decay;
    if (count == 0) return;
    call.list.add(call.level.program(call.plain ? "sgd_plain" : "sgd"), r, ceil_div(count, kTile),
                  64);
  });
}
}
