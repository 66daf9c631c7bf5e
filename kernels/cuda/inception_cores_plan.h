// A module on CUDA cores, any GPU from sm_75: the convolutions of conv.cu and the pool of pool.cu.
// The three 1x1s that read x are panels of one launch, forward and in gx. ReLU masks are applied
// where a gradient is read, so gr3 and gr5 lie in the workspace without theirs.
#pragma once
#include "inception_parts.h"

inline ConvCudaArgs cores_conv(const InceptionModule& m, int C, int filter) {
  const InceptionCudaArgs& a = m.a;
  ConvCudaArgs c{};
  c.storage = a.storage, c.N = a.N, c.H = a.H, c.W = a.W, c.C = C;
  c.R = c.S = filter, c.stride_h = c.stride_w = 1, c.pad_h = c.pad_w = filter / 2;
  return c;
}

// Convolution i as a panel: its filter, output and, for backward, the gradient of that.
inline void add_panel(const InceptionModule& m, int i, ConvCudaArgs& c) {
  const InceptionMap &y = m.output[i], &gy = m.gradient[i];
  c.panels[c.panel_count++] = {m.a.w[i],   m.a.b[i], y.data(), gy.data(), y.strides,
                               gy.strides, m.a.K[i], 1,        0};
}

inline PoolCudaArgs module_pool(const InceptionModule& m) {
  const InceptionCudaArgs& a = m.a;
  PoolCudaArgs p{};
  p.storage = a.storage, p.N = a.N, p.H = a.H, p.W = a.W, p.C = a.C;
  p.R = p.S = 3, p.stride_h = p.stride_w = p.pad_h = p.pad_w = 1;
  p.argmax = a.argmax;
  return p;
}

inline bool add_pool(InceptionModule& m) {
  PoolCudaArgs p = module_pool(m);
  const InceptionMap &x = m.input[kPlain], &pooled = m.input[kProjection];
  p.x = x.data(), p.x_strides = x.strides, p.y = pooled.data(), p.y_strides = pooled.strides;
  return m.append("pool: ", plan_pool(p, false, m.plan.pool), m.plan.pool);
}

// gx = the gather of the gradient of the pooled map
inline bool add_pool_dgrad(InceptionModule& m, const InceptionMap& gradient) {
  PoolCudaArgs p = module_pool(m);
  p.gy = gradient.data(), p.gy_strides = gradient.strides, p.gx = m.a.gx;
  p.gx_strides = m.a.gx_strides;
  return m.append("pool: ", plan_pool(p, true, m.plan.pool), m.plan.pool);
}

inline bool fprop_on_cuda_cores(InceptionModule& m) {
  const InceptionCudaArgs& a = m.a;
  if (!m.saves()) {
    m.output[kReduce3] = m.input[kFilter3] = m.new_map(a.K[kReduce3]);
    m.output[kReduce5] = m.input[kFilter5] = m.new_map(a.K[kReduce5]);
    m.input[kProjection] = m.new_map(a.C);
  }
  int used = 0;
  const auto add = [&](const InceptionMap& x, const char* name, ConvCudaArgs& c) {
    c.x = x.data(), c.x_strides = x.strides;
    ConvPlan& part = m.plan.convs[used++];
    return m.append(name, plan_conv_fprop(c, part), part);
  };
  ConvCudaArgs siblings = cores_conv(m, a.C, 1);
  for (int i : kInceptionSiblings) add_panel(m, i, siblings);
  if (!add(m.input[kPlain], "1x1s of x: ", siblings) || !add_pool(m)) return false;
  for (int i : kInceptionOutputs) {
    if (i == kPlain) continue;
    ConvCudaArgs c = cores_conv(m, m.input[i].channels, m.filter(i));
    add_panel(m, i, c);
    if (!add(m.input[i], kInceptionNames[i], c)) return false;
  }
  return true;
}

inline bool backward_on_cuda_cores(InceptionModule& m) {
  const InceptionCudaArgs& a = m.a;
  int used = 0;
  const auto add_dgrad = [&](const char* name, ConvCudaArgs& c, const InceptionMap& gx) {
    c.gx = gx.data(), c.gx_strides = gx.strides;
    ConvPlan& part = m.plan.convs[used++];
    return m.append(name, plan_conv_dgrad(c, part), part);
  };
  for (int i : kInceptionReduced) {
    const InceptionMap& gr = m.gradient[i - 1] = m.new_map(a.K[i - 1]);
    if (!a.gx && !a.gw[i - 1]) continue;
    ConvCudaArgs c = cores_conv(m, gr.channels, m.filter(i));
    add_panel(m, i, c);
    if (!add_dgrad(kInceptionNames[i], c, gr)) return false;
  }
  if (a.gx) {
    const InceptionMap pooled = m.new_map(a.C), gx = {(unsigned long long)a.gx, a.gx_strides, a.C};
    ConvCudaArgs projection = cores_conv(m, a.C, 1), siblings = cores_conv(m, a.C, 1);
    add_panel(m, kProjection, projection);
    for (int i : kInceptionSiblings) add_panel(m, i, siblings);
    siblings.accumulate = 1;
    if (!add_dgrad(kInceptionNames[kProjection], projection, pooled) ||
        !add_pool_dgrad(m, pooled) || !add_dgrad("1x1s of x: ", siblings, gx))
      return false;
  }
  for (int i : kInceptionWgrads) {
    if (!a.gw[i]) continue;
    ConvCudaArgs c = cores_conv(m, m.input[i].channels, m.filter(i));
    add_panel(m, i, c);
    c.x = m.input[i].data(), c.x_strides = m.input[i].strides, c.gw = a.gw[i], c.gb = a.gb[i];
    c.workspace = m.tail(), c.workspace_bytes = kMaxElements;
    ConvPlan& part = m.plan.convs[used++];
    if (!m.append(kInceptionNames[i], plan_conv_wgrad(c, false, part), part)) return false;
    m.share_tail(part.workspace_bytes);
  }
  return true;
}
