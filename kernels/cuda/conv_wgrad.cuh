// The filter gradient of a convolution, in chunks of pixels, and the ordered sum of the chunks.
#pragma once
#include "tile.cuh"

// A block makes 64 output channels x kColumns elements of the filter's row (r, s, c), flat, from
// one chunk of pixels:
// gw[k][r][s][c] = sum over (n, p, q) of gy[n][p][q][k] x[n][p sh - ph + r][q sw - pw + s][c].
// One column tile spans taps, so three channels (conv1) fill it as well as 528 do.
template <class T, class S>
__device__ __forceinline__ void conv_wgrad(const ConvWgradCudaArgs& a) {
  const S* __restrict__ gy = (const S*)a.gy;
  const S* __restrict__ y = (const S*)a.y;
  const S* __restrict__ x = (const S*)a.x;
  float *gw = a.gw, *gb = a.gb;
  extern __shared__ __align__(16) float shared[];
  float *panel_a = shared, *panel_b = shared + 2 * T::kPanelA;

  const int row = a.R * a.S * a.C, chunk = blockIdx.z;
  const int k_tile = divide(blockIdx.x, a.column_tiles), k0 = k_tile * T::kRows;
  const int t0 = (blockIdx.x - k_tile * a.column_tiles.value) * T::kColumns;
  const int begin = chunk * a.chunk_pixels, end = min(begin + a.chunk_pixels, a.pixels);

  using A = Panel<kStepsOuter, T::kRows>;
  using B = Panel<kStepsOuter, T::kColumns>;
  const bool whole_gy = a.K % 4 == 0 && is_vector(gy, a.gy_strides) && is_vector(y, a.y_strides);
  const bool whole_x = a.C % 4 == 0 && is_vector(x, a.x_strides);
  // the columns this thread fetches: tap, and the distance in x from the window's first element
  int tap[B::kQuads][4], distance[B::kQuads][4];
#pragma unroll
  for (int i = 0; i < B::kQuads; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int t = t0 + B::minor(i, j), pixel = divide(t, a.channels);
      const int r = divide(pixel, a.filter_w), s = pixel - r * a.filter_w.value;
      tap[i][j] = t < row ? r << 16 | s : -1;
      distance[i][j] = offset_of(a.x_strides, 0, r, s) + t - pixel * a.C;
    }

  float acc[T::kThreadRows][4], bias = 0.f;
  Quad<S> va[A::kQuads], mask[A::kQuads], vb[B::kQuads];
  start<T>(acc, nullptr, 0, 0);
  // one block of a row of tiles sums the bias, a thread per output channel
  const bool sums_bias = gb && t0 == 0 && threadIdx.x < T::kRows;
  int m = begin + A::major(0);  // the pixel this thread fetches
  pipeline(
      ceil_div(end - begin, T::kStep),
      [&] {
        const int n = divide(m, a.map_pixels), pixel = m - n * a.map_pixels.value;
        const int p = divide(pixel, a.map_w), q = pixel - p * a.map_w.value;
        const int h = halo_origin(p, a.stride_h, a.pad_h);
        const int w = halo_origin(q, a.stride_w, a.pad_w);
        const int from_gy = offset_of(a.gy_strides, n, p, q) + k0;
        const int from_y = offset_of(a.y_strides, n, p, q) + k0;
        const int from_x = offset_of(a.x_strides, n, h, w);
        const auto channel = [&](int from, int i, int j) {
          const int k = A::minor(i, j);
          return m < end && k0 + k < a.K ? from + k : kNowhere;
        };
        A::fetch(va, gy, whole_gy, [&](int i, int j) { return channel(from_gy, i, j); });
        if (y) A::fetch(mask, y, whole_gy, [&](int i, int j) { return channel(from_y, i, j); });
        B::fetch(vb, x, whole_x, [&](int i, int j) {
          const bool in = m < end && tap[i][j] >= 0 && inside(h + (tap[i][j] >> 16), a.H) &&
                          inside(w + (tap[i][j] & 0xffff), a.W);
          return in ? from_x + distance[i][j] : kNowhere;
        });
        m += T::kStep;
      },
      [&](int buffer) {
        A::store(va, mask, y != nullptr, panel_a + buffer * T::kPanelA);
        B::store(vb, panel_b + buffer * T::kPanelB);
      },
      [&](int buffer) {
        const float* rows = panel_a + buffer * T::kPanelA;
        multiply<T, kStepsOuter, kStepsOuter>(acc, rows, panel_b + buffer * T::kPanelB);
        if (sums_bias)
#pragma unroll
          for (int i = 0; i < T::kStep; i++) bias += rows[threadIdx.x + i * A::kPitch];
      });

  const int t = t0 + lane_x<T>() * 4;
  const bool vector_gw = is_vector(gw, {a.chunk_stride, row, row});
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int k = k0 + row_of<T, kStepsOuter>(i);
    if (k < a.K)
      store4_whole(gw + chunk * a.chunk_stride + k * row + t, acc[i], row - t, vector_gw);
  }
  if (sums_bias && k0 + threadIdx.x < a.K) gb[chunk * a.chunk_stride + k0 + threadIdx.x] = bias;
}

// An element a thread; the chunks of one element are added in ascending order.
__device__ __forceinline__ void sum_chunks_body(const SumChunksCudaArgs& a) {
  const float* __restrict__ partial = a.partial;  // (chunks, count)
  float *gw = a.gw, *gb = a.gb;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  float sum = partial[i];
  for (int chunk = 1; chunk < a.chunks; chunk++) sum += partial[chunk * a.chunk_stride + i];
  if (i < a.filter_count)
    gw[i] = sum;
  else if (gb)
    gb[i - a.filter_count] = sum;
}
