// The device code of softmax cross-entropy: a block per row in fprop, a thread per element after.
#pragma once
#include "storage.cuh"

constexpr int kSoftmaxThreads = 128;

// The block's values combined as a tree, always the same one; every thread gets the result.
template <class Combine>
__device__ __forceinline__ float over_block(float v, float* shared, Combine combine) {
  __syncthreads();  // what the previous call left has been read
  shared[threadIdx.x] = v;
#pragma unroll
  for (int half = kSoftmaxThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half)
      shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  __syncthreads();
  return shared[0];
}

__device__ __forceinline__ void softmax_fprop_body(const SoftmaxCudaArgs& a) {
  const void* logits = a.logits;
  const long long* __restrict__ labels = a.labels;
  float *loss = a.loss, *probs = a.probs;
  extern __shared__ __align__(16) float shared[];
  const int row = blockIdx.x, from = row * a.logits_row;
  const auto larger = [](float u, float v) { return !(v <= u) ? v : u; };  // NaN is larger
  const auto sum = [](float u, float v) { return u + v; };

  float most = __int_as_float(0xff800000);
  for (int k = threadIdx.x; k < a.K; k += kSoftmaxThreads)
    most = larger(most, load(logits, from + k, a.storage));
  most = over_block(most, shared, larger);
  float total = 0.f;
  for (int k = threadIdx.x; k < a.K; k += kSoftmaxThreads)
    total += expf(load(logits, from + k, a.storage) - most);
  total = over_block(total, shared, sum);
  for (int k = threadIdx.x; k < a.K; k += kSoftmaxThreads)
    probs[row * a.K + k] = expf(load(logits, from + k, a.storage) - most) / total;
  if (threadIdx.x == 0) {
    const long long label = labels[row];
    const bool known = label >= 0 && label < a.K;
    const float own =
        known ? load(logits, from + (int)label, a.storage) - most : __int_as_float(0x7fffffff);
    loss[row] = logf(total) - own;
  }
}

__device__ __forceinline__ void softmax_backward_body(const SoftmaxCudaArgs& a) {
  const float* __restrict__ probs = a.probs;
  const long long* __restrict__ labels = a.labels;
  const float* __restrict__ g = a.g;
  const int row = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;
  if (k >= a.K) return;
  const long long label = labels[row];
  const bool known = label >= 0 && label < a.K;
  const float value = known ? g[row] * (probs[row * a.K + k] - (k == label ? 1.f : 0.f)) : 0.f;
  store(a.glogits, row * a.logits_row + k, value, a.storage);
}
