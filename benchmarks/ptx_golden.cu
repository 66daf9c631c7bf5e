// One kernel per wrapper of kernels/cuda/ptx.cuh and per PTX form that its answers rest on. A GPU's
// answers are recorded by gpu_golden.py and replayed on the emulator.
//
//   values      d[i] = f(a[i], b[i], c[i]), a word each
//   mma         block i: d_i = a_i b_i^T + c_i, row-major 16 x k, 8 x k, 16 x 8
//   ldmatrix    block i: 1 KB of a_i to shared memory, lane l loads from row b_i[l]; d_i[l][j]
//   cp.async    block i: thread l copies `size` bytes of a_i to shared memory that held ones,
//   source
//               size b_i[l] % (size + 1); d_i is what lies there then
#include "../kernels/cuda/ptx.cuh"

struct Golden {
  const unsigned *a, *b, *c;
  unsigned* d;
};

// ---- values ------------------------------------------------------------------------------------
#define VALUE(NAME, ...)                                                                       \
  extern "C" __global__ void __launch_bounds__(32, 1) NAME(const __grid_constant__ Golden g) { \
    const unsigned i = blockIdx.x * 32 + threadIdx.x, a = g.a[i], b = g.b[i], c = g.c[i];      \
    unsigned d = 0;                                                                            \
    (void)b, (void)c;                                                                          \
    __VA_ARGS__;                                                                               \
    g.d[i] = d;                                                                                \
  }
#define PTX1(NAME, OPCODE) VALUE(NAME, asm(OPCODE " %0, %1;" : "=r"(d) : "r"(a)))
#define PTX2(NAME, OPCODE) VALUE(NAME, asm(OPCODE " %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b)))
#define PTX3(NAME, OPCODE) \
  VALUE(NAME, asm(OPCODE " %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)))

PTX2(add_f32, "add.f32")
PTX2(sub_f32, "sub.f32")
PTX2(mul_f32, "mul.f32")
PTX3(fma_rn_f32, "fma.rn.f32")
PTX3(fma_rm_f32, "fma.rm.f32")
PTX2(min_f32, "min.f32")
PTX2(max_f32, "max.f32")
PTX2(div_rn_f32, "div.rn.f32")
PTX1(rcp_rn_f32, "rcp.rn.f32")
PTX1(sqrt_rn_f32, "sqrt.rn.f32")
PTX1(rsqrt_approx_f32, "rsqrt.approx.f32")
PTX1(sqrt_approx_f32, "sqrt.approx.f32")
PTX1(rcp_approx_ftz_f32, "rcp.approx.ftz.f32")
PTX1(lg2_approx_f32, "lg2.approx.f32")
PTX1(ex2_approx_f32, "ex2.approx.f32")
PTX1(ex2_approx_ftz_f32, "ex2.approx.ftz.f32")
PTX1(tanh_approx_f32, "tanh.approx.f32")
PTX1(cvt_sat_f32_f32, "cvt.sat.f32.f32")
PTX1(cvt_rn_f32_s32, "cvt.rn.f32.s32")
PTX1(cvt_rni_s32_f32, "cvt.rni.s32.f32")
PTX1(cvt_rzi_s32_f32, "cvt.rzi.s32.f32")
PTX1(cvt_rni_f32_f32, "cvt.rni.f32.f32")
PTX3(fma_rn_f16x2, "fma.rn.f16x2")

VALUE(from_float_f16, d = from_float<f16>(__uint_as_float(a)).bits)
VALUE(from_float_bf16, d = from_float<bf16>(__uint_as_float(a)).bits)
VALUE(to_float_f16, d = __float_as_uint(to_float(f16{(unsigned short)a})))
VALUE(to_float_bf16, d = __float_as_uint(to_float(bf16{(unsigned short)a})))
VALUE(relu_f32, d = __float_as_uint(relu(__uint_as_float(a))))
#define UNPACK(TYPE, WHICH)                                               \
  VALUE(unpack_##WHICH##_##TYPE, float lo, hi; unpack(a, lo, hi, TYPE{}); \
        (void)lo, (void)hi, d = __float_as_uint(WHICH))
UNPACK(f16, lo)
UNPACK(f16, hi)
UNPACK(bf16, lo)
UNPACK(bf16, hi)

#if __CUDA_ARCH__ >= 800
VALUE(pack_bf16, d = pack(__uint_as_float(a), __uint_as_float(b), bf16{}))
VALUE(pack_f16, d = pack(__uint_as_float(a), __uint_as_float(b), f16{}))
VALUE(to_tf32_f32, d = to_tf32(a))
VALUE(larger_f32, d = larger(a, b, 0.f))
VALUE(larger_f16, d = larger(a, b, f16{}))
VALUE(larger_bf16, d = larger(a, b, bf16{}))
PTX2(min_nan_f32, "min.NaN.f32")
PTX3(fma_rn_bf16x2, "fma.rn.bf16x2")
#endif

// ---- mma ---------------------------------------------------------------------------------------
// kWords: of a row of a and b. Fragments as the head of ptx.cuh numbers them.
template <int kWords, class Multiply>
__device__ __forceinline__ void matrix(const Golden& p, Multiply multiply) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const unsigned* a = p.a + blockIdx.x * 16 * kWords;
  const unsigned* b = p.b + blockIdx.x * 8 * kWords;
  const int at = blockIdx.x * 128 + g * 8 + 2 * t, corners[4] = {at, at + 1, at + 64, at + 65};
  unsigned fa[kWords / 2], fb[kWords / 4];
  float d[4];
#pragma unroll
  for (int i = 0; i < kWords / 2; i++) fa[i] = a[(g + i % 2 * 8) * kWords + t + i / 2 * 4];
#pragma unroll
  for (int i = 0; i < kWords / 4; i++) fb[i] = b[g * kWords + t + i * 4];
#pragma unroll
  for (int i = 0; i < 4; i++) d[i] = __uint_as_float(p.c[corners[i]]);
  multiply(d, fa, fb);
#pragma unroll
  for (int i = 0; i < 4; i++) p.d[corners[i]] = __float_as_uint(d[i]);
}
#define MATRIX(NAME, WORDS, CALL)                                                              \
  extern "C" __global__ void __launch_bounds__(32, 1) NAME(const __grid_constant__ Golden p) { \
    matrix<WORDS>(p, [](float (&d)[4], const unsigned (&a)[WORDS / 2],                         \
                        const unsigned (&b)[WORDS / 4]) { CALL; });                            \
  }
MATRIX(mma_m16n8k8_f16, 4, mma_k8(d, a, b[0], f16{}))
#if __CUDA_ARCH__ >= 800
MATRIX(mma_m16n8k16_f16, 8, mma(d, a, b, f16{}))
MATRIX(mma_m16n8k16_bf16, 8, mma(d, a, b, bf16{}))
MATRIX(mma_m16n8k8_tf32, 8, mma(d, a, b, 0.f))
#endif

// ---- ldmatrix ----------------------------------------------------------------------------------
template <int kCount, class Load>
__device__ __forceinline__ void load_rows(const Golden& p, Load load) {
  extern __shared__ __align__(16) unsigned rows[];
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) rows[i] = p.a[blockIdx.x * 256 + i];
  __syncthreads();
  unsigned v[kCount];
  load(v, shared_address(rows + p.b[blockIdx.x * 32 + lane] % 64 * 4));
#pragma unroll
  for (int i = 0; i < kCount; i++) p.d[(blockIdx.x * 32 + lane) * 4 + i] = v[i];
#pragma unroll
  for (int i = kCount; i < 4; i++) p.d[(blockIdx.x * 32 + lane) * 4 + i] = 0;
}
#define ROWS(NAME, COUNT, ...)                                                                 \
  extern "C" __global__ void __launch_bounds__(32, 1) NAME(const __grid_constant__ Golden p) { \
    load_rows<COUNT>(p, [](unsigned (&v)[COUNT], unsigned row) { __VA_ARGS__; });              \
  }
#define LDMATRIX "ldmatrix.sync.aligned.m8n8."
ROWS(ldmatrix_x1, 1, asm volatile(LDMATRIX "x1.shared.b16 {%0}, [%1];" : "=r"(v[0]) : "r"(row)))
ROWS(ldmatrix_x1_trans, 1,
     asm volatile(LDMATRIX "x1.trans.shared.b16 {%0}, [%1];" : "=r"(v[0]) : "r"(row)))
ROWS(ldmatrix_x2_rows, 2, ldmatrix_x2(v, row))
ROWS(ldmatrix_x2_trans, 2,
     asm volatile(LDMATRIX "x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(v[0]),
                  "=r"(v[1]) : "r"(row)))
ROWS(ldmatrix_x4_rows, 4, ldmatrix_x4(v, row))
ROWS(ldmatrix_x4_columns, 4, ldmatrix_x4_trans(v, row))

// ---- cp.async ----------------------------------------------------------------------------------
#if __CUDA_ARCH__ >= 800
template <int kBytes, class Copy>
__device__ __forceinline__ void copy_filled(const Golden& p, Copy copy) {
  extern __shared__ __align__(16) unsigned rows[];
  constexpr int kWords = kBytes / 4;
  const int lane = threadIdx.x, at = blockIdx.x * 32 + lane;
#pragma unroll
  for (int i = 0; i < kWords; i++) rows[lane * kWords + i] = 0xffffffffu;
  __syncthreads();
  copy(shared_address(rows + lane * kWords), p.a + at * kWords, p.b[at] % (kBytes + 1));
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWords; i++) p.d[at * kWords + i] = rows[(31 - lane) * kWords + i];
}
#define COPY(NAME, BYTES, ...)                                                                    \
  extern "C" __global__ void __launch_bounds__(32, 1) NAME(const __grid_constant__ Golden p) {    \
    copy_filled<BYTES>(p, [](unsigned to, const unsigned* from, unsigned size) { __VA_ARGS__; }); \
  }
#define CP_ASYNC(KIND, BYTES)                                                                      \
  asm volatile("cp.async." KIND ".shared.global [%0], [%1], " #BYTES ", %2;" ::"r"(to), "l"(from), \
               "r"(size)                                                                           \
               : "memory")
COPY(cp_async_cg_16, 16, CP_ASYNC("cg", 16))
COPY(cp_async_ca_16, 16, CP_ASYNC("ca", 16))
COPY(cp_async_ca_8, 8, CP_ASYNC("ca", 8))
COPY(cp_async_ca_4, 4, CP_ASYNC("ca", 4))
COPY(cp_async_wanted, 16, cp_async16(to, from, size % 2))
#endif
