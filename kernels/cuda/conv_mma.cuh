// The device code of the implicit-GEMM convolution on tensor cores: fprop and dgrad. The contract
// stands at the head of conv_mma.cu.
//
//   rows     output pixels (n, p, q), all images in one line
//   columns  output channels, of stacked filters perhaps, each going to its own output
//   K        units (tap, channel): the gather of A finds the pixel of the tap, or zero
#pragma once
#include "mma_results.cuh"

// Which of a pixel's eight neighbours are on the map, row by row: a bit each.
__device__ __forceinline__ unsigned neighbours_of(const ConvMmaArgs& a, int h, int column) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int at = i + (i > 3), dh = at / 3 - 1, dw = at % 3 - 1;
    if (inside(h + dh, a.H) && inside(column + dw, a.W)) bits |= 1u << i;
  }
  return bits;
}

// The largest of a unit and those of its neighbours, NaN if there is one.
template <class E>
__device__ __forceinline__ uint4 pooled_unit(const ConvMmaArgs& a, const E* x,
                                             unsigned neighbours) {
  uint4 most = *(const uint4*)x;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int at = i + (i > 3), dh = at / 3 - 1, dw = at % 3 - 1;
    if (!(neighbours >> i & 1)) continue;
    const uint4 v = *(const uint4*)element(x, dh * a.x_strides.row + dw * a.x_strides.pixel);
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
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned panels = shared_address(shared);
  const Lane<T> l(panels);
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

  // of the rows this thread copies: the corner, and where it lies in x (dilated: where the image
  // is)
  int offset[T::kLoadsA], corner[T::kLoadsA];
#pragma unroll
  for (int i = 0; i < T::kLoadsA; i++) {
    const int m = m0 + i * T::kLoadRows + l.row;
    int n, p, q;
    locate(m < a.pixels ? m : 0, n, p, q);
    const int h = halo_origin(p, a.stride_h, a.pad_h), column = halo_origin(q, a.stride_w, a.pad_w);
    offset[i] = dilated ? n * a.x_strides.image : offset_of(a.x_strides, n, h, column);
    corner[i] = m < a.pixels ? join_corner(h, column) : kFarAbove;
  }
  const int last = join_corner(a.H - 1, a.W - 1);
  unsigned neighbours = 0;
  if constexpr (kPooled) {
    static_assert(T::kLoadsA == 4 && T::kLoadsA * T::kLoadRows == T::kRows, "four rows, all there");
#pragma unroll
    for (int i = 0; i < 4; i++)
      neighbours |= neighbours_of(a, row_of(corner[i]), column_of(corner[i])) << 8 * i;
  }
  const FilterRows<T> filter(l, w, n0, a.K, count, a.units);
  const unsigned from_b = columns_address(l, nt);

  float acc[T::kWarpTiles][4][4];
  clear<T>(acc);
  ring<T>(
      ceil_div(a.units, T::kStageUnits),
      [&](int stage, int slot, Copies<T>& copies) {
        const int u = stage * T::kStageUnits + l.unit;
        const int tap = divide(u, a.channel_units), tap_r = divide(tap, a.filter_w);
        const int tap_s = tap - tap_r * a.filter_w.value;
        const int channel = (u - tap * a.channel_units.value) * T::kUnit;
        const bool there = u < a.units;
        const int shift = there ? join_corner(tap_r, tap_s) : kFarBelow;
        const int tap_at = offset_of(a.x_strides, 0, tap_r, tap_s) + channel;
        const auto place = [&](int i) {
          return Source<E>{element(x, offset[i] + tap_at), inside_map(corner[i] + shift, last)};
        };
        if constexpr (kPooled) {
#pragma unroll
          for (int i = 0; i < T::kLoadsA; i++) {
            const Source<E> source = place(i);
            uint4 most = make_uint4(0, 0, 0, 0);
            if (source.wanted) most = pooled_unit(a, source.from, neighbours >> 8 * i);
            store_shared(l.to + slot + i * T::kLoadRows * 64, most);
          }
        } else if (dilated) {
          load_pixels(copies, l, slot, [&](int i) {
            const int h = row_of(corner[i]) + tap_r, column = column_of(corner[i]) + tap_s;
            const int line = divide(h, a.dilation_h), pixel = divide(column, a.dilation_w);
            // what is negative divides to something far beyond the map
            return Source<E>{element(x, offset[i] + line * a.x_strides.row +
                                            pixel * a.x_strides.pixel + channel),
                             there && line * a.step_h == h && pixel * a.step_w == column &&
                                 inside(line, a.H) && inside(pixel, a.W)};
          });
        } else {
          load_pixels(copies, l, slot, place);
        }
        filter.load(copies, l, slot, stage);
      },
      [&](int, int slot) { multiply_panels<T>(nt, acc, l.a_at + slot, from_b + slot); });

  const auto row_of = [&](const void* map, const CudaStrides& strides, int row) {
    const int m = m0 + row;
    int n, p, q;
    locate(m < a.pixels ? m : 0, n, p, q);
    return Row<E>{(E*)map + offset_of(strides, n, p, q) + n0, m < a.pixels ? a.K - n0 : 0};
  };
  finish_results<T>(acc, l, nt, b, n0, a.K, a.relu);
  if (a.mask)
    update_results<T>(
        acc, l, nt, panels, [&](int row) { return row_of(a.mask, a.mask_strides, row); },
        [](float& v, float mask) { v = mask > 0.f ? v : 0.f; });
  const MmaOutput& only = a.outputs[0];
  if (a.accumulate)
    update_results<T>(
        acc, l, nt, panels, [&](int row) { return row_of(only.y, only.strides, row); },
        [](float& v, float old) { v += old; });
  store_results<T>(acc, l, nt, panels, [&](int row) {
    const int m = m0 + row;
    int n, p, q;
    locate(m < a.pixels ? m : 0, n, p, q);
    return [=, &a, end = m < a.pixels ? a.K - n0 : 0](int column) -> E* {
      if (column >= end) return nullptr;
      int i = 0;
      while (i + 1 < a.output_count && n0 + column >= a.outputs[i + 1].first) i++;
      const MmaOutput& o = a.outputs[i];
      return (E*)o.y + offset_of(o.strides, n, p, q) + n0 + column - o.first;
    };
  });
}
