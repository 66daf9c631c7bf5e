// One kernel per class of defect, beside right ones of the same form. The test finds the line of a
// defect by the name in its comment.
#include <cuda_bf16.h>

using u32 = unsigned;

__device__ __forceinline__ u32 shared_address(const void* p) {
  return (u32)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}
__device__ __forceinline__ void wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void barrier() { __syncthreads(); }

#define KERNEL(NAME) extern "C" __global__ void NAME(const float* x, float* y, int n)

KERNEL(global_past_the_end) {
  y[threadIdx.x] = x[threadIdx.x + n];  // global_past_the_end
}

KERNEL(global_before_the_start) {
  y[(int)threadIdx.x - 1] = x[threadIdx.x];  // global_before_the_start
}

KERNEL(shared_past_the_end) {
  extern __shared__ float s[];
  s[threadIdx.x + blockDim.x] = x[threadIdx.x];  // shared_past_the_end
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL(reversed) {  // right
  extern __shared__ float s[];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}

KERNEL(read_before_write) {
  extern __shared__ float s[];
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = x[threadIdx.x];                   // read_before_write other
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];  // read_before_write
}

KERNEL(write_before_read) {
  extern __shared__ float s[];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float v = s[blockDim.x - 1 - threadIdx.x];  // write_before_read other
  s[threadIdx.x] = v;                               // write_before_read
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL(copied) {  // right
  extern __shared__ __align__(16) float s[];
  copy16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  wait();
  __syncthreads();
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}

KERNEL(copy_not_waited_for) {
  extern __shared__ __align__(16) float s[];
  copy16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);  // copy_not_waited_for other
  __syncthreads();
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];  // copy_not_waited_for
  wait();
}

KERNEL(divergent_barrier) {
  extern __shared__ float s[];
  s[threadIdx.x] = x[threadIdx.x];
  if (x[threadIdx.x] > 5) {
    barrier();  // divergent_barrier
  }
  s[threadIdx.x] += 1;
  barrier();  // divergent_barrier other
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL(uninitialised) {
  extern __shared__ float s[];
  if (threadIdx.x > 0) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];  // uninitialised
}

KERNEL(endless) {
  const volatile float* flag = x;
  while (flag[0] < 1) {  // endless
  }
  y[threadIdx.x] = 1;
}

KERNEL(misaligned) {
  *(float4*)(y + 1 + 4 * threadIdx.x) = make_float4(1, 2, 3, 4);  // misaligned
}

KERNEL(two_blocks) {
  y[threadIdx.x] = x[blockIdx.x];  // two_blocks
}

// d = a b of one warp, a (16, 16) and b (16, 8) stored by columns, both given as fp32.
template <bool kSwapped>
__device__ void product(const float* x, float* y) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  const auto a = [&](int row, int k) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[16 * row + k], x[16 * row + k + 1]);
    return *(const u32*)&pair;
  };
  const auto b = [&](int k) {
    const float* column = x + 256 + 16 * group;
    const __nv_bfloat162 pair = __floats2bfloat162_rn(column[k], column[k + 1]);
    return *(const u32*)&pair;
  };
  u32 a0 = a(group, 2 * place), a1 = a(group + 8, 2 * place);
  u32 a2 = a(group, 2 * place + 8), a3 = a(group + 8, 2 * place + 8);
  if (kSwapped) {
    const u32 t = a1;
    a1 = a2, a2 = t;
  }
  const u32 b0 = b(2 * place), b1 = b(2 * place + 8);
  float d[4] = {};
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  for (int i = 0; i < 4; i++) y[8 * (group + 8 * (i / 2)) + 2 * place + i % 2] = d[i];
}
KERNEL(right_fragment) { product<false>(x, y); }
KERNEL(wrong_fragment) { product<true>(x, y); }

// y (64, 8) = a (64, 96) b^T, b (8, 96), bf16: a ring of two stages filled by cp.async, ldmatrix,
// mma.
template <bool kBarrier>
__device__ void ring(const float* x, float* y) {
  extern __shared__ __align__(16) __nv_bfloat16 tiles[];
  constexpr int kDepth = 96, kStep = 16, kSteps = kDepth / kStep, kStage = (64 + 8) * kStep;
  const __nv_bfloat16 *a = (const __nv_bfloat16*)x, *b = a + 64 * kDepth;
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  const auto fetch = [&](int step) {
    __nv_bfloat16* stage = tiles + step % 2 * kStage;
    const int from = t / 2 * kDepth + step * kStep + t % 2 * 8;
    copy16(stage + t * 8, a + from);
    if (t < 16) copy16(stage + 64 * kStep + t * 8, b + from);
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  float d[4] = {};
  fetch(0);
  for (int step = 0; step < kSteps; step++) {
    if (step + 1 < kSteps) {
      fetch(step + 1);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads();
    const __nv_bfloat16* stage = tiles + step % 2 * kStage;
    const u32 at_a = shared_address(stage + (16 * warp + lane % 16) * kStep + lane / 16 * 8);
    const u32 at_b = shared_address(stage + (64 + lane % 8) * kStep + lane / 8 % 2 * 8);
    u32 a0, a1, a2, a3, b0, b1;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a0), "=r"(a1), "=r"(a2), "=r"(a3)
                 : "r"(at_a));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(b0), "=r"(b1)
                 : "r"(at_b));
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    if (kBarrier) __syncthreads();  // the stage is read before it is filled again
  }
  const int row = 16 * warp + lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; i++) y[8 * (row + 8 * (i / 2)) + column + i % 2] = d[i];
}
KERNEL(ring_with_barrier) { ring<true>(x, y); }
KERNEL(ring_without_barrier) { ring<false>(x, y); }
