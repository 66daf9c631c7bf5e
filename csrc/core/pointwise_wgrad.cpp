// Plan of the filter gradients of 1x1 convolutions that read one map.
#include <algorithm>

#include "conv_plan.h"

namespace pyi {
namespace {

constexpr int64_t kChunk = 64;                // pixels of a sum: its error grows with them
constexpr int64_t kScratchBytes = 640 << 10;  // of a tile: with its piece of gw in an L2 of 1 MiB

// What a pixel costs beside its multiply-adds, in vectors of them: to lay out a vector of a masked
// gradient and one of x, which may come from memory.
constexpr int64_t kGradientVector = 12, kLaneVector = 6;

// The quickest cut by a count of cycles. None of this touches a bit.
void choose_tiles(PointwiseWgradArgs* a, const Level& level, int64_t vectors, int64_t threads) {
  const int64_t nr = level.wgrad_nv * level.vl, blocks = ceil_div(a->C, nr);
  int64_t least = INT64_MAX;
  for (int64_t k_tiles = 1; k_tiles <= vectors; ++k_tiles) {
    const int64_t tile_vectors = ceil_div(vectors, k_tiles);
    for (int64_t b_tiles = 1; b_tiles <= blocks; ++b_tiles) {
      const int64_t tile_blocks = ceil_div(blocks, b_tiles);
      const int64_t tile_lanes = std::min(tile_blocks * nr, round_up(a->C, level.vl));
      const bool smallest = tile_vectors == 1 && tile_blocks == 1;
      if (4 * a->chunk * (tile_vectors * level.vl + tile_lanes) > kScratchBytes && !smallest) {
        continue;
      }
      const int64_t tiles = ceil_div(vectors, tile_vectors) * ceil_div(blocks, tile_blocks);
      const int64_t cost =
          ceil_div(tiles, threads) * (tile_vectors * tile_lanes + kGradientVector * tile_vectors +
                                      kLaneVector * tile_lanes / level.vl);
      if (cost < least) {
        least = cost;
        a->tile_vectors = tile_vectors, a->tile_lanes = tile_blocks * nr;
      }
    }
  }
  a->lane_tiles = ceil_div(a->C, a->tile_lanes);
}

}  // namespace

void add_pointwise_wgrad(Call& call, const Map& x,
                         const std::vector<PointwiseGradient>& gradients) {
  const Level& level = call.level;
  auto* a = call.list.record<PointwiseWgradArgs>();
  auto* g = call.list.record<Gradient>(static_cast<int64_t>(gradients.size()));
  a->x = x.address(), a->x_n = x.n, a->x_h = x.h, a->x_w = x.w;
  a->N = x.N, a->H = x.H, a->W = x.W, a->C = x.C;
  a->gradients = address(g), a->gradient_count = static_cast<Int>(gradients.size());
  int64_t vectors = 0;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const PointwiseGradient& from = gradients[i];
    g[i] = {from.gy.address(), from.gy.n,        from.gy.h, from.gy.w,
            from.y.address(),  from.y.n,         from.y.h,  from.y.w,
            address(from.gw),  address(from.gb), from.gy.C, vectors};
    vectors += ceil_div(from.gy.C, level.vl);
  }
  // A function of the shape alone: it fixes the order of the sum.
  const int64_t pixels = std::max<int64_t>(1, x.N * x.H * x.W);
  a->chunk = ceil_div(pixels, ceil_div(pixels, kChunk));
  choose_tiles(a, level, vectors, call.threads);
  const int64_t nr = level.wgrad_nv * level.vl;
  a->lists = round_up(8 * 16 + 4 * nr, 64);
  a->staged_gy = round_up(a->lists + 3 * 8 * a->chunk, 64);
  a->staged_x = a->staged_gy + round_up(4 * a->chunk * a->tile_vectors * level.vl, 64);
  const int64_t bytes = a->staged_x + 4 * a->chunk * a->tile_lanes;
  call.list.add(level.program("pointwise_wgrad"), a,
                ceil_div(vectors, a->tile_vectors) * a->lane_tiles, static_cast<size_t>(bytes));
}

}  // namespace pyi
