// What NVIDIA's own headers and math library compile to, for test_emulator_library.py: every
// function writes a row of its own.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void single_precision(const float* x, float* y, int n) {
  const int i = threadIdx.x;
  const float v = x[i], p = fabsf(v);
  const float results[] = {
      expf(v),         logf(p),      powf(p, 0.75f), sqrtf(p),         rsqrtf(p),     tanhf(v),
      sinf(v),         cosf(v),      erff(v),        exp2f(v),         log2f(p),      log1pf(p),
      expm1f(v),       cbrtf(v),     fmodf(v, 3.f),  floorf(v),        ceilf(v),      rintf(v),
      truncf(v),       v / 3.f,      1.f / p,        fmaf(v, v, 1.f),  fmaxf(v, 1.f), fminf(v, 1.f),
      copysignf(2, v), ldexpf(v, 3), __saturatef(v), sinf(v * 40000.f)};
  for (int k = 0; k < sizeof results / sizeof *results; k++) y[k * n + i] = results[k];
}

extern "C" __global__ void double_precision(const double* x, double* y, int n) {
  const int i = threadIdx.x;
  const double v = x[i], p = fabs(v);
  const double results[] = {
      exp(v),        log(p), pow(p, 0.3), sqrt(p),  v / 3.0, 1.0 / p,  rsqrt(p),
      sin(v),        cos(v), tanh(v),     floor(v), rint(v), (float)v, (double)(long long)v,
      fma(v, v, 1.0)};
  for (int k = 0; k < sizeof results / sizeof *results; k++) y[k * n + i] = results[k];
}

extern "C" __global__ void half_precision(const __half* x, __half* y, int n) {
  const int i = threadIdx.x;
  const __half v = x[i], w = x[(i + 1) % n];
  const __half2 pair = __halves2half2(v, w), other = __halves2half2(w, v);
  const __half2 sum = __hadd2(pair, other), most = __hmax2(pair, other);
  const __half2 fused = __hfma2(pair, other, pair);
  const __half results[] = {v + w,
                            v * w,
                            __hfma(v, w, v),
                            __hmax(v, w),
                            __hmin(v, w),
                            __habs(v),
                            __hneg(v),
                            hrint(v),
                            __low2half(sum),
                            __high2half(most),
                            __high2half(fused),
                            __hadd_sat(v, w),
                            __hfma_relu(v, w, v),
                            __float2half(__half2float(v) * 1.001f),
                            __int2half_rn(__half2int_rz(v)),
                            __hlt(v, w) ? v : w};
  for (int k = 0; k < sizeof results / sizeof *results; k++) y[k * n + i] = results[k];
}

extern "C" __global__ void brain_float(const float* x, __nv_bfloat16* y, int n) {
  const int i = threadIdx.x;
  const __nv_bfloat16 v = __float2bfloat16(x[i]), w = __float2bfloat16(x[(i + 1) % n]);
  const __nv_bfloat162 pair = __halves2bfloat162(v, w), both = __floats2bfloat162_rn(x[i], 1.f);
  const __nv_bfloat162 fused = __hfma2(pair, pair, both);
  const __nv_bfloat16 results[] = {v,
                                   v + w,
                                   v * w,
                                   __hfma(v, w, v),
                                   __hmax(v, w),
                                   __hmin(v, w),
                                   __low2bfloat16(fused),
                                   __high2bfloat16(fused),
                                   __float2bfloat16_rz(x[i]),
                                   __hneg(v)};
  for (int k = 0; k < sizeof results / sizeof *results; k++) y[k * n + i] = results[k];
}

extern "C" __global__ void integers(const int* x, int* y, int n) {
  const int i = threadIdx.x, v = x[i];
  const unsigned u = v;
  const long long wide = (long long)v * x[(i + 1) % n];
  const int results[] = {v / 7,
                         v % 7,
                         (int)(u / 7u),
                         (int)(wide / 1000003),
                         (int)(wide % 1000003),
                         __popc(u),
                         __clz(v),
                         (int)__brev(u),
                         __ffs(v),
                         __mulhi(v, v),
                         (int)__umulhi(u, u),
                         min(v, 3),
                         abs(v),
                         (int)__byte_perm(u, 77, 0x5140),
                         (int)__funnelshift_l(u, 77, 9),
                         __dp4a(v, v, v),
                         (int)__vadd2(u, 65537),
                         (int)(wide >> 17),
                         v << 3,
                         (signed char)v};
  for (int k = 0; k < sizeof results / sizeof *results; k++) y[k * n + i] = results[k];
}
