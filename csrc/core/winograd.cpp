// Plans of Winograd convolution: what it can do, when `auto` takes it, its blocks and launches.
#include <algorithm>

#include "conv_plan.h"

namespace pyi {
namespace {

constexpr int64_t kTile = 4, kFilter = 3, kPoints = 36;
constexpr int64_t kLists = 1024;              // SPARE of kernels/cpu/winograd.py, rounded up
constexpr int64_t kBlockBytes = 768 << 10;    // inputs and products of a block, in an L2 of 1 MiB
constexpr int64_t kTilesPerThread = 4;

// Rows of a plane an odd number of cache lines apart fall in different sets of every cache.
int64_t odd_lines(int64_t floats) { return 16 * (ceil_div(floats, 16) | 1); }

}  // namespace

const char* why_not_winograd(int64_t R, int64_t S, const Geometry& g) {
  if (R != kFilter || S != kFilter) return "needs a 3x3 filter";
  if (g.stride_h != 1 || g.stride_w != 1) return "needs stride 1";
  return nullptr;
}

bool winograd_pays(int64_t K, int64_t R, int64_t S, int64_t C) {
  return R == kFilter && S == kFilter && K * C >= 2048;
}

bool choose_winograd(const Call& call, const Filter& w, const Geometry& g) {
  if (call.plain) return false;
  const char* reason = why_not_winograd(w.R, w.S, g);
  const char* function = call.check.function();
  if (call.winograd && !call.automatic && reason != nullptr) {
    fail(PYI_UNSUPPORTED, function, ": algorithm 'winograd' ", reason, ", got ", w.R, "x", w.S,
         " with stride (", g.stride_h, ", ", g.stride_w, ")");
  }
  if (!w.packed) {
    if (!call.automatic) return call.winograd;
    return reason == nullptr && winograd_pays(w.K, w.R, w.S, w.C);
  }
  // A packed filter says by its size what it was packed for.
  if (w.winograd && reason != nullptr) {
    fail(PYI_INVALID_VALUE, function, ": w is packed for 'winograd', which ", reason,
         "; pack it for 'direct'");
  }
  if (!call.automatic && w.winograd != call.winograd) {
    fail(PYI_INVALID_VALUE, function, ": w is packed for '", w.winograd ? "winograd" : "direct",
         "', but algorithm is '", call.winograd ? "winograd" : "direct", "'");
  }
  return w.winograd;
}

bool choose_winograd_format(const Call& call, const Filter& w) {
  if (call.automatic) return winograd_pays(w.K, w.R, w.S, w.C);
  return call.winograd && why_not_winograd(w.R, w.S, {}) == nullptr;
}

void add_winograd(Call& call, const Map& x, const Map& mask, const float* weights,
                  const float* bias, const Map& y, const Geometry& g, bool relu, bool accumulate) {
  const Level& level = call.level;
  const int64_t nr = level.nr(), panels = ceil_div(y.C, nr);
  const int64_t tiles_h = ceil_div(y.H, kTile), tiles_w = ceil_div(y.W, kTile);
  const int64_t tiles = y.N * tiles_h * tiles_w;
  const int64_t row = round_up(x.C, level.vl);
  // Blocks of equal height, as high as the cache holds: each reads all filters once.
  const int64_t most = std::max(level.mr, kBlockBytes / (kPoints * (row + nr) * 4));
  int64_t block = ceil_div(tiles, ceil_div(tiles, most));
  if (round_up(block, level.mr) <= most) block = round_up(block, level.mr);
  block = std::min(block, tiles);
  const int64_t blocks = ceil_div(tiles, block);
  // Too few of them for the team: cut the output channels, at the price of transforming again.
  int64_t parts = call.threads > 1 ? ceil_div(kTilesPerThread * call.threads, blocks) : 1;
  const int64_t tile_panels = ceil_div(panels, std::min(parts, panels));
  const int64_t v_plane = odd_lines(block * row), m_plane = odd_lines(block * nr);
  const int64_t v = round_up(kLists + nr * 4, 64), m = v + kPoints * v_plane * 4;
  auto* a = call.list.record<WinogradArgs>();
  *a = {x.address(), x.n, x.h, x.w, mask.address(), mask.n, mask.h, mask.w,
        y.address(), y.n, y.h, y.w, address(weights), address(bias),
        address(zero_row(std::max(x.C, nr))), x.H, x.W, x.C, y.C, y.H, y.W, g.pad_h, g.pad_w,
        tiles_h, tiles_w, tiles, block, tile_panels, ceil_div(panels, tile_panels),
        v, row, v_plane, m, m_plane, relu, accumulate};
  call.list.add(level.program(call.plain_twin ? "winograd_plain" : "winograd"), a,
                blocks * a->panel_tiles, static_cast<size_t>(m + kPoints * m_plane * 4));
}

}  // namespace pyi
