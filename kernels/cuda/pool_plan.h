// From what is asked (PoolCudaArgs) to launches as data. Plain C++, no CUDA header.
#pragma once
#include "launch.h"

enum PoolKernel { kPoolFprop, kPoolDgrad, kPoolEntryCount };

#define PYI_POOL_ENTRIES(X) X(pool_fprop) X(pool_dgrad)
constexpr const char* kPoolEntries[] = {PYI_POOL_ENTRIES(PYI_NAME)};
static_assert(sizeof kPoolEntries / sizeof *kPoolEntries == kPoolEntryCount,
              "a name for every entry");

struct PoolPlan {
  PoolCudaArgs args;
  CudaLaunch launches[1];
  int count;
  long long workspace_bytes;
};

// Outputs along one axis. Every window holds a pixel where the padding is less than the filter: by
// the floor rule it ends inside the padded image, by the ceil rule it starts inside the image.
inline int pool_extent(int extent, int filter, int stride, int pad, bool ceil_mode) {
  const int span = extent + 2 * pad - filter;
  if (span < 0) return 0;
  if (!ceil_mode) return span / stride + 1;
  const int count = ceil_div(span, stride) + 1;
  return (count - 1) * stride >= extent + pad ? count - 1 : count;
}

inline CudaStatus plan_pool(const PoolCudaArgs& asked, bool dgrad, PoolPlan& plan) {
  plan = PoolPlan{};
  PoolCudaArgs& a = plan.args;
  a = asked;
  if (a.storage < 0 || a.storage > 2) return kCudaBadStorage;
  if (a.N < 0 || a.H < 1 || a.W < 1 || a.C < 1) return kCudaBadExtent;
  const int limit = 1 << 20;
  if (a.R < 1 || a.S < 1 || a.R > limit || a.S > limit || a.stride_h < 1 || a.stride_w < 1 ||
      a.stride_h > limit || a.stride_w > limit || a.pad_h < 0 || a.pad_w < 0 || a.pad_h >= a.R ||
      a.pad_w >= a.S || (!a.average && (long long)a.R * a.S > 255))
    return kCudaBadWindow;
  if (!fits(a.N + 1ll, (a.H + 2ll * a.R) * (a.W + 2ll * a.S))) return kCudaTooLarge;
  a.P = pool_extent(a.H, a.R, a.stride_h, a.pad_h, a.ceil_mode);
  a.Q = pool_extent(a.W, a.S, a.stride_w, a.pad_w, a.ceil_mode);
  if (a.P == 0 || a.Q == 0) return kCudaNoOutput;
  const CudaStrides &image = dgrad ? a.gx_strides : a.x_strides,
                    &map = dgrad ? a.gy_strides : a.y_strides;
  if (negative(image) || negative(map)) return kCudaBadStrides;
  if (!fits(image, a.N, a.H, a.W, a.C) || !fits(map, a.N, a.P, a.Q, a.C) ||
      !fits((long long)a.N * a.P * a.Q, a.C) || !fits((long long)a.N * a.H * a.W, a.C))
    return kCudaTooLarge;
  if (a.N == 0) return kCudaOk;
  if (dgrad ? !a.gy || !a.gx || (!a.average && !a.argmax) : !a.x || !a.y) return kCudaMissingArray;

  const int groups = ceil_div(a.C, 4), height = dgrad ? a.H : a.P, width = dgrad ? a.W : a.Q;
  a.count = a.N * height * width * groups;
  a.groups = make_divisor(groups), a.map_w = make_divisor(width), a.map_h = make_divisor(height);
  a.step_h = make_divisor(a.stride_h), a.step_w = make_divisor(a.stride_w);
  plan.launches[plan.count++] = {kPoolEntries[dgrad ? kPoolDgrad : kPoolFprop],
                                 (unsigned)ceil_div(a.count, 256),
                                 1,
                                 1,
                                 256,
                                 0,
                                 &plan.args,
                                 sizeof(plan.args)};
  return kCudaOk;
}
