// The device code of local response normalisation and max pooling in one pass. The contract stands
// at the head of lrn_pool.cu.
#pragma once
#include "lrn.cuh"
#include "pool.cuh"

// Four channels of a pixel normalised: `at` is channel c of its row in shared memory, with zeros
// `margin` (a multiple of four) to either side of the row. Rounded as if they had been stored.
template <class S>
__device__ __forceinline__ float4 normalised(const LrnPoolCudaArgs& a, const float* at) {
  float sum[4] = {0.f, 0.f, 0.f, 0.f}, own[4];
  for (int d = -a.margin; d <= a.margin; d += 4) {
    const float4 f = *(const float4*)(at + d);
    const float v[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (d + e - j >= -a.reach && d + e - j <= a.reach) sum[j] = fmaf(v[e], v[e], sum[j]);
    if (d == 0) own[0] = f.x, own[1] = f.y, own[2] = f.z, own[3] = f.w;
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    own[j] = to_float(from_float<S>(own[j] * lrn_factor(a.scale, sum[j], a.k)));
  return make_float4(own[0], own[1], own[2], own[3]);
}

template <class S>
__device__ __forceinline__ void lrn_pool_body(const LrnPoolCudaArgs& a) {
  const S* __restrict__ x = (const S*)a.x;  // (N, H, W, C)
  S* y = (S*)a.y;                           // (N, P, Q, C)
  extern __shared__ __align__(16) float shared[];
  const int n = divide(blockIdx.x, a.image_tiles), tile = blockIdx.x - n * a.image_tiles.value;
  const int tile_row = divide(tile, a.tiles_q), tile_column = tile - tile_row * a.tiles_q.value;
  const int p0 = tile_row * a.tile_p, q0 = tile_column * a.tile_q.value;
  const int top = halo_origin(p0, a.stride_h, a.pad_h);
  const int left = halo_origin(q0, a.stride_w, a.pad_w);
  const int outputs = a.tile_p * a.tile_q.value, halo = a.halo_h * a.halo_w.value;
  const int groups = a.groups.value, row = 2 * a.margin + 4 * groups;
  const int staged = a.pool_first ? outputs : halo;  // pixels in shared memory
  float* const normed = shared + staged * row;       // (halo pixels, channels): pool last
  const bool vector_x = is_vector(x, a.x_strides), vector_y = is_vector(y, a.y_strides);

  // f(pixel, its row and column among `columns`, first channel) of `pixels` pixels
  const auto each = [&](int pixels, const CudaDivisor& columns, auto f) {
    for (int i = threadIdx.x; i < pixels * groups; i += blockDim.x) {
      const int pixel = divide(i, a.groups), line = divide(pixel, columns);
      f(pixel, line, pixel - line * (int)columns.value, 4 * (i - pixel * groups));
    }
  };
  const auto max_over_window = [&](int p, int q, auto load) {
    const int h = halo_origin(p, a.stride_h, a.pad_h), w = halo_origin(q, a.stride_w, a.pad_w);
    float v[4], most[4];
#pragma unroll
    for (int j = 0; j < 4; j++) most[j] = __int_as_float(0xff800000);
    for (int r = max(-h, 0); r < min(a.R, a.H - h); r++)
      for (int s = max(-w, 0); s < min(a.S, a.W - w); s++) {
        load(h + r, w + s, v);
#pragma unroll
        for (int j = 0; j < 4; j++) most[j] = exceeds(v[j], most[j]) ? v[j] : most[j];
      }
    return make_float4(most[0], most[1], most[2], most[3]);
  };
  const auto store = [&](int p, int q, int c, float4 f) {
    const float v[4] = {f.x, f.y, f.z, f.w};
    store4(y + offset_of(a.y_strides, n, p, q) + c, v, a.C - c, vector_y);
  };

  for (int i = threadIdx.x; i < staged * 2 * a.margin; i += blockDim.x) {
    const int pixel = divide(i, a.margins), at = i - pixel * 2 * a.margin;
    shared[pixel * row + at + (at < a.margin ? 0 : 4 * groups)] = 0.f;
  }
  if (a.pool_first) {
    each(outputs, a.tile_q, [&](int pixel, int line, int column, int c) {
      const int p = p0 + line, q = q0 + column;
      if (p >= a.P || q >= a.Q) return;
      *(float4*)(shared + pixel * row + a.margin + c) =
          max_over_window(p, q, [&](int h, int w, float (&v)[4]) {
            load4<true>(x + offset_of(a.x_strides, n, h, w) + c, v, a.C - c, vector_x);
          });
    });
    __syncthreads();
    each(outputs, a.tile_q, [&](int pixel, int line, int column, int c) {
      const int p = p0 + line, q = q0 + column;
      if (p < a.P && q < a.Q) store(p, q, c, normalised<S>(a, shared + pixel * row + a.margin + c));
    });
    return;
  }
  const auto in_map = [&](int line, int column) {
    return inside(top + line, a.H) && inside(left + column, a.W);
  };
  each(halo, a.halo_w, [&](int pixel, int line, int column, int c) {
    if (!in_map(line, column)) return;
    float v[4];
    load4<true>(x + offset_of(a.x_strides, n, top + line, left + column) + c, v, a.C - c, vector_x);
    *(float4*)(shared + pixel * row + a.margin + c) = make_float4(v[0], v[1], v[2], v[3]);
  });
  __syncthreads();
  each(halo, a.halo_w, [&](int pixel, int line, int column, int c) {
    if (in_map(line, column))
      *(float4*)(normed + pixel * 4 * groups + c) =
          normalised<S>(a, shared + pixel * row + a.margin + c);
  });
  __syncthreads();
  each(outputs, a.tile_q, [&](int, int line, int column, int c) {
    const int p = p0 + line, q = q0 + column;
    if (p >= a.P || q >= a.Q) return;
    store(p, q, c, max_over_window(p, q, [&](int h, int w, float (&v)[4]) {
            const int pixel = (h - top) * a.halo_w.value + w - left;
            const float4 f = *(const float4*)(normed + pixel * 4 * groups + c);
            v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
          }));
  });
}
