// The device code of the implicit-GEMM convolution on tensor cores: fprop and dgrad. The contract
// stands at the head of conv_mma.cu.
//
//   rows     output pixels (n, p, q), all images in one line
//   columns  output channels, of stacked filters perhaps, each going to its own output
//   K        units (tap, channel): the gather of A finds the pixel of the tap, or zero
#pragma once
#include "mma_tile.cuh"

// A pixel's corner h0, w0 in one register; a row past the end is far above the map.
__device__ __forceinline__ int join_corner(int h, int w) { return (h << 16) | (w & 0xffff); }

// The largest of the up to nine neighbours of a unit, NaN if there is one.
template <class E>
__device__ __forceinline__ uint4 pooled_unit(const ConvMmaArgs& a, const E* x, int h, int column) {
  uint4 most = *(const uint4*)x;
#pragma unroll
  for (int i = 0; i < 9; i++) {
    const int dh = i / 3 - 1, dw = i % 3 - 1;
    if (i == 4 || !inside(h + dh, a.H) || !inside(column + dw, a.W)) continue;
    const uint4 v = *(const uint4*)(x + dh * a.x_strides.row + dw * a.x_strides.pixel);
    most.x = larger(most.x, v.x, E{}), most.y = larger(most.y, v.y, E{});
    most.z = larger(most.z, v.z, E{}), most.w = larger(most.w, v.w, E{});
  }
  return most;
}

// kPooled: a 1x1 of the 3x3 max pool of x (stride 1, padding 1), which exists on chip only.
template <class T, bool kPooled = false>
__device__ __forceinline__ void conv_mma(const ConvMmaArgs& a, int block) {
  using E = typename T::E;
  const E* __restrict__ x = (const E*)a.x;  // (N, H, W, C)
  const E* __restrict__ w = (const E*)a.w;  // (K, R, S, C)
  const float* __restrict__ b = a.b;        // (K) or null
  const E* __restrict__ mask = (const E*)a.mask;
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned panels = shared_address(shared);
  const Lane<T> l;
  const bool dilated = a.step_h > 1 || a.step_w > 1;

  const int row_tile = divide(block, a.column_tiles);
  const int m0 = row_tile * T::kRows;
  const int n0 = (block - row_tile * a.column_tiles.value) * T::kColumns;
  const int nt = warp_columns<T>(a.K - n0), count = 8 * nt * T::kWarpsN;
  const auto locate = [&](int m, int& n, int& p, int& q) {
    n = divide(m, a.map_pixels);
    const int pixel = m - n * a.map_pixels.value;
    p = divide(pixel, a.map_w), q = pixel - p * a.map_w.value;
  };

  int image[T::kLoadsA], corner[T::kLoadsA];
#pragma unroll
  for (int i = 0; i < T::kLoadsA; i++) {
    const int m = m0 + i * T::kLoadRows + threadIdx.x / T::kStageUnits;
    int n, p, q;
    locate(m < a.pixels ? m : 0, n, p, q);
    image[i] = n * a.x_strides.image;
    corner[i] = m < a.pixels ? join_corner(halo_origin(p, a.stride_h, a.pad_h),
                                           halo_origin(q, a.stride_w, a.pad_w))
                             : join_corner(-32768, 0);
  }

  float acc[T::kWarpTiles][4][4];
  clear<T>(acc);
  ring<T>(
      ceil_div(a.units, T::kStageUnits),
      [&](int stage, int slot, Copies<T>& copies) {
        const int unit = threadIdx.x % T::kStageUnits, u = stage * T::kStageUnits + unit;
        const int tap = divide(u, a.channel_units), tap_r = divide(tap, a.filter_w);
        const int tap_s = tap - tap_r * a.filter_w.value;
        const int channel = (u - tap * a.channel_units.value) * T::kUnit;
#pragma unroll
        for (int i = 0; i < T::kLoadsA; i++) {
          const int row = i * T::kLoadRows + threadIdx.x / T::kStageUnits;
          const unsigned to = panels + slot + panel_offset(row, unit);
          int h = (corner[i] >> 16) + tap_r, column = (short)corner[i] + tap_s;
          bool wanted = u < a.units && h >= 0 && column >= 0;
          if constexpr (kPooled) {
            const int offset =
                image[i] + h * a.x_strides.row + column * a.x_strides.pixel + channel;
            if (row < T::kRows)
              store_shared(to,
                           wanted ? pooled_unit(a, x + offset, h, column) : make_uint4(0, 0, 0, 0));
            continue;
          }
          if (dilated && wanted) {
            const int line = divide(h, a.dilation_h), pixel = divide(column, a.dilation_w);
            wanted = line * a.step_h == h && pixel * a.step_w == column;
            h = line, column = pixel;
          }
          wanted = wanted && h < a.H && column < a.W;
          const int offset = image[i] + h * a.x_strides.row + column * a.x_strides.pixel + channel;
          if (row < T::kRows) copies.copy(i, to, x + (wanted ? offset : 0), wanted);
        }
        load_filter<T>(copies, panels + slot + T::kPanelA, w, n0, a.K, count, stage, a.units);
      },
      [&](int, int slot) {
        const unsigned panel = panels + slot;
        multiply<T, true>(
            nt, acc, l,
            [&](int step, int i) {
              return panel + panel_offset(l.address_row(0), 2 * step + l.lane / 16) + i * 1024;
            },
            panel + T::kPanelA);
      });

  // which output takes the units that this lane will hold; addresses kept here instead of read from
  // the record at every store took the kernel from 180 registers to spills
  int output[kLaneUnits<E>];  // -1: none
  const int column0 = n0 + l.first_column(nt);
#pragma unroll
  for (int i = 0; i < kLaneUnits<E>; i++) {
    const int at = unit_column<E>(i, l.t), k = column0 + at;
    output[i] = -1;
#pragma unroll
    for (int o = 0; o < 4; o++)
      if (o < a.output_count && at < 8 * nt && inside(k - a.outputs[o].first, a.outputs[o].count))
        output[i] = o;
  }
  const int columns = min(8 * nt, a.K - column0);  // of the warp
  const E* sum = a.accumulate ? (const E*)a.outputs[0].y : nullptr;
  float bias[4][2];
  load_bias(bias, b, column0 + 2 * l.t, a.K);
#pragma unroll
  for (int i = 0; i < T::kWarpTiles; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int m = m0 + l.result_row(i, half);
      int n, p, q;
      locate(m < a.pixels ? m : 0, n, p, q);
      float v[4][2], old[4][2];
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float value = acc[i][j][2 * half + e] + bias[j][e];
          v[j][e] = a.relu ? relu(value) : value;
        }
      if (mask) {
        spread_units(old, mask + offset_of(a.mask_strides, n, p, q) + column0, m < a.pixels,
                     columns, l.t);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) v[j][e] = old[j][e] > 0.f ? v[j][e] : 0.f;
      }
      if (sum) {
        spread_units(old, sum + offset_of(a.outputs[0].strides, n, p, q) + column0, m < a.pixels,
                     columns, l.t);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) v[j][e] += old[j][e];
        __syncwarp();  // lanes read pairs of the units that others are about to store
      }
      gather_units<E>(v, l.t, [&](int which, uint4 unit) {
        if (m >= a.pixels || output[which] < 0) return;
        const MmaOutput& o = a.outputs[output[which]];
        const int k = column0 + unit_column<E>(which, l.t) - o.first;
        store_global((E*)o.y + offset_of(o.strides, n, p, q) + k, unit);
      });
    }
}
