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

  const bool paired_gy = a.K % 2 == 0 && is_paired(gy, a.gy_strides);
  const bool paired_y = a.K % 2 == 0 && is_paired(y, a.y_strides);
  const bool paired_x = a.C % 2 == 0 && is_paired(x, a.x_strides);
  // the columns this thread fetches: tap, and the distance in x from the window's first element. An
  // even C keeps the two of a pair within a tap.
  int tap[T::kColumns / 16][2], distance[T::kColumns / 16][2];
#pragma unroll
  for (int i = 0; i < T::kColumns / 16; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int t = t0 + threadIdx.x % 8 * 2 + 16 * i + j, pixel = divide(t, a.channels);
      const int r = divide(pixel, a.filter_w), s = pixel - r * a.filter_w.value;
      tap[i][j] = t < row ? r << 16 | s : -1;
      distance[i][j] = offset_of(a.x_strides, 0, r, s) + t - pixel * a.C;
    }

  float acc[T::kThreadRows][4], bias = 0.f;
  Pair<S> va[T::kRows / 16], vb[T::kColumns / 16];
  start<T>(acc, nullptr, 0, 0);
  // one block of a row of tiles sums the bias, a thread per output channel
  const bool sums_bias = gb && t0 == 0 && threadIdx.x < T::kRows;
  int m = begin + threadIdx.x / 8;  // the pixel this thread fetches
  pipeline(
      ceil_div(end - begin, T::kStep),
      [&] {
        const int n = divide(m, a.map_pixels), pixel = m - n * a.map_pixels.value;
        const int p = divide(pixel, a.map_w), q = pixel - p * a.map_w.value;
        const int h = halo_origin(p, a.stride_h, a.pad_h);
        const int column = halo_origin(q, a.stride_w, a.pad_w);
        const int from_gy = offset_of(a.gy_strides, n, p, q) + k0;
        const int from_y = offset_of(a.y_strides, n, p, q) + k0;
        const int from_x = offset_of(a.x_strides, n, h, column);
        fetch_columns<T::kRows>(va, [&](int, int k) {
          const int left = m < end ? a.K - k0 - k : 0;
          const auto fetch = [&](const S* p, int at, bool paired) {
            return fetch_pair(p, left > 0 ? at : -1, left > 1 ? at + 1 : -1, paired);
          };
          const Pair<S> value = fetch(gy, from_gy + k, paired_gy);
          return y ? keep_positive(value, fetch(y, from_y + k, paired_y)) : value;
        });
        fetch_columns<T::kColumns>(vb, [&](int i, int) {
          const auto locate = [&](int j) {
            const bool in = m < end && tap[i][j] >= 0 && inside(h + (tap[i][j] >> 16), a.H) &&
                            inside(column + (tap[i][j] & 0xffff), a.W);
            return in ? from_x + distance[i][j] : -1;
          };
          const int at = locate(0);
          return fetch_pair(x, at, paired_x ? at : locate(1), paired_x);
        });
        m += T::kStep;
      },
      [&](int buffer) {
        store_columns_a<T>(va, panel_a + buffer * T::kPanelA);
        store_columns_b<T>(vb, panel_b + buffer * T::kPanelB);
      },
      [&](int buffer) {
        const float* rows = panel_a + buffer * T::kPanelA;
        const float* mine = rows + lane_y<T>() * T::kColumnsPitchA;
        multiply<T>(
            acc, [&](int i) { return mine + i * (T::kLanesY * T::kColumnsPitchA); },
            panel_b + buffer * T::kPanelB, T::kColumnsPitchB);
        if (sums_bias)
#pragma unroll
          for (int i = 0; i < T::kStep; i += 4) {
            const float4 v = *(const float4*)(rows + threadIdx.x * T::kColumnsPitchA + i);
            bias = bias + v.x + v.y + v.z + v.w;
          }
      });

  const int t = t0 + lane_x<T>() * 4;
  const bool vector_gw = is_vector(gw, {a.chunk_stride, row, row});
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int k = k0 + lane_y<T>() + i * T::kLanesY;
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
