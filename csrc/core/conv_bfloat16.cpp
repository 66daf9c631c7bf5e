// Plans of convolutions over bfloat16 maps: the float32 ones, over maps of pairs.
//
// Two neighbouring channels are one element of four bytes, so that records, lists, staging and
// tiles stay what they are; only the register tile knows (kernels/cpu/bfloat16_tile.py). Maps whose
// channels or pixels are no whole pairs are copied into such first, results out of such.
#include "conv_plan.h"

namespace pyi {
namespace {

// AVX512_BF16; without it the same bits by shifts and multiply-adds.
bool has_dot(const Level& level) {
  __builtin_cpu_init();
  return level.vl == 16 && __builtin_cpu_supports("avx512bf16");
}

Map even_map(Call& call, const Map& like) {
  return new_map(call, like.N, like.H, like.W, round_up(like.C, 2), 2);
}

}  // namespace

const char* conv_program(const Call& call, bool reduce, int64_t size) {
  if (size == 4) return reduce ? "reduce_conv" : "conv";
  if (has_dot(call.level)) return reduce ? "reduce_conv_bfloat16_dot" : "conv_bfloat16_dot";
  return reduce ? "reduce_conv_bfloat16" : "conv_bfloat16";
}

bool is_even(const Map& m) { return m.n % 2 == 0 && m.h % 2 == 0 && m.w % 2 == 0; }

Map in_pairs(Map m, bool channels) {
  m.n /= 2, m.h /= 2, m.w /= 2;
  if (channels) m.C /= 2, m.size = 4;
  return m;
}

void add_copy(Call& call, const Map& x, const Map& y) {
  auto* a = call.list.record<CopyArgs>();
  *a = {x.address(), x.n, x.h, x.w, x.C, y.address(), y.n, y.h, y.w, y.C, x.N, x.H, x.W};
  call.list.add(call.level.program("copy_bfloat16"), a, x.N * x.H, 64);
}

void add_conv_bfloat16(Call& call, std::vector<ConvSource> sources, std::vector<ConvOutput> outputs,
                       bool relu) {
  for (ConvSource& s : sources) {
    if (!is_even(s.x) || s.x.C % 2 != 0) {
      const Map even = even_map(call, s.x);
      add_copy(call, s.x, even);
      call.list.barrier();
      s.x = even;
    }
    s.x = in_pairs(s.x, true);
  }
  std::vector<std::pair<Map, Map>> copies;  // from, to
  for (ConvOutput& o : outputs) {
    if (!is_even(o.y)) {
      Map even = even_map(call, o.y);
      even.C = o.y.C;
      copies.emplace_back(even, o.y);
      o.y = even;
    }
    o.y = in_pairs(o.y, false);
  }
  add_conv(call, sources, outputs, relu, false);
  if (copies.empty()) return;
  call.list.barrier();
  for (const auto& [from, to] : copies) add_copy(call, from, to);
}

}  // namespace pyi
