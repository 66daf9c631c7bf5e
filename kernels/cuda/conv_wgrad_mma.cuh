// The filter gradient on tensor cores, in chunks of pixels, and the ordered sum of the chunks.
//
//   gw[k][u] = sum over pixels of gy[pixel][k] x[pixel of the tap of u][channel of u]
//
// Rows are output channels, columns the units (tap, channel) of a filter row in the order of KRSC,
// and the summed axis is pixels: both operands lie across it, pixel by pixel. 16-bit panels are
// transposed by ldmatrix on their way to the fragments; fp32 is read word by word.
#pragma once
#include "mma_tile.cuh"

template <class E_>
struct WgradTile {
  using E = E_;
  static constexpr bool kSm75 = false;
  static constexpr int kThreads = 128, kRows = 64, kColumns = 128;  // a warp: 64 x 32
  static constexpr int kUnit = 16 / sizeof(E), kStages = 3;
  static constexpr int kStep = 2 * kUnit;         // pixels of an mma: 16 or 8
  static constexpr int kStagePixels = 2 * kStep;  // 32 or 16
  static constexpr int kUnitsA = kRows / kUnit, kUnitsB = kColumns / kUnit;
  static constexpr int kWarpPixels = kStagePixels / 4;  // a warp copies these, of both operands
  static constexpr int kPassA = 32 / kUnitsA, kPassB = 32 / kUnitsB;  // so many at a time
  static_assert(kPassA == 2 * kPassB && kWarpPixels == 4 * kPassB, "four times x, twice gy");
  static constexpr int kPanelA = kStagePixels * kUnitsA * 16;
  static constexpr int kStage = kStagePixels * (kUnitsA + kUnitsB) * 16, kRing = kStages * kStage;
  static_assert(kRing == 36864,
                "three stages of 12 KB, three blocks in 163 KB. 128 x 128 lost: most "
                "reduced widths would fill less than half of it");
};

// Byte of (pixel, unit) in a panel of `units` units a pixel. For ldmatrix eight pixels of one unit
// must differ modulo 8; for single words four pixels of two neighbouring units. What a constant
// unit or pixel adds without a carry is an exclusive or, and an addition, of constants.
template <class E>
__device__ __forceinline__ int across_turn(int pixel) {
  return sizeof(E) == 2 ? pixel & 7 : 2 * pixel & 7;
}
template <class E>
__device__ __forceinline__ unsigned across_offset(int pixel, int unit, int units) {
  return (pixel * units + (unit ^ across_turn<E>(pixel))) * 16;
}

template <class T>
__device__ __forceinline__ void conv_wgrad_mma(const ConvWgradMmaArgs& a) {
  using E = typename T::E;
  const E* __restrict__ gy = (const E*)a.gy;  // (N, P, Q, K)
  const E* __restrict__ x = (const E*)a.x;    // (N, H, W, C)
  float *gw = a.gw, *gb = a.gb;
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned panels = shared_address(shared);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;

  const int row_tile = divide(blockIdx.x, a.column_tiles), chunk = blockIdx.y;
  const int k0 = row_tile * T::kRows;
  const int u0 = (blockIdx.x - row_tile * a.column_tiles.value) * T::kUnitsB;
  const int begin = chunk * a.chunk_pixels, end = min(begin + a.chunk_pixels, a.pixels);

  // This thread copies one unit of x of four of its warp's pixels, kPassB apart, and one of gy of
  // two of these: the first and third, or the others. So four are looked for.
  const int unit_a = lane % T::kUnitsA, unit_b = lane % T::kUnitsB;
  const bool odd = lane / T::kUnitsA % 2;
  const int pixel_b = warp * T::kWarpPixels + lane / T::kUnitsB;
  const int pixel_a = pixel_b + (odd ? T::kPassB : 0);
  const int k = k0 + unit_a * T::kUnit, u = u0 + unit_b;
  const int tap = divide(u, a.channel_units), tap_r = divide(tap, a.filter_w);
  const int tap_s = tap - tap_r * a.filter_w.value;
  const int channel = (u - tap * a.channel_units.value) * T::kUnit;
  const E* from_a = gy + (k < a.K ? k : 0);
  const int tap_at = offset_of(a.x_strides, 0, tap_r, tap_s) + channel;
  const int shift = u < a.units ? join_corner(tap_r, tap_s) : kFarBelow;
  const int last = join_corner(a.H - 1, a.W - 1);
  const unsigned to_a = computed_here(panels + across_offset<E>(pixel_a, unit_a, T::kUnitsA));
  const unsigned to_b =
      computed_here(panels + T::kPanelA + across_offset<E>(pixel_b, unit_b, T::kUnitsB));

  // what this lane reads of the panels, of tile 0 and pixel 0 of a step
  const int read_a = sizeof(E) == 2 ? lane % 8 + lane / 16 * 8 : t;
  const int read_b = sizeof(E) == 2 ? lane % 8 + lane / 8 % 2 * 8 : t;
  const unsigned a_at = computed_here(
      panels + across_offset<E>(read_a, sizeof(E) == 2 ? lane / 8 % 2 : g / 4, T::kUnitsA) +
      (sizeof(E) == 2 ? 0 : g % 4 * 4));
  const unsigned b_at = computed_here(
      panels + T::kPanelA +
      across_offset<E>(read_b, sizeof(E) == 2 ? warp * 4 + lane / 16 : warp * 8 + g / 4,
                       T::kUnitsB) +
      (sizeof(E) == 2 ? 0 : g % 4 * 4));

  // a block of the first columns sums the bias, a thread per channel
  const bool sums_bias = gb && u0 == 0 && threadIdx.x < T::kRows;
  const int bias_at = computed_here(panels + threadIdx.x * (int)sizeof(E));
  float bias = 0.f;

  float acc[4][4][4];
#pragma unroll
  for (int i = 0; i < 64; i++) acc[i / 16][i / 4 % 4][i % 4] = 0.f;
  ring<T>(
      ceil_div(end - begin, T::kStagePixels),
      [&](int stage, int slot, Copies<T>& copies) {
        int m[4], n[4], p[4], q[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          m[i] = begin + stage * T::kStagePixels + pixel_b + i * T::kPassB;
          n[i] = divide(m[i], a.map_pixels);
          const int of_image = m[i] - n[i] * a.map_pixels.value;
          p[i] = divide(of_image, a.map_w), q[i] = of_image - p[i] * a.map_w.value;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const auto one = [odd, i](const int (&of)[4]) { return odd ? of[2 * i + 1] : of[2 * i]; };
          const int place = offset_of(a.gy_strides, one(n), one(p), one(q));
          copies.copy(
              0,
              (to_a + slot ^ across_turn<E>(i * T::kPassA) * 16) + i * T::kPassA * T::kUnitsA * 16,
              element(from_a, place), one(m) < end && k < a.K);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int h = halo_origin(p[i], a.stride_h, a.pad_h);
          const int column = halo_origin(q[i], a.stride_w, a.pad_w);
          const int at = (m[i] < end ? join_corner(h, column) : kFarAbove) + shift;
          copies.copy(
              0,
              (to_b + slot ^ across_turn<E>(i * T::kPassB) * 16) + i * T::kPassB * T::kUnitsB * 16,
              element(x, offset_of(a.x_strides, n[i], h, column) + tap_at), inside_map(at, last));
        }
      },
      [&](int, int slot) {
        const unsigned own_a = a_at + slot, own_b = b_at + slot;
#pragma unroll
        for (int step = 0; step < T::kStagePixels; step += T::kStep) {
          unsigned b[4][2];
          if constexpr (sizeof(E) == 2) {
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
              unsigned v[4];
              ldmatrix_x4_trans(v, (own_b ^ 16 * j) + step * T::kUnitsB * 16);
              b[j][0] = v[0], b[j][1] = v[1], b[j + 1][0] = v[2], b[j + 1][1] = v[3];
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
              unsigned v[4];
              ldmatrix_x4_trans(v, (own_a ^ 32 * i) + step * T::kUnitsA * 16);
#pragma unroll
              for (int j = 0; j < 4; j++) mma(acc[i][j], v, b[j], E{});
            }
          } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                b[j][e] = to_tf32(load_shared((own_b ^ 32 * j) + (step + 4 * e) * T::kUnitsB * 16));
#pragma unroll
            for (int i = 0; i < 4; i++) {
              unsigned v[4];
#pragma unroll
              for (int e = 0; e < 4; e++)
                v[e] = to_tf32(load_shared((own_a ^ 64 * i + 32 * (e % 2)) +
                                           (step + e / 2 * 4) * T::kUnitsA * 16));
#pragma unroll
              for (int j = 0; j < 4; j++) mma(acc[i][j], v, b[j], E{});
            }
          }
        }
        if (sums_bias)
#pragma unroll
          for (int i = 0; i < T::kStagePixels; i++) {
            const unsigned from = (bias_at + slot ^ across_turn<E>(i) * 16) + i * T::kUnitsA * 16;
            float value, nothing;
            if constexpr (sizeof(E) == 2)
              unpack(load_shared_half(from), value, nothing, E{});
            else
              value = __uint_as_float(load_shared(from));
            bias += value;
          }
      });

  const int columns = a.units * T::kUnit, from = u0 * T::kUnit + warp * 32 + 2 * t;
  gw += chunk * a.chunk_stride;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = k0 + 16 * i + g + 8 * half;
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (row < a.K && from + 8 * j < columns)
          *(float2*)(gw + row * columns + from + 8 * j) =
              make_float2(acc[i][j][2 * half], acc[i][j][2 * half + 1]);
    }
  if (sums_bias && k0 + threadIdx.x < a.K) gb[chunk * a.chunk_stride + k0 + threadIdx.x] = bias;
}
