// Entry points of softmax cross-entropy.
#include "core.h"

namespace pyi {
namespace {

constexpr size_t kLaneBytes = 64;  // 4 LANES of kernels/cpu/softmax.py

void check_rows(Check& check, const char* name, const Map& m, const Map& like) {
  if (m.N == like.N && m.W == like.W && m.C == like.C) return;
  int64_t actual[2] = {m.N * m.W, m.C}, want[2] = {like.N * like.W, like.C};
  fail(PYI_INVALID_VALUE, check.function(), ": ", name, " has shape ", shape_text(actual, 2),
       ", expected (N, K) = ", shape_text(want, 2));
}

void add_softmax(Call& call, const char* program, const Map& logits, const Map& probs,
                 const int64_t* labels, const float* loss, const float* g) {
  const int64_t N = logits.N * logits.W;
  auto* a = call.list.record<SoftmaxArgs>();
  *a = {logits.address(), logits.w, address(labels), address(loss), probs.address(), probs.w,
        address(g),       N,        logits.C};
  call.list.add(call.level.program(program), a, N, kLaneBytes);
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_softmax_cross_entropy_fprop(const DLTensor* logits_, const DLTensor* labels_,
                                           const DLTensor* loss_, const DLTensor* probs_,
                                           const pyi_options* options) {
  return entry("softmax_cross_entropy_fprop", options, [&](Call& call) {
    Map logits = call.check.matrix(logits_, "logits");
    const int64_t N = logits.N * logits.W;
    const int64_t* labels = call.check.labels(labels_, "labels", N, logits.C);
    float* loss = call.check.needed(loss_, "loss", N, true);
    Map probs = call.check.matrix(probs_, "probs", true);
    check_rows(call.check, "probs", probs, logits);
    call.check.disjoint();
    add_softmax(call,
                call.plain ? "softmax_cross_entropy_fprop_plain" : "softmax_cross_entropy_fprop",
                logits, probs, labels, loss, nullptr);
  });
}

pyi_status pyi_softmax_cross_entropy_dgrad(const DLTensor* probs_, const DLTensor* labels_,
                                           const DLTensor* g_, const DLTensor* glogits_,
                                           const pyi_options* options) {
  return entry("softmax_cross_entropy_dgrad", options, [&](Call& call) {
    Map probs = call.check.matrix(probs_, "probs");
    const int64_t N = probs.N * probs.W;
    const int64_t* labels = call.check.labels(labels_, "labels", N, probs.C);
    const float* g = call.check.needed(g_, "g", N);
    Map glogits = call.check.matrix(glogits_, "glogits", true);
    check_rows(call.check, "glogits", glogits, probs);
    call.check.disjoint();
    add_softmax(call,
                call.plain ? "softmax_cross_entropy_dgrad_plain" : "softmax_cross_entropy_dgrad",
                glogits, probs, labels, nullptr, g);
  });
}

}  // extern "C"
