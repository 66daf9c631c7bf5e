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
  static constexpr int kPanelA = kStagePixels * kUnitsA * 16;
  static constexpr int kStage = kStagePixels * (kUnitsA + kUnitsB) * 16, kRing = kStages * kStage;
  static_assert(kRing == 36864,
                "three stages of 12 KB, three blocks in 163 KB. 128 x 128 lost: most "
                "reduced widths would fill less than half of it");
};

// Byte of (pixel, unit) in a panel of `units` units a pixel. For ldmatrix eight pixels of one unit
// must differ modulo 8; for single words four pixels of two neighbouring units.
template <class E>
__device__ __forceinline__ unsigned across_offset(int pixel, int unit, int units) {
  const int turn = sizeof(E) == 2 ? pixel & 7 : 2 * pixel & 7;
  return (pixel * units + (unit ^ turn)) * 16;
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

  // this thread copies one unit of gy and one of x, from pixels some apart
  const int unit_a = threadIdx.x % T::kUnitsA, unit_b = threadIdx.x % T::kUnitsB;
  const int k = k0 + unit_a * T::kUnit, u = u0 + unit_b;
  const int tap = divide(u, a.channel_units), tap_r = divide(tap, a.filter_w);
  const int tap_s = tap - tap_r * a.filter_w.value;
  const int channel = (u - tap * a.channel_units.value) * T::kUnit;
  const auto locate = [&](int m, int& n, int& p, int& q) {
    n = divide(m, a.map_pixels);
    const int pixel = m - n * a.map_pixels.value;
    p = divide(pixel, a.map_w), q = pixel - p * a.map_w.value;
  };

  // a block of the first columns sums the bias, a thread per word of a pixel's row
  constexpr int kWords = T::kRows * sizeof(E) / 4;
  const bool sums_bias = gb && u0 == 0 && threadIdx.x < kWords;
  float bias[2] = {0.f, 0.f};

  float acc[4][4][4];
#pragma unroll
  for (int i = 0; i < 64; i++) acc[i / 16][i / 4 % 4][i % 4] = 0.f;
  ring<T>(
      ceil_div(end - begin, T::kStagePixels),
      [&](int stage, int slot, Copies<T>& copies) {
        const int m0 = begin + stage * T::kStagePixels;
#pragma unroll
        for (int i = 0; i < T::kStagePixels; i += T::kThreads / T::kUnitsA) {
          const int at = i + threadIdx.x / T::kUnitsA;
          int n, p, q;
          locate(m0 + at < end ? m0 + at : 0, n, p, q);
          const bool wanted = m0 + at < end && k < a.K;
          copies.copy(0, panels + slot + across_offset<E>(at, unit_a, T::kUnitsA),
                      gy + (wanted ? offset_of(a.gy_strides, n, p, q) + k : 0), wanted);
        }
#pragma unroll
        for (int i = 0; i < T::kStagePixels; i += T::kThreads / T::kUnitsB) {
          const int at = i + threadIdx.x / T::kUnitsB;
          int n, p, q;
          locate(m0 + at < end ? m0 + at : 0, n, p, q);
          const int h = halo_origin(p, a.stride_h, a.pad_h) + tap_r;
          const int column = halo_origin(q, a.stride_w, a.pad_w) + tap_s;
          const bool wanted = m0 + at < end && u < a.units && inside(h, a.H) && inside(column, a.W);
          copies.copy(0, panels + slot + T::kPanelA + across_offset<E>(at, unit_b, T::kUnitsB),
                      x + (wanted ? offset_of(a.x_strides, n, h, column) + channel : 0), wanted);
        }
      },
      [&](int, int slot) {
        const unsigned panel_a = panels + slot, panel_b = panel_a + T::kPanelA;
#pragma unroll
        for (int step = 0; step < T::kStagePixels; step += T::kStep) {
          unsigned b[4][2];
          if constexpr (sizeof(E) == 2) {
            const int pixel_a = step + lane % 8 + lane / 16 * 8;
            const int pixel_b = step + lane % 8 + lane / 8 % 2 * 8;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
              unsigned v[4];
              ldmatrix_x4_trans(
                  v, panel_b + across_offset<E>(pixel_b, warp * 4 + j + lane / 16, T::kUnitsB));
              b[j][0] = v[0], b[j][1] = v[1], b[j + 1][0] = v[2], b[j + 1][1] = v[3];
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
              unsigned v[4];
              ldmatrix_x4_trans(
                  v, panel_a + across_offset<E>(pixel_a, 2 * i + lane / 8 % 2, T::kUnitsA));
#pragma unroll
              for (int j = 0; j < 4; j++) mma(acc[i][j], v, b[j], E{});
            }
          } else {
            const auto word = [&](unsigned panel, int pixel, int at, int units) {
              return to_tf32(
                  load_shared(panel + across_offset<E>(pixel, at / 4, units) + at % 4 * 4));
            };
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                b[j][e] = word(panel_b, step + t + 4 * e, warp * 32 + 8 * j + g, T::kUnitsB);
#pragma unroll
            for (int i = 0; i < 4; i++) {
              unsigned v[4];
#pragma unroll
              for (int e = 0; e < 4; e++)
                v[e] = word(panel_a, step + t + e / 2 * 4, 16 * i + g + e % 2 * 8, T::kUnitsA);
#pragma unroll
              for (int j = 0; j < 4; j++) mma(acc[i][j], v, b[j], E{});
            }
          }
        }
        if (sums_bias)
#pragma unroll
          for (int i = 0; i < T::kStagePixels; i++) {
            const unsigned v = load_shared(
                panel_a + across_offset<E>(i, threadIdx.x / 4, T::kUnitsA) + threadIdx.x % 4 * 4);
            float lo, hi = 0.f;
            if constexpr (sizeof(E) == 2)
              unpack(v, lo, hi, E{});
            else
              lo = __uint_as_float(v);
            bias[0] += lo, bias[1] += hi;
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
  if (sums_bias) {
    constexpr int kEach = 4 / sizeof(E);
#pragma unroll
    for (int e = 0; e < kEach; e++)
      if (k0 + threadIdx.x * kEach + e < a.K)
        gb[chunk * a.chunk_stride + k0 + threadIdx.x * kEach + e] = bias[e];
  }
}
