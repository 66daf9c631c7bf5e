// From what is asked (DepthwiseCudaArgs) to launches as data. Plain C++, no CUDA header.
#pragma once
#include "launch.h"

enum DepthwiseKernel {
  kDepthwiseFprop,
  kDepthwiseDgrad,
  kDepthwiseWgrad,
  kDepthwiseFinish,
  kDepthwiseEntryCount
};

#define PYI_DEPTHWISE_ENTRIES(X) \
  X(depthwise_fprop) X(depthwise_dgrad) X(depthwise_wgrad) X(depthwise_finish)
constexpr const char* kDepthwiseEntries[] = {PYI_DEPTHWISE_ENTRIES(PYI_NAME)};
static_assert(sizeof kDepthwiseEntries / sizeof *kDepthwiseEntries == kDepthwiseEntryCount,
              "a name for every entry");

enum class DepthwisePass { kFprop, kDgrad, kWgrad };

struct DepthwisePlan {
  DepthwiseCudaArgs args;
  CudaLaunch launches[2];
  int count;
  long long workspace_bytes;

  void launch(int entry, int x, int y, int z, int shared_bytes) {
    launches[count++] = {kDepthwiseEntries[entry], (unsigned)x, (unsigned)y, (unsigned)z, 256,
                         (unsigned)shared_bytes,   &args,       sizeof args};
  }
};

constexpr int kDepthwiseGroups = 32;  // of four channels of a block at most: 512 bytes of fp32
constexpr int kDepthwiseRounds = 8;   // pixels of a thread, for which filters are staged once

inline CudaStatus check_depthwise(DepthwiseCudaArgs& a, DepthwisePass pass) {
  if (a.storage < 0 || a.storage > 2) return kCudaBadStorage;
  if (a.N < 0 || a.H < 1 || a.W < 1 || a.C < 1 || a.K < 1 || a.K % a.C != 0) return kCudaBadExtent;
  if (a.R < 1 || a.S < 1 || a.R > 64 || a.S > 64 || a.stride_h < 1 || a.stride_w < 1 ||
      a.stride_h > 64 || a.stride_w > 64 || a.pad_h < 0 || a.pad_w < 0 || a.pad_h > 63 ||
      a.pad_w > 63)
    return kCudaBadGeometry;
  a.P = output_extent(a.H, a.R, a.stride_h, a.pad_h);
  a.Q = output_extent(a.W, a.S, a.stride_w, a.pad_w);
  if (a.P == 0 || a.Q == 0) return kCudaNoOutput;
  const CudaStrides &image = pass == DepthwisePass::kDgrad ? a.gx_strides : a.x_strides,
                    &map = pass == DepthwisePass::kFprop ? a.y_strides : a.gy_strides;
  if (negative(image) || negative(map) || negative(a.y_strides)) return kCudaBadStrides;
  if (!fits(image, a.N, a.H, a.W, a.C) || !fits(map, a.N, a.P, a.Q, a.K) ||
      !fits(a.y_strides, a.N, a.P, a.Q, a.K) || !fits((a.N + 1ll) * a.H, a.W) ||
      !fits((long long)a.N * a.H * a.W, a.C) || !fits((long long)a.N * a.P * a.Q, a.K) ||
      !fits((long long)(a.R * a.S + 1) * 32, a.K))
    return kCudaTooLarge;
  return kCudaOk;
}

// Set size_only for the dry run of wgrad, whose answer is plan.workspace_bytes.
inline CudaStatus plan_depthwise(const DepthwiseCudaArgs& asked, DepthwisePass pass, bool size_only,
                                 DepthwisePlan& plan) {
  plan = DepthwisePlan{};
  DepthwiseCudaArgs& a = plan.args;
  a = asked;
  if (const CudaStatus status = check_depthwise(a, pass)) return status;
  const bool dgrad = pass == DepthwisePass::kDgrad, wgrad = pass == DepthwisePass::kWgrad;
  const int channels = dgrad ? a.C : a.K, height = dgrad ? a.H : a.P, width = dgrad ? a.W : a.Q;
  const int taps = a.R * a.S, groups = ceil_div(channels, 4), most = kDepthwiseGroups;
  // The groups of all slabs as even as can be: 182 are six slabs of 31, not five of 32 and a rest.
  const int slabs = ceil_div(groups, most), slab = ceil_div(groups, slabs);
  a.lanes = 256 / slab, a.pixels = a.N * height * width;
  a.multiplier = make_divisor(a.K / a.C), a.slab = make_divisor(slab);
  a.taps = make_divisor(taps), a.filter_w = make_divisor(a.S), a.channels = make_divisor(a.K);
  a.map_w = make_divisor(width), a.map_h = make_divisor(height);
  a.step_h = make_divisor(a.stride_h), a.step_w = make_divisor(a.stride_w);
  if (wgrad) {
    a.block_pixels = chunk_extent(a.pixels, slabs * (taps + 1));
    a.chunks = ceil_div(a.pixels, a.block_pixels);
    CudaArena arena{size_only ? 0 : (unsigned long long)a.workspace, 0};
    a.partial = arena.take((long long)a.chunks * (taps + 1) * a.K);
    plan.workspace_bytes = (long long)arena.used;
    if (size_only) return kCudaOk;
    if (!a.gw || (a.N > 0 && (!a.x || !a.gy))) return kCudaMissingArray;
    if (((unsigned long long)a.workspace & 15) || (arena.used > 0 && !a.workspace) ||
        plan.workspace_bytes > a.workspace_bytes)
      return kCudaWorkspace;
    if (a.chunks > 0)
      plan.launch(kDepthwiseWgrad, a.chunks, slabs, a.gb ? taps + 1 : taps, 16 * slab * a.lanes);
    plan.launch(kDepthwiseFinish, ceil_div((taps + 1) * a.K, 256), 1, 1, 0);
    return kCudaOk;
  }
  if (a.N == 0) return kCudaOk;
  if (!a.w || (dgrad ? !a.gy || !a.gx : !a.x || !a.y)) return kCudaMissingArray;
  const int shared_bytes = dgrad && a.K != a.C ? 0 : 16 * slab * taps;
  if (shared_bytes > 48 * 1024) return beyond_shared_memory(shared_bytes, 48 * 1024);
  if (slabs > 65535) return kCudaTooLarge;
  a.block_pixels = a.lanes * kDepthwiseRounds;
  plan.launch(dgrad ? kDepthwiseDgrad : kDepthwiseFprop, ceil_div(a.pixels, a.block_pixels), slabs,
              1, shared_bytes);
  return kCudaOk;
}
