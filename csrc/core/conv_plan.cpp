// Plans of convolutions: records, tiles and launches of fprop, dgrad and wgrad, packing of filters.
//
// Tiles are ranges of output pixels of one image times ranges of panels. Pixel tiles are multiples
// of the register tile's MR, so that the groups of pixels, and with them the bits, are the same
// however the work is cut for batch and threads.
#include "conv_plan.h"

#include <algorithm>

namespace pyi {
namespace {

constexpr int64_t kCoordinates = 16;  // COORDINATES of kernels/cpu/conv.py
constexpr int64_t kRunHeader = 3;     // RUN_HEADER of kernels/cpu/register_tile.py
constexpr double kTileFlops = 4e6;    // 20-40 us: small beside a barrier's wait
constexpr int64_t kTilesPerThread = 4;
constexpr int64_t kSlack = 64;            // stage_row stores whole registers
constexpr int64_t kGroupBytes = 2 << 20;  // maps of a group of images: in L2 and L3
constexpr int64_t kChunkPixels = 160;     // wgrad: a block of 48 lanes of a chunk fits in L1
constexpr int64_t kWgradChannels = 64;    // channels of a tile: a block of lanes is read 8 times
constexpr int64_t kWgradTiles = 8;

// Bytes of scratch before the staged maps: coordinates, totals of a register tile, and the lists of
// runs of a record's sources at their longest, behind which addresses of kCoordinates pixels fit.
int64_t list_bytes(const Level& level, const std::vector<ConvSource>& sources) {
  int64_t slots = kCoordinates;
  for (const ConvSource& s : sources) {
    slots += s.R * (s.S + ceil_div(s.S * s.x.C, kSumChunk)) * (level.mr + kRunHeader);
  }
  return kCoordinates * (64 + 4 * level.nr()) + round_up(8 * slots, 64);
}

double flops(const std::vector<ConvSource>& sources, int64_t K) {
  double terms = 0;  // of one output pixel
  for (const ConvSource& s : sources) terms += static_cast<double>(s.R * s.S * s.x.C);
  return 2 * terms * static_cast<double>(K);
}

void plain_conv(Call& call, const char* program, const Map& x, const Filter& w, float* bias,
                const Map& y, const Map& mask, const Geometry& g, bool relu, bool accumulate,
                int64_t tiles) {
  if (w.packed) {
    fail(PYI_UNSUPPORTED, call.check.function(),
         ": algorithm 'plain' reads the filter itself, not a packed one");
  }
  auto* a = call.list.record<PlainConvArgs>();
  *a = {x.address(), x.n,    x.h,        x.w,        address(w.data),
        w.k,         w.r,    w.s,        w.c,        address(bias),
        y.address(), y.n,    y.h,        y.w,        mask.address(),
        mask.n,      mask.h, mask.w,     x.N,        x.H,
        x.W,         x.C,    w.K,        w.R,        w.S,
        y.H,         y.W,    g.stride_h, g.stride_w, g.pad_h,
        g.pad_w,     relu,   accumulate};
  call.list.add(call.level.program(program), a, tiles, 64);
}

}  // namespace

int64_t staged_width(const ConvSource& s, bool merged, int64_t Q) {
  if (!merged) return s.x.W;
  return std::max((Q - 1) * s.geometry.stride_w + s.S, s.geometry.pad_w + s.x.W);
}

// Most source rows that a tile of `pixels` output pixels can see.
static int64_t staged_rows(const ConvSource& s, int64_t pixels, int64_t Q) {
  int64_t rows = (pixels + Q - 2) / Q + 1;
  return std::min(s.x.H, ((rows - 1) * s.geometry.stride_h + s.R - 1) / s.dilation_h + 2);
}

int64_t staged_bytes(const ConvSource& s, bool merged, int64_t pixels, int64_t Q) {
  return round_up(staged_rows(s, pixels, Q) * staged_width(s, merged, Q) * s.x.C * 4, 64) + kSlack;
}

static void fill_source(Source* to, const ConvSource& s, bool staged, bool merged) {
  *to = {s.x.address(),
         s.x.n,
         s.x.h,
         s.x.w,
         s.mask.address(),
         s.mask.n,
         s.mask.h,
         s.mask.w,
         s.x.H,
         s.x.W,
         s.x.C,
         s.R,
         s.S,
         s.geometry.stride_h,
         s.geometry.stride_w,
         s.geometry.pad_h,
         s.geometry.pad_w,
         s.dilation_h,
         s.dilation_w,
         staged,
         merged};
}

// Sources, panels and weight addresses of a convolution; tiling is the caller's.
ConvArgs* fill_conv(Call& call, const std::vector<ConvSource>& sources,
                    const std::vector<ConvOutput>& outputs, bool relu, bool accumulate) {
  const Level& level = call.level;
  int64_t panel_count = 0;
  for (const ConvOutput& o : outputs) panel_count += ceil_div(o.y.C, level.nr());
  auto* a = call.list.record<ConvArgs>();
  auto* source = call.list.record<Source>(static_cast<int64_t>(sources.size()));
  auto* panel = call.list.record<Panel>(panel_count);
  auto* weights = call.list.record<Int>(panel_count * static_cast<int64_t>(sources.size()));
  int64_t zeros = level.nr(), j = 0;
  for (size_t k = 0; k < sources.size(); ++k) {
    const ConvSource& s = sources[k];
    bool staged = s.mask.data != nullptr || (s.S > 1 && s.x.C < level.vl);
    bool merged = staged && s.dilation_w == 1 && s.geometry.pad_w >= 0;
    fill_source(&source[k], s, staged, merged);
    zeros = std::max(zeros, s.S * s.x.C);
  }
  for (const ConvOutput& o : outputs) {
    for (int64_t k0 = 0; k0 < o.y.C; k0 += level.nr(), ++j) {
      panel[j] = {
          o.bias ? address(o.bias + k0) : 0, o.y.address() + o.y.size * k0, o.y.n, o.y.h, o.y.w,
          std::min(level.nr(), o.y.C - k0)};
      for (size_t k = 0; k < sources.size(); ++k) {
        const ConvSource& s = sources[k];
        const float* w = o.weights ? o.weights : s.weights;
        weights[static_cast<int64_t>(k) * panel_count + j] = address(w + k0 * s.R * s.S * s.x.C);
      }
    }
  }
  const Map& y = outputs[0].y;
  a->sources = address(source), a->source_count = static_cast<Int>(sources.size());
  a->panels = address(panel), a->panel_count = panel_count;
  a->weights = address(weights), a->zero = address(zero_row(zeros));
  a->N = y.N, a->P = y.H, a->Q = y.W;
  a->phase_w = sources[0].dilation_w;
  a->lists = list_bytes(level, sources);
  a->relu = relu, a->accumulate = accumulate;
  return a;
}

Filter checked(Check& check, Filter w, const Level& level, int64_t K, int64_t C, const char* name) {
  if (!w.packed) return w;
  if (K < 1 || C < 1) {
    fail(PYI_INVALID_VALUE, check.function(), ": the widths of packed ", name, " are (", K, ", ", C,
         "), expected at least 1 each; a bias or an output must tell them");
  }
  int64_t want = packed_elements(level, w, K, C, false);
  w.winograd = winograd_numbers(w.R, w.S) > 0 && w.K == packed_elements(level, w, K, C, true);
  if (w.K != want && !w.winograd) {
    fail(PYI_INVALID_VALUE, check.function(), ": packed ", name, " has ", w.K, " floats, expected ",
         want, " for (K, R, S, C) = (", K, ", ", w.R, ", ", w.S, ", ", C, ") on ", level.name);
  }
  w.K = K, w.C = C;
  return w;
}

Geometry geometry(Check& check, const pyi_conv_params* p) {
  if (p == nullptr) fail(PYI_INVALID_VALUE, check.function(), ": params is NULL");
  check.range("stride[0]", p->stride_h, 1, 1 << 20);
  check.range("stride[1]", p->stride_w, 1, 1 << 20);
  check.range("padding[0]", p->pad_h, 0, 1 << 20);
  check.range("padding[1]", p->pad_w, 0, 1 << 20);
  return {p->stride_h, p->stride_w, p->pad_h, p->pad_w};
}

int64_t packed_floats(const Level& level, int64_t K, int64_t R, int64_t S, int64_t C,
                      bool winograd) {
  int64_t tail = K % level.nr();
  int64_t lanes = K - tail + (tail == 0 ? 0 : tail <= level.vl ? level.vl : level.nr());
  return lanes * C * (winograd ? winograd_numbers(R, S) : R * S);
}

int64_t packed_elements(const Level& level, const Filter& w, int64_t K, int64_t C, bool winograd) {
  const int64_t pair = 4 / w.size;  // channels of a term, elements of a float
  if (winograd) return pair * packed_floats(level, K, w.R, w.S, C, true);
  return pair * packed_floats(level, K, w.R, w.S, ceil_div(C, pair), false);
}

const float* packed(Call& call, const Filter& w, bool dgrad, float* to) {
  if (w.packed) return w.data;
  auto* a = call.list.record<PackArgs>();
  // dgrad is a convolution with the filter flipped and its channels exchanged: strides say so.
  if (dgrad) {
    *a = {address(w.data + (w.R - 1) * w.r + (w.S - 1) * w.s),
          w.c,
          -w.r,
          -w.s,
          w.k,
          0,
          w.C,
          w.R,
          w.S,
          w.K};
  } else {
    const Filter as = w.winograd && is_by_phases(w.R, w.S) ? by_phases(w) : w;
    *a = {address(w.data), w.k, w.r, w.s, w.c, 0, w.K, as.R, as.S, as.C};
  }
  if (to == nullptr) {
    const int64_t K = dgrad ? w.C : w.K, C = dgrad ? w.K : w.C;
    to = call.list.floats(packed_elements(call.level, w, K, C, w.winograd) * w.size / 4);
  }
  a->packed = address(to);
  const bool narrow = w.size == 2;
  const char* program = !w.winograd       ? narrow ? "pack_bfloat16" : "pack"
                        : narrow          ? "pack_winograd_bfloat16"
                        : call.plain_twin ? "pack_winograd_plain"
                                          : "pack_winograd";
  // Taps of a vector of lanes and as many channels, or those of one channel and a panel.
  const int64_t vl = call.level.vl;
  const int64_t floats =
      std::max(w.R * w.S * std::max(vl * vl, call.level.nr()) + 2 * vl, int64_t{80});
  call.list.add(call.level.program(program), a, ceil_div(a->K, call.level.nr()),
                static_cast<size_t>(4 * floats));
  return to;
}

int64_t images_in_cache(const Call& call, int64_t N, int64_t image_bytes) {
  return std::clamp<int64_t>(kGroupBytes / image_bytes, std::min<int64_t>(call.threads, N), N);
}

void add_conv(Call& call, const std::vector<ConvSource>& sources,
              const std::vector<ConvOutput>& outputs, bool relu, bool accumulate) {
  if (sources[0].x.size == 2) return add_conv_bfloat16(call, sources, outputs, relu);
  const Level& level = call.level;
  ConvArgs* a = fill_conv(call, sources, outputs, relu, accumulate);
  const int64_t pixels = a->P * a->Q;
  int64_t K = 0;
  for (const ConvOutput& o : outputs) K += o.y.C;
  const double per_pixel = flops(sources, K);
  auto multiple = [&](double wanted) {
    int64_t groups =
        std::max<int64_t>(1, static_cast<int64_t>(wanted / static_cast<double>(level.mr)));
    return std::min(groups * level.mr, round_up(pixels, level.mr));
  };
  int64_t tile = multiple(kTileFlops / per_pixel);
  auto staging = [&](int64_t tile_pixels) {
    const auto* source = reinterpret_cast<const Source*>(a->sources);
    int64_t bytes = 0;
    for (size_t k = 0; k < sources.size(); ++k) {
      if (source[k].staged) bytes += staged_bytes(sources[k], source[k].merged, tile_pixels, a->Q);
    }
    return bytes;
  };
  // Staged rows are copied once a tile: few rows a tile copy their neighbours' rows again, so take
  // as many as half of L2 holds while there are tiles enough.
  const bool staged = staging(level.mr) > 0;
  if (staged) {
    int64_t enough = std::max<int64_t>(1, kTilesPerThread * call.threads / std::max<Int>(a->N, 1));
    int64_t most = multiple(static_cast<double>(ceil_div(pixels, enough)));
    while (tile < most && staging(tile + level.mr) <= kStagedBytes) tile += level.mr;
  }
  a->tile_pixels = tile;
  a->pixel_tiles = ceil_div(pixels, tile);
  // Few pixels: cut the output channels too.
  int64_t want = ceil_div(kTilesPerThread * call.threads, std::max<Int>(a->N, 1) * a->pixel_tiles);
  double tile_flops = per_pixel * static_cast<double>(std::min(tile, pixels));
  want = std::min(want, std::max<int64_t>(1, static_cast<int64_t>(tile_flops / (kTileFlops / 8))));
  a->tile_panels = call.threads > 1 ? ceil_div(a->panel_count, want) : a->panel_count;
  a->panel_tiles = ceil_div(a->panel_count, a->tile_panels);
  const char* program = conv_program(call, false, outputs[0].y.size);
  call.list.add(level.program(program), a, a->N * a->pixel_tiles * a->panel_tiles,
                static_cast<size_t>(a->lists + staging(tile)));
}

void add_fprop(Call& call, const Map& x, const Filter& w, const float* packed, const float* bias,
               const Map& y, const Geometry& g, bool relu) {
  if (call.plain) {
    const char* program = x.size == 2 ? "conv_fprop_bfloat16_plain" : "conv_fprop_plain";
    plain_conv(call, program, x, w, const_cast<float*>(bias), y, {}, g, relu, false, y.N * y.H);
  } else if (w.winograd) {
    add_winograd(call, x, {}, w, packed, bias, y, g, relu, false);
  } else {
    add_conv(call, {{x, {}, packed, w.R, w.S, g}}, {{y, bias, nullptr}}, relu, false);
  }
}

void add_dgrad(Call& call, const Map& gy, const Filter& w, const float* packed, const Map& mask,
               const Map& gx, const Geometry& g, bool accumulate) {
  if (call.plain) {
    plain_conv(call, "conv_dgrad_plain", gx, w, nullptr, gy, mask, g, false, accumulate,
               gx.N * gx.H);
    return;
  }
  if (w.winograd) {
    add_winograd(call, gy, mask, w, packed, nullptr, gx,
                 {1, 1, w.R - 1 - g.pad_h, w.S - 1 - g.pad_w}, false, accumulate);
    return;
  }
  ConvSource source{gy,         mask,      packed,
                    w.R,        w.S,       {1, 1, w.R - 1 - g.pad_h, w.S - 1 - g.pad_w},
                    g.stride_h, g.stride_w};
  add_conv(call, {source}, {{gx, nullptr, nullptr}}, false, accumulate);
}

void add_wgrad(Call& call, const Map& x, const Map& gy, const Map& mask, float* gw, float* gb,
               int64_t R, int64_t S, const Geometry& g, bool winograd) {
  const Level& level = call.level;
  if (winograd) return add_winograd_wgrad(call, x, gy, mask, gw, gb, R, S, g);
  if (call.plain) {
    Filter w{gw, gy.C, R, S, x.C, R * S * x.C, S * x.C, x.C, 1, false};
    plain_conv(call, "conv_wgrad_plain", x, w, gb, gy, mask, g, false, false, gy.C);
    return;
  }
  if (R * S == 1 && g.stride_h * g.stride_w == 1 && g.pad_h + g.pad_w == 0) {
    return add_pointwise_wgrad(call, x, {{gy, mask, gw, gb}});
  }
  auto* a = call.list.record<WgradArgs>();
  // Chunks are a function of the shape alone: they fix the order of the sum.
  const int64_t chunks = ceil_div(gy.H, std::max<int64_t>(1, kChunkPixels / gy.W));
  const int64_t chunk = ceil_div(gy.H, chunks), pixels = chunk * gy.W;
  const int64_t nr = level.wgrad_nv * level.vl, blocks = R * ceil_div(S * x.C, nr);
  const int64_t tile_k = std::min(kWgradChannels, round_up(gy.C, level.wgrad_mr));
  const int64_t k_tiles = ceil_div(gy.C, tile_k);
  const int64_t tile_b = ceil_div(blocks, std::min(blocks, ceil_div(kWgradTiles, k_tiles)));
  const int64_t width = std::max((gy.W - 1) * g.stride_w + S, g.pad_w + x.W);
  const int64_t rows_at = round_up(8 * level.wgrad_mr + 4 * nr, 64);
  const int64_t gy_at = round_up(rows_at + 8 * pixels, 64);
  const int64_t lanes_at = round_up(gy_at + 4 * pixels * tile_k, 64);
  const int64_t x_at = round_up(lanes_at + 4 * pixels * nr, 64);
  const int64_t x_rows = R * S == 1 ? 0 : std::min((chunk - 1) * g.stride_h + R, x.H);
  *a = {x.address(),
        x.n,
        x.h,
        x.w,
        gy.address(),
        gy.n,
        gy.h,
        gy.w,
        mask.address(),
        mask.n,
        mask.h,
        mask.w,
        address(gw),
        address(gb),
        x.N,
        x.H,
        x.W,
        x.C,
        gy.C,
        R,
        S,
        gy.H,
        gy.W,
        g.stride_h,
        g.stride_w,
        g.pad_h,
        g.pad_w,
        chunk,
        tile_k,
        tile_b,
        ceil_div(blocks, tile_b),
        rows_at,
        gy_at,
        lanes_at,
        x_at,
        address(zero_row(S * x.C))};
  call.list.add(level.program("conv_wgrad"), a, k_tiles * a->b_tiles,
                static_cast<size_t>(x_at + x_rows * width * x.C * 4 + kSlack));
}

Map new_map(Call& call, int64_t N, int64_t H, int64_t W, int64_t C, int64_t size) {
  Map m;
  m.data = call.list.floats(ceil_div(N * H * W * C * size, 4));
  m.size = size;
  m.N = N, m.H = H, m.W = W, m.C = C;
  m.w = C, m.h = W * C, m.n = H * W * C;
  return m;
}

void check_conv(Check& check, const Map& x, const Filter& w, const Map& y, const Geometry& g) {
  const char* f = check.function();
  if (w.C != x.C) {
    fail(PYI_INVALID_VALUE, f, ": w has C = ", w.C, " input channels, expected ", x.C, " as x");
  }
  if (w.R > x.H + 2 * g.pad_h || w.S > x.W + 2 * g.pad_w) {
    fail(PYI_INVALID_VALUE, f, ": w is a filter of ", w.R, "x", w.S,
         ", larger than the padded image of ", x.H + 2 * g.pad_h, "x", x.W + 2 * g.pad_w);
  }
  int64_t P = (x.H + 2 * g.pad_h - w.R) / g.stride_h + 1;
  int64_t Q = (x.W + 2 * g.pad_w - w.S) / g.stride_w + 1;
  check.extents("y", y, x.N, P, Q, w.K, "(N, P, Q, K)");
}

}  // namespace pyi
