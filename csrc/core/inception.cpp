// GoogLeNet's module, forward and backward, as a list of launches.
//
//     y = [ relu(x*w1) | relu(r3*w3) | relu(r5*w5) | relu(pool(x)*wp) ],  r = relu(x*wr)
//
// Concatenation is an address: every branch writes its own channels of y. The three 1x1s that read
// x are one convolution with panels in three maps; the pool runs beside it. The batch goes through
// in groups of images whose intermediate maps stay in cache. Backward: gx is the pool's gather plus
// one convolution over three sources, [gy1 | gr3 | gr5] x [w1; wr3; wr5], so each pixel is summed
// in registers; the filter gradients come last, side by side.
#include <algorithm>

#include "cuda_call.h"
#include "pool.h"

namespace pyi {
namespace {

constexpr int64_t kGroupBytes = 2 << 20;  // intermediate maps of a group of images: in L2 and L3
constexpr const char* kFilterNames[6] = {"w1", "wr3", "w3", "wr5", "w5", "wp"};
constexpr const char* kBiasNames[6] = {"b1", "br3", "b3", "br5", "b5", "bp"};
enum Index { k1x1, kReduce3, k3x3, kReduce5, k5x5, kPool };  // order of filters

struct Weights {
  Filter w[6];
  const float* b[6] = {};
  const float* packed[6] = {};
  int64_t offset[6] = {};  // first channel of the branch in y
};

constexpr int64_t kKernel[6] = {1, 1, 3, 1, 5, 1};

// The third branch may have 3x3 in place of 5x5, as some published weights do. A packed filter says
// by its size which it is.
int64_t third_kernel(const Level& level, const Filter& w, int64_t K, int64_t C) {
  Filter small = w;
  small.R = small.S = 3;
  const bool three = w.K == packed_elements(level, small, K, C, false) ||
                     w.K == packed_elements(level, small, K, C, true);
  return three ? 3 : 5;
}

// Filters, packed or not, and biases. A packed filter has no extents of its own: its bias tells K.
Weights check_weights(Call& call, const DLTensor* const weights[12], int64_t C, bool biases) {
  Check& check = call.check;
  Weights m;
  for (int i = 0; i < 6; ++i) {
    Filter w = check.filter(weights[2 * i], kFilterNames[i], kKernel[i], kKernel[i]);
    const int64_t inputs = i == k3x3 ? m.w[kReduce3].K : i == k5x5 ? m.w[kReduce5].K : C;
    if (w.packed) {
      const DLTensor* b = biases ? weights[2 * i + 1] : nullptr;
      if (b == nullptr || b->ndim != 1) {
        fail(PYI_UNSUPPORTED, check.function(), ": ", kFilterNames[i],
             " is packed, expected (K, R, S, C) where no bias tells K");
      }
      if (i == k5x5) w.R = w.S = third_kernel(call.level, w, b->shape[0], inputs);
      w = checked(check, w, call.level, b->shape[0], inputs, kFilterNames[i]);
    }
    const int64_t kernel = i == k5x5 && w.R == 3 ? 3 : kKernel[i];
    if (w.R != kernel || w.S != kernel || w.C != inputs) {
      int64_t actual[4] = {w.K, w.R, w.S, w.C}, want[4] = {w.K, kernel, kernel, inputs};
      fail(PYI_INVALID_VALUE, check.function(), ": ", kFilterNames[i], " has shape ",
           shape_text(actual, 4), ", expected (K, R, S, C) = ", shape_text(want, 4));
    }
    m.w[i] = w;
    if (biases) m.b[i] = check.vector(weights[2 * i + 1], kBiasNames[i], w.K);
  }
  m.offset[k3x3] = m.w[k1x1].K;
  m.offset[k5x5] = m.offset[k3x3] + m.w[k3x3].K;
  m.offset[kPool] = m.offset[k5x5] + m.w[k5x5].K;
  return m;
}

int64_t output_channels(const Weights& m) { return m.offset[kPool] + m.w[kPool].K; }

constexpr Geometry pad(int64_t p) { return {1, 1, p, p}; }

void pack_all(Call& call, Weights& m, bool dgrad) {
  if (call.plain) return;
  for (int i : {k3x3, k5x5}) {
    m.w[i].winograd = choose_winograd(call, m.w[i], pad(m.w[i].R / 2));
  }
  for (int i = 0; i < 6; ++i) m.packed[i] = packed(call, m.w[i], dgrad);
}

// The maps that a forward leaves for its backward.
struct Saved {
  Map r3, r5, pooled;
  uint8_t* argmax = nullptr;
};

Saved check_saved(Check& check, const DLTensor* const saved[4], const Map& x, const Weights& m,
                  bool output) {
  Saved s;
  s.r3 = check.map(saved[0], "r3", output);
  check.extents("r3", s.r3, x.N, x.H, x.W, m.w[kReduce3].K, "(N, H, W, Cr3)");
  s.r5 = check.map(saved[1], "r5", output);
  check.extents("r5", s.r5, x.N, x.H, x.W, m.w[kReduce5].K, "(N, H, W, Cr5)");
  s.pooled = check.map(saved[2], "pooled", output);
  check.extents("pooled", s.pooled, x.N, x.H, x.W, x.C, "(N, H, W, C)");
  s.argmax = check.bytes(saved[3], "argmax", x, output);
  if (s.argmax == nullptr) fail(PYI_INVALID_TYPE, check.function(), ": argmax is missing");
  return s;
}

// The module in CUDA memory; with gy its backward.
void on_cuda(Call& call, const Map& x, const Weights& m, const Map& y, const Saved& s,
             const Map* gy = nullptr, const Map* gx = nullptr, float** gw = nullptr,
             float** gb = nullptr) {
  ModuleOperands o;
  o.x = x, o.y = y, o.r3 = s.r3, o.r5 = s.r5, o.pooled = s.pooled, o.argmax = s.argmax;
  for (int i = 0; i < 6; ++i) {
    o.w[i] = m.w[i], o.b[i] = m.b[i];
    if (gy != nullptr) o.gw[i] = gw[i], o.gb[i] = gb[i];
  }
  if (gy != nullptr) o.gy = *gy, o.gx = *gx;
  cuda_inception(call, gy != nullptr, o);
}

int64_t group_size(const Call& call, const Map& x, const Weights& m) {
  int64_t bytes = x.H * x.W * (m.w[kReduce3].K + m.w[kReduce5].K + x.C) * 4;
  return std::clamp<int64_t>(kGroupBytes / bytes, std::min<int64_t>(call.threads, x.N), x.N);
}

void add_forward(Call& call, const Map& x, const Weights& m, const Map& y, const Saved& s) {
  const Map y1 = slice(y, 0, m.w[k1x1].K);
  if (call.plain) {
    add_fprop(call, x, m.w[k1x1], nullptr, m.b[k1x1], y1, {}, true);
    add_fprop(call, x, m.w[kReduce3], nullptr, m.b[kReduce3], s.r3, {}, true);
    add_fprop(call, x, m.w[kReduce5], nullptr, m.b[kReduce5], s.r5, {}, true);
  } else {
    add_conv(call, {{x, {}, m.packed[k1x1], 1, 1, {}}},
             {{y1, m.b[k1x1], m.packed[k1x1]},
              {s.r3, m.b[kReduce3], m.packed[kReduce3]},
              {s.r5, m.b[kReduce5], m.packed[kReduce5]}},
             true, false);
  }
  add_max_pool(call, x, s.pooled, s.argmax, 3, 3, pad(1));
  call.list.barrier();
  const Map* inputs[6] = {nullptr, nullptr, &s.r3, nullptr, &s.r5, &s.pooled};
  for (int i : {k3x3, k5x5, kPool}) {
    add_fprop(call, *inputs[i], m.w[i], m.packed[i], m.b[i], slice(y, m.offset[i], m.w[i].K),
              pad(m.w[i].R / 2), true);
  }
  call.list.barrier();
}

}  // namespace
}  // namespace pyi

using namespace pyi;

extern "C" {

pyi_status pyi_inception_fprop(const DLTensor* x_, const DLTensor* const weights[12],
                               const DLTensor* y_, const DLTensor* const saved[4],
                               const pyi_options* options) {
  return entry("inception_fprop", options, [&](Call& call) {
    call.check.allow_cuda();
    call.check.allow_bfloat16();
    Map x = call.check.map(x_, "x");
    Weights m = check_weights(call, weights, x.C, true);
    Map y = call.check.map(y_, "y", true);
    call.check.extents("y", y, x.N, x.H, x.W, output_channels(m), "(N, H, W, K1 + K3 + K5 + Kp)");
    Saved s;
    if (saved != nullptr) s = check_saved(call.check, saved, x, m, true);
    call.check.disjoint();
    if (x.empty()) return;
    if (call.check.on_cuda()) return on_cuda(call, x, m, y, s);
    pack_all(call, m, false);
    call.list.barrier();
    const int64_t group = group_size(call, x, m);
    if (saved == nullptr) {
      s.r3 = new_map(call, group, x.H, x.W, m.w[kReduce3].K, x.size);
      s.r5 = new_map(call, group, x.H, x.W, m.w[kReduce5].K, x.size);
      s.pooled = new_map(call, group, x.H, x.W, x.C, x.size);
    }
    for (int64_t n = 0; n < x.N; n += group) {
      const int64_t count = std::min(group, x.N - n), at = saved == nullptr ? 0 : n;
      Saved part = {images(s.r3, at, count), images(s.r5, at, count), images(s.pooled, at, count),
                    s.argmax ? s.argmax + n * x.H * x.W * x.C : nullptr};
      add_forward(call, images(x, n, count), m, images(y, n, count), part);
    }
  });
}

pyi_status pyi_inception_backward(const DLTensor* gy_, const DLTensor* x_,
                                  const DLTensor* const weights[12], const DLTensor* y_,
                                  const DLTensor* const saved[4], const DLTensor* gx_,
                                  const DLTensor* const grads[12], const pyi_options* options) {
  return entry("inception_backward", options, [&](Call& call) {
    call.check.allow_cuda();
    Map gy = call.check.map(gy_, "gy"), x = call.check.map(x_, "x");
    Weights m = check_weights(call, weights, x.C, false);
    Map y = call.check.map(y_, "y"), gx;
    const int64_t K = output_channels(m);
    call.check.extents("y", y, x.N, x.H, x.W, K, "(N, H, W, K1 + K3 + K5 + Kp)");
    call.check.extents("gy", gy, x.N, x.H, x.W, K, "(N, H, W, K1 + K3 + K5 + Kp)");
    Saved s = check_saved(call.check, saved, x, m, false);
    if (gx_ != nullptr) {
      gx = call.check.map(gx_, "gx", true);
      call.check.extents("gx", gx, x.N, x.H, x.W, x.C, "(N, H, W, C)");
    }
    float *gw[6], *gb[6];
    for (int i = 0; i < 6; ++i) {
      const Filter& w = m.w[i];
      gw[i] = call.check.contiguous(grads[2 * i], kFilterNames[i], {w.K, w.R, w.S, w.C});
      gb[i] = call.check.vector(grads[2 * i + 1], kBiasNames[i], w.K, true);
    }
    call.check.disjoint();
    if (call.check.on_cuda()) return on_cuda(call, x, m, y, s, &gy, &gx, gw, gb);

    // Each branch's gradient and output, the mask of its ReLU, are channel slices.
    Map g[6], mask[6];
    for (int i : {k1x1, k3x3, k5x5, kPool}) {
      g[i] = slice(gy, m.offset[i], m.w[i].K);
      mask[i] = slice(y, m.offset[i], m.w[i].K);
    }
    g[kReduce3] = new_map(call, x.N, x.H, x.W, m.w[kReduce3].K);
    g[kReduce5] = new_map(call, x.N, x.H, x.W, m.w[kReduce5].K);
    mask[kReduce3] = s.r3, mask[kReduce5] = s.r5;

    if (!x.empty()) {
      pack_all(call, m, true);
      call.list.barrier();
      const int64_t group = group_size(call, x, m);
      Map pool = gx_ ? new_map(call, group, x.H, x.W, x.C) : Map{};
      for (int64_t n = 0; n < x.N; n += group) {
        const int64_t count = std::min(group, x.N - n);
        auto dgrad = [&](Index i, const Map& to, bool accumulate) {
          add_dgrad(call, images(g[i], n, count), m.w[i], m.packed[i], images(mask[i], n, count),
                    to, pad(m.w[i].R / 2), accumulate);
        };
        dgrad(k3x3, images(g[kReduce3], n, count), false);
        dgrad(k5x5, images(g[kReduce5], n, count), false);
        if (gx_ != nullptr) {
          const Map to = images(gx, n, count), from_pool = images(pool, 0, count);
          dgrad(kPool, from_pool, false);
          call.list.barrier();
          add_max_pool_dgrad(call, from_pool, s.argmax + n * x.H * x.W * x.C, to, 3, 3, pad(1));
          call.list.barrier();
          if (call.plain) {
            for (Index i : {k1x1, kReduce3, kReduce5}) {
              dgrad(i, to, true);
              call.list.barrier();
            }
          } else {
            std::vector<ConvSource> sources;
            for (Index i : {k1x1, kReduce3, kReduce5}) {
              sources.push_back(
                  {images(g[i], n, count), images(mask[i], n, count), m.packed[i], 1, 1, {}});
            }
            add_conv(call, sources, {{to, nullptr, nullptr}}, false, true);
          }
        }
        call.list.barrier();
      }
    }
    auto wgrad = [&](Index i, const Map& from) {
      add_wgrad(call, from, g[i], mask[i], gw[i], gb[i], m.w[i].R, m.w[i].S, pad(m.w[i].R / 2),
                m.w[i].winograd);
    };
    wgrad(k3x3, s.r3);
    if (call.plain) {
      for (Index i : {k1x1, kReduce3, kReduce5}) wgrad(i, x);
    } else {
      std::vector<PointwiseGradient> siblings;
      for (Index i : {k1x1, kReduce3, kReduce5}) {
        siblings.push_back({g[i], mask[i], gw[i], gb[i]});
      }
      add_pointwise_wgrad(call, x, siblings);
    }
    wgrad(k5x5, s.r5);
    wgrad(kPool, s.pooled);
  });
}

}  // extern "C"
