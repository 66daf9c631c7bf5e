// The device code of dropout, residual sum, cast, finite check, SGD and layout conversion.
#pragma once
#include "storage.cuh"

// ---- dropout -----------------------------------------------------------------------------------
// Philox4x32-10 (Salmon et al., SC 2011): ten rounds on the counter, in place.
__device__ __forceinline__ void philox(unsigned (&c)[4], unsigned key0, unsigned key1) {
#pragma unroll
  for (int i = 0; i < 10; i++) {
    const unsigned high0 = __umulhi(c[0], 0xD2511F53u), low0 = c[0] * 0xD2511F53u;
    const unsigned high1 = __umulhi(c[2], 0xCD9E8D57u), low1 = c[2] * 0xCD9E8D57u;
    c[0] = high1 ^ c[1] ^ key0, c[1] = low1, c[2] = high0 ^ c[3] ^ key1, c[3] = low0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
}

// A thread makes the four elements of one block of a sample; they may lie in several pixels.
__device__ __forceinline__ void dropout_body(const DropoutCudaArgs& a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  const int n = divide(i, a.blocks), block = i - n * a.blocks.value;
  unsigned word[4] = {(unsigned)block, a.first_sample + n, a.step, a.layer};
  philox(word, a.seed_low, a.seed_high);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int e = 4 * block + j, pixel = divide(e, a.channels), h = divide(pixel, a.map_w);
    const int c = e - pixel * a.C, w = pixel - h * a.W;
    if (e >= a.elements) continue;
    float v = 0.f;
    if ((long long)word[j] >= a.threshold)
      v = load(a.x, offset_of(a.x_strides, n, h, w) + c, a.storage) / a.divisor;
    store(a.y, offset_of(a.y_strides, n, h, w) + c, v, a.storage);
  }
}

// ---- residual sum ------------------------------------------------------------------------------
// Four channels of a pixel, forward or backward. Product and sum are rounded one by one, as NumPy
// does it.
__device__ __forceinline__ void add_scaled_body(const AddScaledCudaArgs& a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  const Place at = place_of(i, a.groups, a.map_w, a.map_h);
  const int left = a.C - at.c;
  const auto read = [&](const void* map, const CudaStrides& s, float (&v)[4]) {
    load4(map, offset_of(s, at.n, at.h, at.w) + at.c, v, left, is_vector(map, s, a.storage),
          a.storage);
  };
  const auto write = [&](void* map, const CudaStrides& s, const float (&v)[4]) {
    store4(map, offset_of(s, at.n, at.h, at.w) + at.c, v, left, is_vector(map, s, a.storage),
           a.storage);
  };
  float v[4], w[4];
  if (!a.backward) {
    read(a.a, a.a_strides, v);
    if (a.b) read(a.b, a.b_strides, w);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (a.b) v[j] = __fadd_rn(v[j], __fmul_rn(a.scale, w[j]));
      if (a.relu) v[j] = relu(v[j]);
    }
    write(a.y, a.y_strides, v);
    return;
  }
  read(a.gy, a.gy_strides, v);
  if (a.y) {
    read(a.y, a.y_strides, w);
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = w[j] > 0.f ? v[j] : 0.f;
  }
  if (a.a) write(a.a, a.a_strides, v);
  if (!a.b) return;
#pragma unroll
  for (int j = 0; j < 4; j++) v[j] = __fmul_rn(a.scale, v[j]);
  write(a.b, a.b_strides, v);
}

// ---- cast --------------------------------------------------------------------------------------
__device__ __forceinline__ void cast_body(const CastCudaArgs& a) {
  const int begin = blockIdx.x * blockDim.x * 4 + threadIdx.x;
  float v[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int i = begin + j * blockDim.x;
    v[j] = i < a.count ? load(a.x, i, a.from) : 0.f;
  }
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int i = begin + j * blockDim.x;
    if (i < a.count) store(a.y, i, v[j], a.to);
  }
}

// ---- finite check ------------------------------------------------------------------------------
// The first launch leaves infinity or 0 for each block, the last, of one block, 1 or 0 for all: no
// atomics, and the same code twice.
__device__ __forceinline__ void finite_body(const FiniteCudaArgs& a) {
  bool bad = false;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < a.count; i += gridDim.x * blockDim.x)
    bad |= (__float_as_uint(load(a.x, i, a.storage)) & 0x7f800000) == 0x7f800000;
  bad = __syncthreads_or(bad);
  if (threadIdx.x == 0)
    a.verdict[blockIdx.x] = !bad ? 0.f : a.last ? 1.f : __int_as_float(0x7f800000);
}

// ---- SGD ---------------------------------------------------------------------------------------
// Every product and sum is rounded by itself, as NumPy does it: the same bits on either side.
__device__ __forceinline__ void sgd_body(const SgdCudaArgs& a) {
  const float* __restrict__ g = a.g;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.count || (a.skip && *a.skip != 0.f)) return;
  float update = __fmul_rn(a.scale, g[i]), w = a.w[i];
  if (a.decay != 0.f) update = __fadd_rn(update, __fmul_rn(a.decay, w));
  const float v = __fadd_rn(__fmul_rn(a.v[i], a.momentum), __fmul_rn(a.rate, update));
  w = __fsub_rn(w, v);
  a.v[i] = v, a.w[i] = w;
  if (a.copy) store(a.copy, i, w, a.storage);
}

// ---- layout ------------------------------------------------------------------------------------
// A block turns 32 channels x 32 pixels through shared memory, so that both sides are read and
// written along their contiguous axis. Bits move, nothing is computed.
__device__ __forceinline__ void layout_body(const LayoutCudaArgs& a) {
  const auto bits_of = [&](int i) -> unsigned {
    return a.storage == kFp32 ? __ldg((const unsigned*)a.x + i)
                              : __ldg((const unsigned short*)a.x + i);
  };
  const auto put = [&](int i, unsigned bits) {
    if (a.storage == kFp32)
      ((unsigned*)a.y)[i] = bits;
    else
      ((unsigned short*)a.y)[i] = (unsigned short)bits;
  };
  extern __shared__ __align__(16) float shared[];
  unsigned (*tile)[33] = (unsigned (*)[33])shared;  // [channel][pixel]
  const int n = divide(blockIdx.x, a.tiles), lane = threadIdx.x % 32, row = threadIdx.x / 32;
  const int m0 = (blockIdx.x - n * a.tiles.value) * 32, c0 = blockIdx.y * 32;
  const int planes = n * a.C * a.pixels;  // the sample in NCHW
  const int channels = a.C + (a.to_nchw ? 0 : a.padding);
  const auto in_map = [&](int m) {
    const int h = divide(m, a.map_w);
    return offset_of(a.strides, n, h, m - h * a.map_w.value);
  };
#pragma unroll
  for (int i = row; i < 32; i += 8) {
    if (a.to_nchw) {
      if (m0 + i < a.pixels && c0 + lane < a.C) tile[lane][i] = bits_of(in_map(m0 + i) + c0 + lane);
    } else {
      if (m0 + lane < a.pixels && c0 + i < channels)
        tile[i][lane] = c0 + i < a.C ? bits_of(planes + (c0 + i) * a.pixels + m0 + lane) : 0;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = row; i < 32; i += 8) {
    if (a.to_nchw) {
      if (m0 + lane < a.pixels && c0 + i < a.C)
        put(planes + (c0 + i) * a.pixels + m0 + lane, tile[i][lane]);
    } else {
      if (m0 + i < a.pixels && c0 + lane < channels) put(in_map(m0 + i) + c0 + lane, tile[lane][i]);
    }
  }
}
