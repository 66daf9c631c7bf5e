// The device code of local response normalisation, for beta = 3/4.
#pragma once
#include "lrn_factor.cuh"
#include "storage.cuh"

// Four channels of one pixel. The window's other channels are the neighbours' own: L1 has them.
template <class S>
__device__ __forceinline__ void lrn_fprop_body(const LrnCudaArgs& a) {
  const S* x = (const S*)a.x;
  S* y = (S*)a.y;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const Place at = place_of(i, a.groups, a.map_w, a.map_h);
  if (at.n >= a.N) return;
  const S* __restrict__ pixel = x + offset_of(a.x_strides, at.n, at.h, at.w) + at.c;
  const int left = a.C - at.c;

  float sum[4] = {0.f, 0.f, 0.f, 0.f}, out[4];
  for (int d = -a.reach; d <= a.reach + 3; d++) {
    const float v = inside(at.c + d, a.C) ? load(pixel + d) : 0.f;
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (d - j >= -a.reach && d - j <= a.reach) sum[j] = fmaf(v, v, sum[j]);
  }
  load4(pixel, out, left, is_vector(x, a.x_strides));
#pragma unroll
  for (int j = 0; j < 4; j++) out[j] *= lrn_factor(a.scale, sum[j], a.k);
  store4(y + offset_of(a.y_strides, at.n, at.h, at.w) + at.c, out, left, is_vector(y, a.y_strides));
}

// gx_c = gy_c s_c^-b - slope x_c sum over the window of t_c', t = gy x s^(-b - 1). A block makes
// tile_pixels x tile_channels: x with two windows' reach around, then t with one, in shared memory.
template <class S>
__device__ __forceinline__ void lrn_dgrad_body(const LrnCudaArgs& a) {
  const S* x = (const S*)a.x;
  const S* gy = (const S*)a.gy;
  S* gx = (S*)a.gx;
  extern __shared__ __align__(16) float shared[];
  const int x_row = a.x_row.value, t_row = a.t_row.value, reach = a.reach;
  float *staged = shared, *direct = staged + a.tile_pixels * x_row;  // direct = gy s^-b
  float* term = direct + a.tile_pixels * t_row;
  const int m0 = blockIdx.x * a.tile_pixels, c0 = blockIdx.y * a.tile_channels;

  for (int e = threadIdx.x; e < a.tile_pixels * x_row; e += blockDim.x) {
    const int row = divide(e, a.x_row), c = c0 - 2 * reach + e - row * x_row, m = m0 + row;
    const int line = divide(m, a.map_w), n = divide(line, a.map_h);
    const bool in = m < a.pixels && inside(c, a.C);
    const int from = offset_of(a.x_strides, n, line - n * a.map_h.value, m - line * a.map_w.value);
    staged[e] = in ? load(x + from + c) : 0.f;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.tile_pixels * t_row; e += blockDim.x) {
    const int row = divide(e, a.t_row), j = e - row * t_row, c = c0 - reach + j, m = m0 + row;
    const int line = divide(m, a.map_w), n = divide(line, a.map_h);
    const bool in = m < a.pixels && inside(c, a.C);
    const int from = offset_of(a.gy_strides, n, line - n * a.map_h.value, m - line * a.map_w.value);
    const float* window = staged + row * x_row + j;
    float sum = 0.f;
    for (int d = 0; d <= 2 * reach; d++) sum = fmaf(window[d], window[d], sum);
    const float r = rsqrtf(fmaf(a.scale, sum, a.k));
    const float value = in ? load(gy + from + c) * (r * sqrtf(r)) : 0.f;
    direct[e] = value;
    term[e] = value * window[reach] * (r * r);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.tile_pixels * a.tile_channels; e += blockDim.x) {
    const int row = divide(e, a.tile), j = e - row * a.tile_channels, c = c0 + j, m = m0 + row;
    const int line = divide(m, a.map_w), n = divide(line, a.map_h);
    if (m >= a.pixels || c >= a.C) continue;
    float sum = 0.f;
    for (int d = 0; d <= 2 * reach; d++) sum += term[row * t_row + j + d];
    const float value = direct[row * t_row + j + reach];
    const float own = staged[row * x_row + j + 2 * reach];
    gx[offset_of(a.gx_strides, n, line - n * a.map_h.value, m - line * a.map_w.value) + c] =
        from_float<S>(value - a.slope * own * sum);
  }
}
