// A module on tensor cores, sm_80 and later. Forward is inception_mma's one launch or one for each
// of its roles; r3 and r5 are stored where they are wanted, and training adds a launch for the
// pooled map and its argmax.
//
// Backward gathers every masked gradient in one map G of the workspace, whose order of channels
// makes the stacked operand of gx a slice of it:
//
//   G  = [ gr3 | gr5 | gy1 | gy3 | gy5 | gyp ]      written: gy.. by mask_units, gr.. by dgrad
//        [---------------]                          K of gx's GEMM, beside the flipped filters
//                                                   (C, [wr3 | wr5 | w1])
#pragma once
#include "inception_cores_plan.h"

inline void fill_role(const InceptionModule& m, int i, ReduceConvMmaArgs& r) {
  const InceptionCudaArgs& a = m.a;
  const InceptionMap &y = m.output[i], &saved = m.input[i];
  r.x = a.x, r.x_strides = a.x_strides, r.wr = a.w[i - 1], r.br = a.b[i - 1];
  r.w = a.w[i], r.b = a.b[i], r.y = y.data(), r.y_strides = y.strides;
  r.r = m.saves() ? saved.data() : nullptr, r.r_strides = saved.strides;
  r.N = a.N, r.H = a.H, r.W = a.W, r.C = a.C, r.Cr = a.K[i - 1], r.K = a.K[i];
  r.R = r.S = m.filter(i), r.stride_h = r.stride_w = 1, r.pad_h = r.pad_w = m.filter(i) / 2;
  r.type = a.storage, r.shared_limit = a.shared_limit, r.multiprocessors = a.multiprocessors;
}

// A convolution of stride 1 that keeps the extents, from a map to a map.
inline ConvMmaArgs tensor_conv(const InceptionModule& m, const InceptionMap& x, const void* w,
                               int filter, const InceptionMap& y) {
  const InceptionCudaArgs& a = m.a;
  ConvMmaArgs c{};
  c.x = x.data(), c.x_strides = x.strides, c.C = x.channels, c.w = w;
  c.outputs[0] = {y.data(), y.strides, 0, y.channels}, c.output_count = 1, c.K = y.channels;
  c.N = a.N, c.H = c.P = a.H, c.W = c.Q = a.W;
  c.R = c.S = filter, c.pad_h = c.pad_w = filter / 2;
  c.stride_h = c.stride_w = c.step_h = c.step_w = 1;
  c.type = a.storage, c.shared_limit = a.shared_limit, c.multiprocessors = a.multiprocessors;
  return c;
}

// A launch for each role under its own tile, the projection from the pooled map in memory.
inline CudaStatus plan_roles_alone(InceptionModule& m, const InceptionMmaArgs& roles,
                                   double& clocks) {
  const InceptionCudaArgs& a = m.a;
  ReduceConvMmaPlan* branches = m.plan.branches;
  ConvMmaPlan* convs = m.plan.convs_mma;
  if (!m.saves()) m.input[kProjection] = m.new_map(a.C);
  ConvMmaArgs projection = roles.projection;
  projection.x = m.input[kProjection].data(), projection.x_strides = m.input[kProjection].strides;
  CudaStatus why = plan_reduce_conv_mma(roles.branches[0], branches[0]);
  if (!why) why = plan_reduce_conv_mma(roles.branches[1], branches[1]);
  if (!why) why = plan_conv_mma(roles.ones, convs[0]);
  if (!why) why = plan_conv_mma(projection, convs[1]);
  clocks = branches[0].clocks + branches[1].clocks + convs[0].clocks + convs[1].clocks;
  clocks += 3 * kBoundaryClocks;
  if (!m.saves())
    clocks += kBoundaryClocks + 2. * a.N * a.H * a.W * a.C * m.element_bytes / kMemoryPerClock;
  return why;
}

// Four roles in one launch, or a launch for each: what the model of mma_plan.h expects to end
// first. Small batches take the one, large maps at large batches the other, where each branch's own
// tile and a device to itself outweigh four boundaries. The bits are the same.
inline bool fprop_on_tensor_cores(InceptionModule& m) {
  const InceptionCudaArgs& a = m.a;
  const InceptionMap x = m.input[kPlain];
  InceptionMmaArgs roles{};
  fill_role(m, kFilter3, roles.branches[0]);
  fill_role(m, kFilter5, roles.branches[1]);
  roles.ones = tensor_conv(m, x, a.w[kPlain], 1, m.output[kPlain]);
  roles.projection = tensor_conv(m, x, a.w[kProjection], 1, m.output[kProjection]);
  roles.ones.b = a.b[kPlain], roles.projection.b = a.b[kProjection];
  roles.ones.relu = roles.projection.relu = 1;
  const CudaStatus together = plan_inception_mma(roles, m.plan.fused);
  const CudaArena before = m.arena;
  double clocks = 0;
  const CudaStatus alone = plan_roles_alone(m, roles, clocks);
  if (alone || (!together && m.plan.fused.clocks <= clocks)) {
    m.arena = before;
    return (!m.saves() || add_pool(m)) && m.append("", together, m.plan.fused);
  }
  for (const ReduceConvMmaPlan& branch : m.plan.branches) m.append("", alone, branch);
  return m.append("", alone, m.plan.convs_mma[0]) && add_pool(m) &&
         m.append("", alone, m.plan.convs_mma[1]);
}

inline bool backward_on_tensor_cores(InceptionModule& m) {
  const InceptionCudaArgs& a = m.a;
  const int reduced = a.K[kReduce3] + a.K[kReduce5], stacked = reduced + a.K[kPlain];
  const InceptionMap all = m.new_map(reduced + m.y_channels());
  const InceptionMap gy = m.slice(all, reduced, m.y_channels());
  MaskMmaArgs mask{};
  mask.gy = a.gy, mask.gy_strides = a.gy_strides, mask.y = a.y, mask.y_strides = a.y_strides;
  mask.out = gy.data(), mask.out_pitch = all.channels;
  mask.N = a.N, mask.P = a.H, mask.Q = a.W, mask.K = gy.channels, mask.type = a.storage;
  if (!m.append("gy and y: ", plan_mask_mma(mask, m.plan.mask), m.plan.mask)) return false;
  int first = reduced;
  for (int i : kInceptionOutputs) m.gradient[i] = m.slice(all, first, a.K[i]), first += a.K[i];
  m.gradient[kReduce3] = m.slice(all, 0, a.K[kReduce3]);
  m.gradient[kReduce5] = m.slice(all, a.K[kReduce3], a.K[kReduce5]);

  // the filters of dgrad, (C, R, S, K) each, those of the siblings side by side
  FlipFiltersMmaArgs flips{};
  const auto flip = [&](int i, void* out, int pitch) {
    const int C = i == kFilter3 || i == kFilter5 ? a.K[i - 1] : a.C, R = m.filter(i);
    flips.filters[flips.filter_count++] = {a.w[i],    out,   a.K[i], R,  R, C,
                                           a.storage, pitch, 0,      {}, {}};
  };
  void* flipped[6] = {};
  for (int i : kInceptionReduced) {
    if (!a.gx && !a.gw[i - 1]) continue;
    flipped[i] = m.take((long long)a.K[i - 1] * m.filter(i) * m.filter(i) * a.K[i]);
    flip(i, flipped[i], a.K[i]);
  }
  if (a.gx) {
    flipped[kProjection] = m.take((long long)a.C * a.K[kProjection]);
    flip(kProjection, flipped[kProjection], a.K[kProjection]);
    const InceptionMap w = {(unsigned long long)m.take((long long)a.C * stacked), {}, stacked};
    int column = 0;
    for (int i : kInceptionSiblings) {
      flip(i, m.slice(w, column, 0).data(), stacked);
      column += a.K[i];
    }
    flipped[kPlain] = w.data();
  }
  if (a.N > 0 && flips.filter_count > 0 &&
      !m.append("", plan_flip_filters_mma(flips, m.plan.flips), m.plan.flips))
    return false;

  int used = 0;
  const auto add_conv = [&](const char* name, const ConvMmaArgs& c) {
    ConvMmaPlan& part = m.plan.convs_mma[used++];
    return m.append(name, plan_conv_mma(c, part), part);
  };
  for (int i : kInceptionReduced) {
    if (!flipped[i]) continue;
    ConvMmaArgs c = tensor_conv(m, m.gradient[i], flipped[i], m.filter(i), m.gradient[i - 1]);
    c.mask = m.output[i - 1].data(), c.mask_strides = m.output[i - 1].strides;
    if (!add_conv(kInceptionNames[i], c)) return false;
  }
  if (a.gx) {
    const InceptionMap pooled = m.new_map(a.C), gx = {(unsigned long long)a.gx, a.gx_strides, a.C};
    ConvMmaArgs siblings = tensor_conv(m, m.slice(all, 0, stacked), flipped[kPlain], 1, gx);
    siblings.accumulate = 1;
    if (!add_conv(kInceptionNames[kProjection],
                  tensor_conv(m, m.gradient[kProjection], flipped[kProjection], 1, pooled)) ||
        !add_pool_dgrad(m, pooled) || !add_conv("1x1s of x: ", siblings))
      return false;
  }
  for (int i : kInceptionWgrads) {
    if (!a.gw[i]) continue;
    const InceptionMap &x = m.input[i], &g = m.gradient[i];
    ConvWgradMmaArgs w{};
    w.gy = g.data(), w.gy_strides = g.strides, w.x = x.data(), w.x_strides = x.strides;
    w.gw = a.gw[i], w.gb = a.gb[i], w.workspace = m.tail(), w.workspace_bytes = kMaxElements;
    w.N = a.N, w.H = w.P = a.H, w.W = w.Q = a.W, w.C = x.channels, w.K = g.channels;
    w.R = w.S = m.filter(i), w.stride_h = w.stride_w = 1, w.pad_h = w.pad_w = m.filter(i) / 2;
    w.type = a.storage, w.shared_limit = a.shared_limit;
    ConvWgradMmaPlan& part = m.plan.wgrads[i];
    if (!m.append(kInceptionNames[i], plan_conv_wgrad_mma(w, false, part), part)) return false;
    m.share_tail(part.workspace_bytes);
  }
  return true;
}
