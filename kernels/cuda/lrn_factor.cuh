// s^(-3/4) = r sqrt(r) with r = 1 / sqrt(s), so that no power is taken; s = scale sum + k.
#pragma once

__device__ __forceinline__ float lrn_factor(float scale, float sum, float k) {
  const float r = rsqrtf(fmaf(scale, sum, k));
  return r * sqrtf(r);
}
