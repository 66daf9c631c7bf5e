// The device code of pooling. The contract stands at the head of pool.cu.
#pragma once
#include "storage.cuh"

// Cells the mean divides by: the window's rows (columns) inside the image, or inside the padded one
// (only the far padding can cut a window there).
__device__ __forceinline__ int pool_cells(int first, int filter, int extent, int pad,
                                          int count_include_pad) {
  const int begin = count_include_pad ? first : max(first, 0);
  return min(first + filter, count_include_pad ? extent + pad : extent) - begin;
}

// Does v take the place of the largest so far? A NaN does of every number, and the first NaN stays.
__device__ __forceinline__ bool exceeds(float v, float most) {
  return !(v <= most) && most == most;
}

// Four channels of one output. A window holds at least one pixel: the plan sees to it.
template <class S>
__device__ __forceinline__ void pool_fprop_body(const PoolCudaArgs& a) {
  const S* __restrict__ x = (const S*)a.x;
  S* y = (S*)a.y;
  unsigned char* argmax = a.argmax;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  const Place at = place_of(i, a.groups, a.map_w, a.map_h);
  const int top = halo_origin(at.h, a.stride_h, a.pad_h);
  const int left = halo_origin(at.w, a.stride_w, a.pad_w);
  const int r0 = max(-top, 0), r1 = min(a.R, a.H - top);
  const int s0 = max(-left, 0), s1 = min(a.S, a.W - left);
  const bool vector = is_vector(x, a.x_strides);
  const int left_channels = a.C - at.c;

  float v[4], out[4];
  int won[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    out[j] = a.average ? 0.f : __int_as_float(0xff800000);  // -inf: what a window may hold anywhere
    won[j] = r0 * a.S + s0;
  }
  for (int r = r0; r < r1; r++)
    for (int s = s0; s < s1; s++) {
      load4(x + offset_of(a.x_strides, at.n, top + r, left + s) + at.c, v, left_channels, vector);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const bool better = exceeds(v[j], out[j]);
        won[j] = better ? r * a.S + s : won[j];
        out[j] = a.average ? out[j] + v[j] : better ? v[j] : out[j];
      }
    }
  if (a.average) {
    const float cells = (float)(pool_cells(top, a.R, a.H, a.pad_h, a.count_include_pad) *
                                pool_cells(left, a.S, a.W, a.pad_w, a.count_include_pad));
#pragma unroll
    for (int j = 0; j < 4; j++) out[j] = out[j] / cells;
  }
  store4(y + offset_of(a.y_strides, at.n, at.h, at.w) + at.c, out, left_channels,
         is_vector(y, a.y_strides));
  if (!a.average && argmax) {
    unsigned char* to = argmax + ((at.n * a.P + at.h) * a.Q + at.w) * a.C + at.c;
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (j < left_channels) to[j] = (unsigned char)won[j];
  }
}

// Four channels of one pixel: the gather over the outputs whose windows hold it, taps ascending.
template <class S>
__device__ __forceinline__ void pool_dgrad_body(const PoolCudaArgs& a) {
  const S* __restrict__ gy = (const S*)a.gy;
  const unsigned char* __restrict__ argmax = a.argmax;
  S* gx = (S*)a.gx;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  const Place at = place_of(i, a.groups, a.map_w, a.map_h);
  const int last_p = divide(at.h + a.pad_h, a.step_h);
  const int last_q = divide(at.w + a.pad_w, a.step_w);
  const int first_r = at.h + a.pad_h - last_p * a.stride_h;
  const int first_s = at.w + a.pad_w - last_q * a.stride_w;
  const bool vector = is_vector(gy, a.gy_strides);
  const int left_channels = a.C - at.c;

  float v[4], sum[4] = {0.f, 0.f, 0.f, 0.f};
  for (int r = first_r, p = last_p; r < a.R && p >= 0; r += a.stride_h, p--)
    for (int s = first_s, q = last_q; s < a.S && q >= 0; s += a.stride_w, q--) {
      if (p >= a.P || q >= a.Q) continue;
      load4(gy + offset_of(a.gy_strides, at.n, p, q) + at.c, v, left_channels, vector);
      if (a.average) {
        const int top = halo_origin(p, a.stride_h, a.pad_h);
        const int left = halo_origin(q, a.stride_w, a.pad_w);
        const float cells = (float)(pool_cells(top, a.R, a.H, a.pad_h, a.count_include_pad) *
                                    pool_cells(left, a.S, a.W, a.pad_w, a.count_include_pad));
#pragma unroll
        for (int j = 0; j < 4; j++) sum[j] += v[j] / cells;
      } else {
        const unsigned char* won = argmax + ((at.n * a.P + p) * a.Q + q) * a.C + at.c;
#pragma unroll
        for (int j = 0; j < 4; j++)
          sum[j] += j < left_channels && won[j] == r * a.S + s ? v[j] : 0.f;
      }
    }
  S* out = gx + offset_of(a.gx_strides, at.n, at.h, at.w) + at.c;
  const bool vector_gx = is_vector(gx, a.gx_strides);
  if (a.accumulate) {
    load4(out, v, left_channels, vector_gx);
#pragma unroll
    for (int j = 0; j < 4; j++) sum[j] = v[j] + sum[j];
  }
  store4(out, sum, left_channels, vector_gx);
}
