// The one ReLU of the CUDA kernels.
#pragma once

// Keeps NaN, gives +0 for -0. fmaxf(x, 0) and x > 0 ? x : 0 become max.f32, which drops NaN.
__device__ __forceinline__ float relu(float x) { return x <= 0.f ? 0.f : x; }
