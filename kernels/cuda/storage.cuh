// Values as they lie in memory: fp32, bf16 or fp16, one, two or four at a time; arithmetic is fp32.
// Our own 16-bit types, opaque, so that no CUDA header is needed and NVRTC compiles the same
// source.
#pragma once
#include "index.cuh"
#include "relu.cuh"

struct bf16 {
  unsigned short bits;
};
struct f16 {
  unsigned short bits;
};
enum Storage { kFp32 = 0, kBf16 = 1, kFp16 = 2 };

// The head of every kernel. Where launches depend on one another (launcher.cu), its blocks may
// start before the kernel before it has ended: let those of the next one do so too, and read
// nothing until everything before has been written. Elsewhere both are without effect.
__device__ __forceinline__ void await_launches_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) {
  return __uint_as_float((unsigned)v.bits << 16);
}
__device__ __forceinline__ float to_float(f16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}

// To nearest, ties to even; beyond the range infinity; NaN stays NaN.
template <class S>
__device__ __forceinline__ S from_float(float f);
template <>
__device__ __forceinline__ float from_float<float>(float f) {
  return f;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float f) {
  // in integers: the instruction begins with sm_80
  const unsigned u = __float_as_uint(f), rounded = u + 0x7fff + (u >> 16 & 1);
  return {(unsigned short)((f == f ? rounded : u | 0x400000) >> 16)};
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float f) {
  f16 v;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
  return v;
}

// Through the read-only path, for pointers that change within a kernel; elsewhere a local
// `const S* __restrict__` says the same.
__device__ __forceinline__ float load(const float* p) { return __ldg(p); }
template <class S>
__device__ __forceinline__ float load(const S* p) {
  return to_float(S{__ldg(&p->bits)});
}

// ---- the storage known at run time -------------------------------------------------------------
// One entry serves all three; the branch is uniform over the grid. Kernels that look through a
// window are bound by issue and branch once, at their head, to a body per storage: no branch is
// left in their loops.
#define PYI_BY_STORAGE(BODY, A)    \
  do {                             \
    if ((A).storage == kFp32)      \
      BODY<float>(A);              \
    else if ((A).storage == kBf16) \
      BODY<bf16>(A);               \
    else                           \
      BODY<f16>(A);                \
  } while (false)

// Kernels that see a value once are bound by memory and have one body: what is read is converted,
// what is written is rounded, access by access.
__device__ __forceinline__ float load(const void* p, int i, int storage) {
  if (storage == kFp32) return load((const float*)p + i);
  const unsigned short bits = __ldg((const unsigned short*)p + i);
  return storage == kBf16 ? to_float(bf16{bits}) : to_float(f16{bits});
}
__device__ __forceinline__ unsigned short to_half(float v, int storage) {
  return storage == kBf16 ? from_float<bf16>(v).bits : from_float<f16>(v).bits;
}
__device__ __forceinline__ void store(void* p, int i, float v, int storage) {
  if (storage == kFp32)
    ((float*)p)[i] = v;
  else
    ((unsigned short*)p)[i] = to_half(v, storage);
}

// ---- four neighbouring values, staged ----------------------------------------------------------
// As they lie in memory, converted later: what is under way needs half the registers in 16 bits.
template <class S>
struct Quad {
  unsigned lo, hi;  // the first one lowest
};
template <>
struct Quad<float> {
  float v[4];
};

// p[at .. at + 3] in one access, zeros below zero. Predicated, not branched around, and through the
// read-only path: nobody may write there while the kernel runs. Not volatile, so the compiler may
// move it; tests/test_cuda_gates.py sees that it does not pass the wait for the kernel before.
__device__ __forceinline__ Quad<float> fetch_quad(const float* p, int at) {
  Quad<float> q{};
  asm("{.reg .pred in; setp.ge.s32 in, %5, 0; @in ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];}"
      : "+f"(q.v[0]), "+f"(q.v[1]), "+f"(q.v[2]), "+f"(q.v[3])
      : "l"(p + at), "r"(at));
  return q;
}
template <class S>
__device__ __forceinline__ Quad<S> fetch_quad(const S* p, int at) {
  Quad<S> q{};
  asm("{.reg .pred in; setp.ge.s32 in, %3, 0; @in ld.global.nc.v2.u32 {%0, %1}, [%2];}"
      : "+r"(q.lo), "+r"(q.hi)
      : "l"(p + at), "r"(at));
  return q;
}
// p[at], zero below zero
__device__ __forceinline__ float fetch_value(const float* p, int at) {
  float v = 0.f;
  asm("{.reg .pred in; setp.ge.s32 in, %2, 0; @in ld.global.nc.f32 %0, [%1];}"
      : "+f"(v)
      : "l"(p + at), "r"(at));
  return v;
}
template <class S>
__device__ __forceinline__ unsigned fetch_value(const S* p, int at) {
  unsigned short v = 0;
  asm("{.reg .pred in; setp.ge.s32 in, %2, 0; @in ld.global.nc.u16 %0, [%1];}"
      : "+h"(v)
      : "l"(p + at), "r"(at));
  return v;
}
template <class S>
__device__ __forceinline__ Quad<S> gather_quad(const S* p, int a0, int a1, int a2, int a3) {
  if constexpr (sizeof(S) == 4)
    return {fetch_value(p, a0), fetch_value(p, a1), fetch_value(p, a2), fetch_value(p, a3)};
  else
    return {fetch_value(p, a0) | fetch_value(p, a1) << 16, fetch_value(p, a2) | fetch_value(p, a3)
                                                                                    << 16};
}

template <class S>
__device__ __forceinline__ void unpack(Quad<S> q, float (&f)[4]) {
  f[0] = to_float(S{(unsigned short)q.lo}), f[1] = to_float(S{(unsigned short)(q.lo >> 16)});
  f[2] = to_float(S{(unsigned short)q.hi}), f[3] = to_float(S{(unsigned short)(q.hi >> 16)});
}
__device__ __forceinline__ void unpack(Quad<float> q, float (&f)[4]) {
#pragma unroll
  for (int j = 0; j < 4; j++) f[j] = q.v[j];
}

// f where the mask is above zero, else 0
template <class S>
__device__ __forceinline__ void keep_positive(float (&f)[4], Quad<S> mask) {
  float m[4];
  unpack(mask, m);
#pragma unroll
  for (int j = 0; j < 4; j++) f[j] = m[j] > 0.f ? f[j] : 0.f;
}

// ---- four neighbouring channels ----------------------------------------------------------------
// May four channels go as one access of 16 (8) bytes? Uniform over the grid.
__device__ __forceinline__ bool is_vector(const void* p, const CudaStrides& s, int storage) {
  return ((unsigned long long)p & (storage == kFp32 ? 15 : 7)) == 0 &&
         ((s.image | s.row | s.pixel) & 3) == 0;
}
template <class S>
__device__ __forceinline__ bool is_vector(const S* p, const CudaStrides& s) {
  return is_vector(p, s, sizeof(S) == 4 ? kFp32 : kBf16);
}

// kConstant: through the read-only path, where the compiler does not see for itself that nobody
// writes there.
template <bool kConstant, class V>
__device__ __forceinline__ V read(const V* p) {
  if constexpr (kConstant)
    return __ldg(p);
  else
    return *p;
}

// Four of 16 bits as they lie in memory, of which the first `left` are read; the others are zero.
template <bool kConstant = false>
__device__ __forceinline__ uint2 fetch4(const unsigned short* __restrict__ p, int left,
                                        bool vector) {
  if (vector && left >= 4) return read<kConstant>((const uint2*)p);
  unsigned u[4];
#pragma unroll
  for (int j = 0; j < 4; j++) u[j] = j < left ? read<kConstant>(p + j) : 0;
  return make_uint2(u[0] | u[1] << 16, u[2] | u[3] << 16);
}
__device__ __forceinline__ void put4(unsigned short* p, uint2 u, int left, bool vector) {
  if (vector && left >= 4) {
    *(uint2*)p = u;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (j < left) p[j] = (unsigned short)((j < 2 ? u.x : u.y) >> 16 * (j % 2));
}
template <class S>
__device__ __forceinline__ void unpack4(uint2 u, float (&v)[4]) {
  v[0] = to_float(S{(unsigned short)u.x}), v[1] = to_float(S{(unsigned short)(u.x >> 16)});
  v[2] = to_float(S{(unsigned short)u.y}), v[3] = to_float(S{(unsigned short)(u.y >> 16)});
}
template <class S>
__device__ __forceinline__ uint2 pack4(const float (&v)[4]) {
  unsigned u[4];
#pragma unroll
  for (int j = 0; j < 4; j++) u[j] = from_float<S>(v[j]).bits;
  return make_uint2(u[0] | u[1] << 16, u[2] | u[3] << 16);
}

// The first `left` of four; the others are zero and not read.
template <bool kConstant = false, class S>
__device__ __forceinline__ void load4(const S* __restrict__ p, float (&v)[4], int left,
                                      bool vector) {
  if constexpr (sizeof(S) == 2) {
    unpack4<S>(fetch4<kConstant>(&p->bits, left, vector), v);
  } else if (vector && left >= 4) {
    const float4 f = read<kConstant>((const float4*)p);
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = j < left ? read<kConstant>(p + j) : 0.f;
  }
}
template <class S>
__device__ __forceinline__ void store4(S* p, const float (&v)[4], int left, bool vector) {
  if constexpr (sizeof(S) == 2) {
    put4(&p->bits, pack4<S>(v), left, vector);
  } else if (vector && left >= 4) {
    *(float4*)p = make_float4(v[0], v[1], v[2], v[3]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (j < left) p[j] = v[j];
  }
}

// The same from and to element i of a map whose storage is known at run time.
__device__ __forceinline__ void load4(const void* __restrict__ p, int i, float (&v)[4], int left,
                                      bool vector, int storage) {
  if (storage == kFp32) return load4((const float*)p + i, v, left, vector);
  const uint2 u = fetch4((const unsigned short*)p + i, left, vector);
  if (storage == kBf16)
    unpack4<bf16>(u, v);
  else
    unpack4<f16>(u, v);
}
__device__ __forceinline__ void store4(void* p, int i, const float (&v)[4], int left, bool vector,
                                       int storage) {
  if (storage == kFp32) return store4((float*)p + i, v, left, vector);
  put4((unsigned short*)p + i, storage == kBf16 ? pack4<bf16>(v) : pack4<f16>(v), left, vector);
}

// The same to global memory, by instructions by name: in the register tile's kernels the plain
// assignments were taken apart and merged with the four (nvcc 13.0). It costs the compiler's
// knowledge that inputs are constant, so such a kernel loads them through fetch_quad.
template <class S>
__device__ __forceinline__ void store4_whole(S* p, const float (&v)[4], int left, bool vector) {
  if (!vector || left < 4) {
    store4(p, v, left, false);
  } else if constexpr (sizeof(S) == 4) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v[0]), "f"(v[1]),
                 "f"(v[2]), "f"(v[3])
                 : "memory");
  } else {
    const uint2 u = pack4<S>(v);
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(u.x), "r"(u.y) : "memory");
  }
}

// ---- a thread's place --------------------------------------------------------------------------
// Thread i makes channels c .. c + 3 of one pixel of a map: channels run fastest, then columns.
struct Place {
  int n, h, w, c;
};
__device__ __forceinline__ Place place_of(int i, const CudaDivisor& groups,
                                          const CudaDivisor& map_w, const CudaDivisor& map_h) {
  const int pixel = divide(i, groups), row = divide(pixel, map_w), n = divide(row, map_h);
  return {n, row - n * (int)map_h.value, pixel - row * (int)map_w.value,
          4 * (i - pixel * (int)groups.value)};
}
