// The device code of depthwise convolution. The contract stands at the head of depthwise.cu.
#pragma once
#include "storage.cuh"

// A block is slab.value groups of four channels times lanes pixels; a thread goes over every
// lanes-th pixel of its block's run of them.
struct DepthwisePlace {
  int c, left, lane;  // first channel, channels from it on, pixel of the block's first round
  bool active;
};
__device__ __forceinline__ DepthwisePlace depthwise_place(const DepthwiseCudaArgs& a,
                                                          int channels) {
  const int lane = divide(threadIdx.x, a.slab);
  const int group = blockIdx.y * a.slab.value + threadIdx.x - lane * a.slab.value;
  return {4 * group, channels - 4 * group, lane, lane < a.lanes && 4 * group < channels};
}

// weights[tap][channel of the slab] = w[channel][tap], zero beyond K: read once a block, by fours.
template <class S>
__device__ __forceinline__ void stage_filters(const DepthwiseCudaArgs& a, float* weights) {
  const S* __restrict__ w = (const S*)a.w;
  const int width = 4 * a.slab.value, taps = a.R * a.S, first = blockIdx.y * width;
  const int count = min(width, a.K - first) * taps;
  for (int i = threadIdx.x; i < width * taps; i += blockDim.x) {
    const int k = divide(i, a.taps), tap = i - k * taps;
    weights[tap * width + k] = i < count ? load(w + first * taps + i) : 0.f;
  }
  __syncthreads();
}

// Four neighbouring numbers of a map's pixel; with a multiplier the input channels of four outputs.
template <class S>
__device__ __forceinline__ void load_inputs(const DepthwiseCudaArgs& a, const S* __restrict__ pixel,
                                            const DepthwisePlace& at, bool vector, float (&v)[4]) {
  if (a.multiplier.value == 1) {
    load4(pixel + at.c, v, at.left, vector);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    v[j] = j < at.left ? to_float(pixel[divide(at.c + j, a.multiplier)]) : 0.f;
}

template <class S>
__device__ __forceinline__ void depthwise_fprop_body(const DepthwiseCudaArgs& a) {
  const S* __restrict__ x = (const S*)a.x;
  const float* __restrict__ b = a.b;
  S* y = (S*)a.y;
  extern __shared__ __align__(16) float weights[];
  stage_filters<S>(a, weights);
  const DepthwisePlace at = depthwise_place(a, a.K);
  if (!at.active) return;
  const bool vector = is_vector(x, a.x_strides), vector_y = is_vector(y, a.y_strides);
  const int width = 4 * a.slab.value, own = at.c - blockIdx.y * width;
  const int begin = blockIdx.x * a.block_pixels + at.lane;
  const int end = min((int)(blockIdx.x + 1) * a.block_pixels, a.pixels);

  for (int i = begin; i < end; i += a.lanes) {
    const int row = divide(i, a.map_w), n = divide(row, a.map_h);
    const int p = row - n * (int)a.map_h.value, q = i - row * (int)a.map_w.value;
    const int top = halo_origin(p, a.stride_h, a.pad_h), left = halo_origin(q, a.stride_w, a.pad_w);
    float v[4], sum[4] = {0.f, 0.f, 0.f, 0.f};
    for (int r = max(-top, 0); r < min(a.R, a.H - top); r++)
      for (int s = max(-left, 0); s < min(a.S, a.W - left); s++) {
        load_inputs(a, x + offset_of(a.x_strides, n, top + r, left + s), at, vector, v);
        const float4 w = *(const float4*)(weights + (r * a.S + s) * width + own);
        sum[0] = fmaf(v[0], w.x, sum[0]), sum[1] = fmaf(v[1], w.y, sum[1]);
        sum[2] = fmaf(v[2], w.z, sum[2]), sum[3] = fmaf(v[3], w.w, sum[3]);
      }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      sum[j] = (b && j < at.left ? b[at.c + j] : 0.f) + sum[j];
      if (a.relu) sum[j] = relu(sum[j]);
    }
    store4(y + offset_of(a.y_strides, n, p, q) + at.c, sum, at.left, vector_y);
  }
}

// gy at four of its channels, zero where the mask is not positive
template <class S>
__device__ __forceinline__ void load_gradient(const DepthwiseCudaArgs& a, int n, int p, int q,
                                              int k, int left, bool vector, bool vector_y,
                                              float (&g)[4]) {
  const S* __restrict__ y = (const S*)a.y;
  load4((const S*)a.gy + offset_of(a.gy_strides, n, p, q) + k, g, left, vector);
  if (!y) return;
  float m[4];
  load4(y + offset_of(a.y_strides, n, p, q) + k, m, left, vector_y);
#pragma unroll
  for (int j = 0; j < 4; j++) g[j] = m[j] > 0.f ? g[j] : 0.f;
}

// A gather: the outputs whose windows hold the pixel, taps ascending.
template <class S>
__device__ __forceinline__ void depthwise_dgrad_body(const DepthwiseCudaArgs& a) {
  const S* __restrict__ gy = (const S*)a.gy;
  const S* __restrict__ y = (const S*)a.y;
  const S* __restrict__ filters = (const S*)a.w;
  S* gx = (S*)a.gx;
  extern __shared__ __align__(16) float weights[];
  const int M = a.multiplier.value, taps = a.R * a.S;
  if (M == 1) stage_filters<S>(a, weights);
  const DepthwisePlace at = depthwise_place(a, a.C);
  if (!at.active) return;
  const bool vector = is_vector(gy, a.gy_strides), vector_gx = is_vector(gx, a.gx_strides);
  const bool vector_y = is_vector(y, a.y_strides);
  const int width = 4 * a.slab.value, own = at.c - blockIdx.y * width;
  const int begin = blockIdx.x * a.block_pixels + at.lane;
  const int end = min((int)(blockIdx.x + 1) * a.block_pixels, a.pixels);

  for (int i = begin; i < end; i += a.lanes) {
    const int row = divide(i, a.map_w), n = divide(row, a.map_h);
    const int h = row - n * (int)a.map_h.value, w = i - row * (int)a.map_w.value;
    const int last_p = divide(h + a.pad_h, a.step_h), last_q = divide(w + a.pad_w, a.step_w);
    const int first_r = h + a.pad_h - last_p * a.stride_h;
    const int first_s = w + a.pad_w - last_q * a.stride_w;
    float g[4], sum[4] = {0.f, 0.f, 0.f, 0.f};
    for (int r = first_r, p = last_p; r < a.R && p >= 0; r += a.stride_h, p--)
      for (int s = first_s, q = last_q; s < a.S && q >= 0; s += a.stride_w, q--) {
        if (p >= a.P || q >= a.Q) continue;
        const int tap = r * a.S + s;
        if (M == 1) {
          load_gradient<S>(a, n, p, q, at.c, at.left, vector, vector_y, g);
          const float4 f = *(const float4*)(weights + tap * width + own);
          sum[0] = fmaf(g[0], f.x, sum[0]), sum[1] = fmaf(g[1], f.y, sum[1]);
          sum[2] = fmaf(g[2], f.z, sum[2]), sum[3] = fmaf(g[3], f.w, sum[3]);
          continue;
        }
        const int gy_at = offset_of(a.gy_strides, n, p, q), y_at = offset_of(a.y_strides, n, p, q);
        for (int m = 0; m < M; m++)
#pragma unroll
          for (int j = 0; j < 4; j++) {
            if (j >= at.left) continue;
            const int k = (at.c + j) * M + m;
            if (y && !(to_float(y[y_at + k]) > 0.f)) continue;
            sum[j] = fmaf(to_float(gy[gy_at + k]), to_float(filters[k * taps + tap]), sum[j]);
          }
      }
    S* out = gx + offset_of(a.gx_strides, n, h, w) + at.c;
    if (a.accumulate) {
      load4(out, g, at.left, vector_gx);
#pragma unroll
      for (int j = 0; j < 4; j++) sum[j] = g[j] + sum[j];
    }
    store4(out, sum, at.left, vector_gx);
  }
}

// partial[chunk][tap][k] = the sum over the chunk's pixels of gy x, x shifted by the tap, or for
// the tap after the last of gy. A thread goes over every lanes-th pixel; the lanes are added in
// order.
template <class S>
__device__ __forceinline__ void depthwise_wgrad_body(const DepthwiseCudaArgs& a) {
  const S* __restrict__ x = (const S*)a.x;
  extern __shared__ __align__(16) float sums[];  // (lanes, 4 slab)
  const DepthwisePlace at = depthwise_place(a, a.K);
  const int tap = blockIdx.z, r = divide(tap, a.filter_w), s = tap - r * a.S;
  const bool bias = tap == a.R * a.S;
  const bool vector = is_vector(x, a.x_strides), vector_y = is_vector((S*)a.y, a.y_strides);
  const bool vector_gy = is_vector((S*)a.gy, a.gy_strides);
  const int begin = blockIdx.x * a.block_pixels + at.lane;
  const int end = min((int)(blockIdx.x + 1) * a.block_pixels, a.pixels);

  float g[4], v[4] = {1.f, 1.f, 1.f, 1.f}, sum[4] = {0.f, 0.f, 0.f, 0.f};
  for (int i = begin; at.active && i < end; i += a.lanes) {
    const int row = divide(i, a.map_w), n = divide(row, a.map_h);
    const int p = row - n * (int)a.map_h.value, q = i - row * (int)a.map_w.value;
    const int h = halo_origin(p, a.stride_h, a.pad_h) + r;
    const int w = halo_origin(q, a.stride_w, a.pad_w) + s;
    if (!bias && (!inside(h, a.H) || !inside(w, a.W))) continue;
    if (!bias) load_inputs(a, x + offset_of(a.x_strides, n, h, w), at, vector, v);
    load_gradient<S>(a, n, p, q, at.c, at.left, vector_gy, vector_y, g);
#pragma unroll
    for (int j = 0; j < 4; j++) sum[j] = fmaf(g[j], v[j], sum[j]);
  }
  const int width = 4 * a.slab.value, first = blockIdx.y * width;
  if (at.active)
    *(float4*)(sums + at.lane * width + at.c - first) = make_float4(sum[0], sum[1], sum[2], sum[3]);
  __syncthreads();
  for (int k = threadIdx.x; k < min(width, a.K - first); k += blockDim.x) {
    float total = 0.f;
    for (int lane = 0; lane < a.lanes; lane++) total += sums[lane * width + k];
    a.partial[(blockIdx.x * (a.R * a.S + 1) + tap) * a.K + first + k] = total;
  }
}

// gw, gb = the chunks in ascending order.
__device__ __forceinline__ void depthwise_finish_body(const DepthwiseCudaArgs& a) {
  const float* __restrict__ partial = a.partial;
  const int i = blockIdx.x * blockDim.x + threadIdx.x, taps = a.R * a.S;
  if (i >= (taps + 1) * a.K) return;
  const int tap = divide(i, a.channels), k = i - tap * a.K;
  if (tap == taps && !a.gb) return;
  float total = 0.f;
  for (int chunk = 0; chunk < a.chunks; chunk++)
    total += partial[(chunk * (taps + 1) + tap) * a.K + k];
  if (tap == taps)
    a.gb[k] = total;
  else
    a.gw[k * taps + tap] = total;
}
