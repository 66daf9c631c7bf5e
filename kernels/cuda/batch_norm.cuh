// The device code of batch normalisation. Sums are in a fixed order: a thread goes over every
// eighth pixel of a chunk, the eight are added in order, then the chunks.
#pragma once
#include "storage.cuh"

enum BatchNormMode { kSumX = 0, kSumSquares = 1, kSumGradients = 2 };
constexpr int kSumLanes = 32, kSumRows = 8;  // channels, pixels of a block
constexpr int kPixelsPerThread = 8;          // of the kernels that normalise

__device__ __forceinline__ float inverse_deviation(float var, float eps) {
  return 1.f / sqrtf(var + eps);
}

// partial[chunk][0] = sum of x, of (x - mean)^2, or of gy h; partial[chunk][1] = sum of gy
__device__ __forceinline__ void batch_norm_sums_body(const BatchNormCudaArgs& a) {
  extern __shared__ __align__(16) float shared[];  // (2, kSumRows, kSumLanes)
  const int lane = threadIdx.x % kSumLanes, row = threadIdx.x / kSumLanes;
  const int c = blockIdx.x * kSumLanes + lane, chunk = blockIdx.y;
  const int begin = chunk * a.chunk_pixels, end = min(begin + a.chunk_pixels, a.pixels);
  const bool in = c < a.C, gradients = a.mode == kSumGradients;
  const float mean = in && a.mode != kSumX ? a.mean[c] : 0.f;
  const float inverse = in && gradients ? inverse_deviation(a.var[c], a.eps) : 0.f;

  float first = 0.f, second = 0.f;
  for (int m = begin + row; in && m < end; m += kSumRows) {
    const int line = divide(m, a.map_w), n = divide(line, a.map_h);
    const int h = line - n * a.map_h.value, w = m - line * a.map_w.value;
    const float v = load(a.x, offset_of(a.x_strides, n, h, w) + c, a.storage) - mean;
    if (gradients) {
      float g = load(a.gy, offset_of(a.gy_strides, n, h, w) + c, a.storage);
      if (a.y && !(load(a.y, offset_of(a.y_strides, n, h, w) + c, a.storage) > 0.f)) g = 0.f;
      first = fmaf(g, v * inverse, first), second += g;
    } else {
      first = a.mode == kSumX ? first + v : fmaf(v, v, first);
    }
  }
  shared[threadIdx.x] = first;
  shared[kSumRows * kSumLanes + threadIdx.x] = second;
  __syncthreads();
  if (row >= 2 || !in) return;
  const float* column = shared + row * kSumRows * kSumLanes + lane;
  float sum = 0.f;
  for (int i = 0; i < kSumRows; i++) sum += column[i * kSumLanes];
  a.partial[(chunk * 2 + row) * a.C + c] = sum;
}

// The chunks of a channel in ascending order: mean, var, or ggamma and gbeta.
__device__ __forceinline__ void batch_norm_finish_body(const BatchNormCudaArgs& a) {
  const float* __restrict__ partial = a.partial;
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= a.C) return;
  float first = 0.f, second = 0.f;
  for (int chunk = 0; chunk < a.chunks; chunk++) {
    first += partial[chunk * 2 * a.C + c];
    second += partial[(chunk * 2 + 1) * a.C + c];
  }
  const float count = (float)max(a.pixels, 1);
  if (a.mode == kSumX)
    a.mean[c] = first / count;
  else if (a.mode == kSumSquares)
    a.var[c] = first / count;
  else
    a.ggamma[c] = first, a.gbeta[c] = second;
}

// y, or gx. A thread makes four channels of kPixelsPerThread pixels, for one square root each.
template <bool kBackward>
__device__ __forceinline__ void batch_norm_apply(const BatchNormCudaArgs& a) {
  const void* __restrict__ x = a.x;
  const void* __restrict__ gy = a.gy;
  const float* __restrict__ gamma = a.gamma;
  const float* __restrict__ beta = a.beta;
  const float* __restrict__ mean = a.mean;
  const float* __restrict__ var = a.var;
  const float* __restrict__ ggamma = a.ggamma;
  const float* __restrict__ gbeta = a.gbeta;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  const int slab = divide(i, a.groups), c = 4 * (i - slab * a.groups.value), left = a.C - c;
  const int begin = slab * kPixelsPerThread, end = min(begin + kPixelsPerThread, a.pixels);
  const bool vector_x = is_vector(x, a.x_strides, a.storage);
  const bool vector_y = is_vector(a.y, a.y_strides, a.storage);

  float middle[4], inverse[4], scale[4], shift[4], slope[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const bool in = j < left;
    middle[j] = in ? mean[c + j] : 0.f;
    inverse[j] = in ? inverse_deviation(var[c + j], a.eps) : 0.f;
    scale[j] = in ? gamma[c + j] : 0.f;
    if (kBackward) {
      scale[j] *= inverse[j];
      shift[j] = in ? gbeta[c + j] / (float)a.pixels : 0.f;
      slope[j] = in ? ggamma[c + j] / (float)a.pixels : 0.f;
    } else {
      shift[j] = in ? beta[c + j] : 0.f;
    }
  }
  for (int m = begin; m < end; m++) {
    const int line = divide(m, a.map_w), n = divide(line, a.map_h);
    const int h = line - n * a.map_h.value, w = m - line * a.map_w.value;
    float v[4], g[4], mask[4];
    load4(x, offset_of(a.x_strides, n, h, w) + c, v, left, vector_x, a.storage);
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = (v[j] - middle[j]) * inverse[j];
    if (kBackward) {
      load4(gy, offset_of(a.gy_strides, n, h, w) + c, g, left,
            is_vector(gy, a.gy_strides, a.storage), a.storage);
      if (a.y) {
        load4(a.y, offset_of(a.y_strides, n, h, w) + c, mask, left, vector_y, a.storage);
#pragma unroll
        for (int j = 0; j < 4; j++) g[j] = mask[j] > 0.f ? g[j] : 0.f;
      }
#pragma unroll
      for (int j = 0; j < 4; j++) v[j] = scale[j] * (g[j] - shift[j] - v[j] * slope[j]);
      store4(a.gx, offset_of(a.gx_strides, n, h, w) + c, v, left,
             is_vector(a.gx, a.gx_strides, a.storage), a.storage);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        v[j] = fmaf(scale[j], v[j], shift[j]);
        if (a.relu) v[j] = relu(v[j]);
      }
      store4(a.y, offset_of(a.y_strides, n, h, w) + c, v, left, vector_y, a.storage);
    }
  }
}
