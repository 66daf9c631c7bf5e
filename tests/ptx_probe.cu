// One warp through the wrappers of ptx.cuh that no kernel uses, or that hide behind others.
#include "../kernels/cuda/ptx.cuh"

struct ProbeArgs {
  const f16* a;   // (16, 8)
  const f16* b;   // (8, 8): columns of the right operand
  float* d;        // (16, 8), += a b^T
  float* pairs;    // (32, 2): two values through pack and unpack
  unsigned* tf32;  // (32), in place
};

template <class E>
__device__ __forceinline__ void round_trip(float* v) {
  unpack(pack(v[0], v[1], E{}), v[0], v[1], E{});
}

extern "C" __global__ void __launch_bounds__(32, 1)
    probe_mma_k8(const __grid_constant__ ProbeArgs p) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const unsigned *a = (const unsigned*)p.a, *b = (const unsigned*)p.b;
  const unsigned rows[2] = {a[g * 4 + t], a[(g + 8) * 4 + t]};
  float* d = p.d + g * 8 + 2 * t;
  float acc[4] = {d[0], d[1], d[64], d[65]};
  mma_k8(acc, rows, b[g * 4 + t], f16{});
  d[0] = acc[0], d[1] = acc[1], d[64] = acc[2], d[65] = acc[3];
}

extern "C" __global__ void __launch_bounds__(32, 1)
    probe_conversions(const __grid_constant__ ProbeArgs p) {
  if (threadIdx.x < 16)
    round_trip<bf16>(p.pairs + 2 * threadIdx.x);
  else
    round_trip<f16>(p.pairs + 2 * threadIdx.x);
  p.tf32[threadIdx.x] = to_tf32(p.tf32[threadIdx.x]);
}
