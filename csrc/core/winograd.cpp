// Plans of Winograd convolution: what it can do, when `auto` takes it, its blocks and launches.
#include <algorithm>

#include "conv_plan.h"

namespace pyi {
namespace {

constexpr int64_t kTile = 4;                // TILE of kernels/cpu/winograd_transform.py
constexpr int64_t kLists = 1280;            // SPARE of kernels/cpu/winograd.py
constexpr int64_t kChainChannels = 32;      // CHUNK of kernels/cpu/winograd.py
constexpr int64_t kRunHeader = 3;           // RUN_HEADER of kernels/cpu/register_tile.py
constexpr int64_t kBlockBytes = 768 << 10;  // inputs and products of a block, in an L2 of 1 MiB

// The filter gradient.
constexpr int64_t kGradientLists = 1088;   // of kernels/cpu/winograd_wgrad.py and its plain twin
constexpr int64_t kChunkPoints = 1152;     // of a chunk's tiles, of which there are 16 to 64
constexpr int64_t kSumBytes = 1792 << 10;  // sums of a block: most of them come from L3
constexpr int64_t kTransform = 20;         // products that a transformed number costs

constexpr int64_t kStrided = 7, kPhaseTaps = 4;  // a 7x7 of stride 2, and what it is by phases

int64_t outputs(int64_t taps) { return taps > 1 ? kTile : 1; }
int64_t window(int64_t taps) { return outputs(taps) + taps - 1; }

// Rows of a plane an odd number of cache lines apart fall in different sets of every cache.
int64_t odd_lines(int64_t floats) { return 16 * (ceil_div(floats, 16) | 1); }

// Register-tile rows that `count` tiles take: the groups of kernels/cpu/winograd.py.
int64_t rows_of(const Level& level, int64_t count) {
  const int64_t middle = level.mr / 2 + 1, low = middle / 2;
  int64_t rows = 0;
  while (count > 0) {
    int64_t height = count <= low ? low : count <= middle ? middle : level.mr;
    if (count > level.mr && count <= 2 * middle) height = middle;
    rows += height, count -= height;
  }
  return rows;
}

struct Tiling {
  int64_t block, panels;  // output tiles and panels of a piece of work
};

// The quickest cut by a count of rows. A piece transforms its inputs, a fifth of one panel's
// products, and streams each panel's filters, which costs about two rows; pieces go to the team in
// rounds. Blocks are as high as the cache holds, or less. None of this touches a bit.
Tiling choose_tiling(const Level& level, int64_t tiles, int64_t panels, int64_t row, int64_t points,
                     int64_t threads) {
  const int64_t most = std::max(level.mr, kBlockBytes / (points * (row + level.nr()) * 4));
  const int64_t highest = std::min(tiles, most), middle = level.mr / 2 + 1;
  Tiling best = {highest, panels};
  int64_t least = INT64_MAX;
  auto consider = [&](int64_t block) {
    if (block < 1 || block > highest) return;
    const int64_t blocks = ceil_div(tiles, block), last = tiles - (blocks - 1) * block;
    for (int64_t parts = 1; parts <= panels; ++parts) {
      if (parts > 1 && threads == 1) break;
      const int64_t share = ceil_div(panels, parts), pieces = blocks * ceil_div(panels, share);
      int64_t rows = ceil_div(pieces, threads) * (rows_of(level, block) + 2);
      if (threads == 1) rows -= rows_of(level, block) - rows_of(level, last);
      const int64_t cost = rows * (5 * share + 1);
      if (cost < least) least = cost, best = {block, share};
    }
  };
  consider(highest);
  for (int64_t block = highest / level.mr * level.mr; block > 0; block -= level.mr) consider(block);
  for (int64_t block : {2 * middle, middle, middle / 2}) consider(block);
  return best;
}

}  // namespace

bool is_by_phases(int64_t R, int64_t S) { return R == kStrided && S == kStrided; }

int64_t winograd_numbers(int64_t R, int64_t S) {
  if (is_by_phases(R, S)) return 4 * window(kPhaseTaps) * window(kPhaseTaps);
  const bool square = R == S && (R == 3 || R == 5);
  const bool line = (R == 1 || S == 1) && (R * S == 3 || R * S == 7);
  return square || line ? window(R) * window(S) : 0;
}

const char* why_not_winograd(int64_t R, int64_t S, const Geometry& g, bool dgrad) {
  if (winograd_numbers(R, S) == 0) return "needs a filter of 3x3, 5x5, 7x7, 1x3, 3x1, 1x7 or 7x1";
  const int64_t stride = is_by_phases(R, S) ? 2 : 1;
  if (g.stride_h != stride || g.stride_w != stride) {
    return stride == 2 ? "needs stride 2 for 7x7" : "needs stride 1";
  }
  if (dgrad && stride == 2) return "has no gradient of x for 7x7";
  return nullptr;
}

// Measured with packed filters, one image, one thread, from 16 channels on both sides and on maps
// of 7x7 to 56x56, how many times as fast as direct: 3x3 1.6 to 3.3 (Zen 5); 5x5 3.0 to 5.0, lines
// of 7 taps 1.5 to 2.6, of 3 taps 1.2 to 2.0 (Zen 4). On a single 4x4: 3x3 0.8 to 1.2, the
// others 1.4 to 3.2. With 8 channels a vector is half empty and the transforms cost what the
// products save. The filter gradient: 1.3 to 4.6 (Zen 4), but 0.9 for 5b's 3x3 over one image.
// In bfloat16, which direct convolution multiplies at twice the rate: 1.0 to 2.2.
bool winograd_pays(int64_t K, int64_t R, int64_t S, int64_t C) {
  return is_by_phases(R, S) || (winograd_numbers(R, S) > 0 && K >= 16 && C >= 16);
}

bool choose_winograd(const Call& call, const Filter& w, const Geometry& g, bool dgrad) {
  if (call.plain) return false;
  const bool narrow_twin = call.plain_twin && w.size == 2;
  const char* reason =
      narrow_twin ? "in plain loops needs float32" : why_not_winograd(w.R, w.S, g, dgrad);
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

bool choose_winograd_format(const Call& call, const Filter& w, bool dgrad) {
  // auto does not know whether the stride will be 2.
  if (is_by_phases(w.R, w.S)) return !dgrad && !call.automatic && call.winograd;
  if (call.automatic) return winograd_pays(w.K, w.R, w.S, w.C);
  return call.winograd && winograd_numbers(w.R, w.S) > 0;
}

Filter by_phases(Filter w) {
  w.R = w.S = kPhaseTaps, w.C *= 4;
  return w;
}

// The phases of N images of x as a filter over y reads them, for `add_phases` to fill.
static Map new_phases(Call& call, const Map& x, const Map& y, int64_t N) {
  return new_map(call, N, y.H + kPhaseTaps - 1, y.W + kPhaseTaps - 1, 4 * x.C, x.size);
}

static void add_phases(Call& call, const Map& x, const Map& phases, const Geometry& g) {
  const int64_t row = round_up(phases.W * 2 * x.C * x.size, 64);
  auto* a = call.list.record<SpaceToDepthArgs>();
  *a = {x.address(), x.n,      x.h,      x.w,     phases.address(), x.H,    x.W,
        x.C,         phases.H, phases.W, g.pad_h, g.pad_w,          x.size, row};
  call.list.add(call.level.program("space_to_depth"), a, x.N * phases.H,
                static_cast<size_t>(4 * row + 64));
  call.list.barrier();
}

void add_winograd(Call& call, const Map& x, const Map& mask, const Filter& w, const float* weights,
                  const float* bias, const Map& y, const Geometry& g, bool relu, bool accumulate) {
  if (is_by_phases(w.R, w.S)) {
    const int64_t image = (y.H + kPhaseTaps - 1) * (y.W + kPhaseTaps - 1) * 4 * x.C * x.size;
    const int64_t group = images_in_cache(call, x.N, image);
    const Map phases = new_phases(call, x, y, group);
    for (int64_t n = 0; n < x.N; n += group) {
      const int64_t count = std::min(group, x.N - n);
      const Map from = images(phases, 0, count);
      add_phases(call, images(x, n, count), from, g);
      add_winograd(call, from, mask, by_phases(w), weights, bias, images(y, n, count), {}, relu,
                   accumulate);
      call.list.barrier();
    }
    return;
  }
  const Level& level = call.level;
  const int64_t nr = level.nr(), panels = ceil_div(y.C, nr);
  const int64_t tiles_h = ceil_div(y.H, outputs(w.R)), tiles_w = ceil_div(y.W, outputs(w.S));
  const int64_t points = window(w.R) * window(w.S);
  const int64_t tiles = y.N * tiles_h * tiles_w;
  const int64_t row = round_up(x.C, level.vl);
  const Tiling tiling = choose_tiling(level, tiles, panels, row, points, call.threads);
  const int64_t block = tiling.block, tile_panels = tiling.panels, blocks = ceil_div(tiles, block);
  const int64_t v_plane = odd_lines(block * row), m_plane = odd_lines(block * nr);
  const int64_t v = round_up(kLists + nr * 4, 64), m = v + points * v_plane * 4;
  auto* a = call.list.record<WinogradArgs>();
  *a = {x.address(),
        x.n,
        x.h,
        x.w,
        mask.address(),
        mask.n,
        mask.h,
        mask.w,
        y.address(),
        y.n,
        y.h,
        y.w,
        address(weights),
        address(bias),
        address(zero_row(std::max(x.C, nr))),
        x.H,
        x.W,
        x.C,
        y.C,
        w.R,
        w.S,
        y.H,
        y.W,
        g.pad_h,
        g.pad_w,
        tiles_h,
        tiles_w,
        tiles,
        block,
        tile_panels,
        ceil_div(panels, tile_panels),
        v,
        row,
        v_plane,
        m,
        m_plane,
        relu,
        accumulate};
  const char* program = x.size == 2       ? "winograd_bfloat16"
                        : call.plain_twin ? "winograd_plain"
                                          : "winograd";
  const int64_t totals = level.mr * nr * 4;
  const int64_t runs = ceil_div(x.C, kChainChannels) * (kRunHeader + level.mr) * 8;
  call.list.add(level.program(program), a, blocks * a->panel_tiles,
                static_cast<size_t>(m + points * m_plane * 4 + totals + runs));
}

// Blocks of channels of the filter gradient: each transforms its channels of both maps, so large
// ones are the quickest, as far as there are enough for the team. None of this touches a bit.
static void choose_blocks(WinogradWgradArgs* a, int64_t vl, int64_t points, int64_t threads) {
  int64_t least = INT64_MAX;
  for (int64_t k_tiles = 1; k_tiles <= ceil_div(a->K, vl); ++k_tiles) {
    for (int64_t c_tiles = 1; c_tiles <= ceil_div(a->C, vl); ++c_tiles) {
      const int64_t k = round_up(ceil_div(a->K, k_tiles), vl);
      const int64_t c = round_up(ceil_div(a->C, c_tiles), vl);
      if (4 * points * k * c > kSumBytes) continue;
      const int64_t rounds = ceil_div(ceil_div(a->K, k) * ceil_div(a->C, c), threads);
      const int64_t cost = rounds * (k * c + kTransform * (k + c));
      if (cost < least) least = cost, a->tile_k = k, a->tile_c = c;
    }
  }
  a->c_tiles = ceil_div(a->C, a->tile_c);
}

void add_winograd_wgrad(Call& call, const Map& x, const Map& gy, const Map& mask, float* gw,
                        float* gb, int64_t R, int64_t S, const Geometry& g) {
  if (is_by_phases(R, S)) {
    const Map phases = new_phases(call, x, gy, x.N);
    add_phases(call, x, phases, g);
    return add_winograd_wgrad(call, phases, gy, mask, gw, gb, kPhaseTaps, kPhaseTaps, {});
  }
  auto* a = call.list.record<WinogradWgradArgs>();
  a->x = x.address(), a->x_n = x.n, a->x_h = x.h, a->x_w = x.w;
  a->gy = gy.address(), a->gy_n = gy.n, a->gy_h = gy.h, a->gy_w = gy.w;
  a->mask = mask.address(), a->m_n = mask.n, a->m_h = mask.h, a->m_w = mask.w;
  a->gw = address(gw), a->gb = address(gb), a->zero = address(zero_row(std::max(x.C, gy.C)));
  a->H = x.H, a->W = x.W, a->C = x.C, a->K = gy.C, a->R = R, a->S = S, a->P = gy.H, a->Q = gy.W;
  a->pad_h = g.pad_h, a->pad_w = g.pad_w;
  a->tiles_h = ceil_div(gy.H, outputs(R)), a->tiles_w = ceil_div(gy.W, outputs(S));
  a->tile_count = gy.N * a->tiles_h * a->tiles_w;
  const int64_t points = window(R) * window(S);
  // A function of the shape alone: it fixes the order of the sum.
  a->chunk_tiles = std::clamp<int64_t>(kChunkPoints / points, 16, 64);
  choose_blocks(a, call.level.vl, points, call.threads);
  const int64_t most = std::min(a->chunk_tiles, a->tile_count);
  a->v_row = a->tile_c, a->w_row = a->tile_k;
  a->v_plane = odd_lines(most * a->v_row), a->w_plane = odd_lines(most * a->w_row);
  a->m_plane = odd_lines(a->tile_k * a->v_row);
  a->v = kGradientLists, a->w = a->v + 4 * points * a->v_plane;
  a->m = a->w + 4 * points * a->w_plane;
  const char* program = call.plain_twin ? "winograd_wgrad_plain" : "winograd_wgrad";
  call.list.add(call.level.program(program), a, ceil_div(a->K, a->tile_k) * a->c_tiles,
                static_cast<size_t>(a->m + 4 * points * a->m_plane));
}

}  // namespace pyi
