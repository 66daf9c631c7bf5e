// Inline PTX (all of it but what storage.cuh reads, writes and converts): tensor-core multiply-add,
// matrix loads, asynchronous copies, conversions, addresses. Each wrapper is one instruction and
// says what architecture it needs.
//
// Shared memory is addressed by 32-bit byte offsets of the shared window (shared_address). A
// fragment is what one lane of a warp holds; g = lane / 4 and t = lane % 4 number it:
//
//   m16n8k16, 16-bit     a0 (g, 2t)  a1 (g+8, 2t)  a2 (g, 2t+8)  a3 (g+8, 2t+8)     two k a word
//                        b0 (2t, g)  b1 (2t+8, g)
//   m16n8k8, tf32        a0 (g, t)   a1 (g+8, t)   a2 (g, t+4)   a3 (g+8, t+4)      one k a word
//                        b0 (t, g)   b1 (t+4, g)
//   m16n8k8, fp16        a0 (g, 2t)  a1 (g+8, 2t)  b0 (2t, g)                       two k a word
//   d, always fp32       d0 (g, 2t)  d1 (g, 2t+1)  d2 (g+8, 2t)  d3 (g+8, 2t+1)
//
// In units of 16 bytes the first two are the same: two units of k for every row, and lane 4g + t
// holds word t of row g. So one ldmatrix serves both, and the kernels count in units.
#pragma once

#include "storage.cuh"

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return (unsigned)__cvta_generic_to_shared(p);
}

// ---- addresses ---------------------------------------------------------------------------------
// The same value, which the compiler takes for a new one: what is computed before a loop stays
// there instead of moving to its uses.
__device__ __forceinline__ unsigned computed_here(unsigned v) {
  unsigned same;
  asm volatile("mov.u32 %0, %1;" : "=r"(same) : "r"(v));
  return same;
}
// base + i kElements in one instruction; the compiler's own sums of 64 bits take four.
template <int kElements = 1, class E>
__device__ __forceinline__ const E* element(const E* base, int i) {
  const E* address;
  asm("mad.wide.s32 %0, %1, %2, %3;"
      : "=l"(address)
      : "r"(i), "n"(kElements * (int)sizeof(E)), "l"(base));
  return address;
}

// ---- multiply-add ------------------------------------------------------------------------------
// d += a b, sm_80. The tag chooses the type of a and b; float stands for tf32.
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    bf16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    f16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    float) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d += a b over eight k, sm_75: the only fp16 form of that architecture.
__device__ __forceinline__ void mma_k8(float (&d)[4], const unsigned (&a)[2], unsigned b, f16) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// The same sixteen k as `mma` has, in the fragments it has, as two of eight.
__device__ __forceinline__ void mma_halves(float (&d)[4], const unsigned (&a)[4],
                                           const unsigned (&b)[2], f16) {
  mma_k8(d, {a[0], a[1]}, b[0], f16{});
  mma_k8(d, {a[2], a[3]}, b[1], f16{});
}

// ---- matrices from shared memory ---------------------------------------------------------------
// 8x8 matrices of 16-bit elements (8 rows of 16 bytes), sm_75. Lanes 8i..8i+7 give the addresses of
// the rows of matrix i; lane 4g + t receives word t of row g of each. With `_trans` it receives
// elements (2t, g) and (2t+1, g) instead.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&v)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(unsigned (&v)[2], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(v[0]), "=r"(v[1])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&v)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(row)
               : "memory");
}

// ---- shared memory by offset -------------------------------------------------------------------
__device__ __forceinline__ unsigned load_shared(unsigned address) {
  unsigned v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ unsigned load_shared_half(unsigned address) {
  unsigned v;
  asm volatile("{.reg .u16 h; ld.shared.u16 h, [%1]; cvt.u32.u16 %0, h;}"
               : "=r"(v)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ uint4 load_shared_unit(unsigned address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
// Two and four floats at a constant distance, by an instruction each: plain reads of neighbours are
// merged or taken apart (nvcc 13.0). Volatile keeps them between the barriers.
template <int kAt>
__device__ __forceinline__ void read_shared(float& v0, float& v1, unsigned address) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2+%3];" : "=f"(v0), "=f"(v1) : "r"(address), "n"(kAt));
}
template <int kAt>
__device__ __forceinline__ void read_shared(float (&v)[4], unsigned address) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4+%5];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(address), "n"(kAt));
}
__device__ __forceinline__ void store_shared(unsigned address, unsigned v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, unsigned v0, unsigned v1) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(v0), "r"(v1) : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

// 16 bytes to global memory. Plain assignments of a uint4 came out as four stores (nvcc 13.0).
__device__ __forceinline__ void store_global(void* p, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

// ---- asynchronous copies -----------------------------------------------------------------------
// 16 bytes, past L1, sm_80. Not wanted: 16 zero bytes, and the source is not read.
__device__ __forceinline__ void cp_async16(unsigned to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(wanted ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kPending of the groups this thread committed are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- conversions, to nearest even unless said ---------------------------------------------------
// Two values as one word, lo in the lower half, sm_80 (fp16: two instructions before).
__device__ __forceinline__ unsigned pack(float lo, float hi, bf16) {
  unsigned v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
  return v;
}
__device__ __forceinline__ unsigned pack(float lo, float hi, f16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return from_float<f16>(lo).bits | (unsigned)from_float<f16>(hi).bits << 16;
#else
  unsigned v;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
  return v;
#endif
}
__device__ __forceinline__ void unpack(unsigned v, float& lo, float& hi, bf16) {
  lo = __uint_as_float(v << 16), hi = __uint_as_float(v & 0xffff0000u);
}
__device__ __forceinline__ void unpack(unsigned v, float& lo, float& hi, f16) {
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(lo), "=f"(hi)
      : "r"(v));
}
// fp32 bits to tf32 bits, to nearest, ties away from zero (the only rounding of sm_80).
__device__ __forceinline__ unsigned to_tf32(unsigned v) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(v)));
  return r;
}

// ---- comparison --------------------------------------------------------------------------------
// The larger of both words' values, pair by pair, NaN if either is, sm_80.
__device__ __forceinline__ unsigned larger(unsigned x, unsigned y, bf16) {
  unsigned v;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(v) : "r"(x), "r"(y));
  return v;
}
__device__ __forceinline__ unsigned larger(unsigned x, unsigned y, f16) {
  unsigned v;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(v) : "r"(x), "r"(y));
  return v;
}
__device__ __forceinline__ unsigned larger(unsigned x, unsigned y, float) {
  float v;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(v) : "f"(__uint_as_float(x)), "f"(__uint_as_float(y)));
  return __float_as_uint(v);
}
