#include "cuda_call.h"

#include <climits>

#include "cuda_args.h"

namespace pyi {
namespace {

int narrow(const Call& call, int64_t value) {
  if (value < INT_MIN || value > INT_MAX) {
    fail(PYI_UNSUPPORTED, call.check.function(),
         ": an extent or a stride is beyond 32 bits, which the CUDA kernels do not take");
  }
  return static_cast<int>(value);
}

CudaStrides strides(const Call& call, const Map& m) {
  return {narrow(call, m.n), narrow(call, m.h), narrow(call, m.w)};
}

const float* dense(const Call& call, const Filter& w, const char* name) {
  if (w.packed) {
    fail(PYI_INVALID_VALUE, call.check.function(), ": ", name,
         " is packed, expected (K, R, S, C) in CUDA memory");
  }
  const int64_t want[4] = {w.R * w.S * w.C, w.S * w.C, w.C, 1};
  const int64_t extents[4] = {w.K, w.R, w.S, w.C}, actual[4] = {w.k, w.r, w.s, w.c};
  for (int i = 0; i < 4; ++i) {
    if (extents[i] > 1 && actual[i] != want[i]) {
      fail(PYI_INVALID_VALUE, call.check.function(), ": ", name, " has strides ",
           shape_text(actual, 4), ", expected ", shape_text(want, 4), " in CUDA memory");
    }
  }
  return w.data;
}

template <class Record>
void fill_map(const Call& call, Record& a, const Map& x) {
  a.N = narrow(call, x.N), a.H = narrow(call, x.H), a.W = narrow(call, x.W);
  a.C = narrow(call, x.C);
}

template <class Record>
void fill_window(const Call& call, Record& a, const Filter& w, const Geometry& g) {
  a.R = narrow(call, w.R), a.S = narrow(call, w.S);
  a.stride_h = narrow(call, g.stride_h), a.stride_w = narrow(call, g.stride_w);
  a.pad_h = narrow(call, g.pad_h), a.pad_w = narrow(call, g.pad_w);
}

void raise(pyi_status status) {
  if (status != PYI_OK) throw Error{status, pyi_last_error()};
}

// `sized`: the plan has a workspace, whose bytes its dry run tells.
template <class Record>
void run(const Call& call, const std::string& plan, Record& a, bool sized) {
  const pyi_options& o = call.options;
  const char* f = call.check.function();
  if (o.launches != nullptr) {
    fail(PYI_UNSUPPORTED, f, ": arrays in CUDA memory cannot be recorded, capture the stream");
  }
  if (!call.automatic && (call.plain || call.winograd)) {
    fail(PYI_UNSUPPORTED, f, ": algorithm is '", o.algorithm,
         "', expected auto or direct for arrays in CUDA memory");
  }
  int64_t bytes = 0;
  if (sized) {
    const auto nothing = [](void*, const pyi_cuda_launch*) {};
    raise(pyi_cuda_plan((plan + "_size").c_str(), &a, sizeof a, nothing, nullptr, &bytes));
  }
  if (o.workspace_needed != nullptr) {
    *o.workspace_needed = bytes;
    return;
  }
  if (bytes > 0 && (o.workspace == nullptr || o.workspace_bytes < bytes)) {
    fail(PYI_INVALID_VALUE, f, ": workspace has ", o.workspace ? o.workspace_bytes : 0,
         " bytes, expected ", bytes, " in CUDA memory");
  }
  if (bytes > 0) a.workspace = static_cast<float*>(o.workspace), a.workspace_bytes = bytes;
  raise(pyi_cuda_run(plan.c_str(), &a, sizeof a, o.stream));
}

}  // namespace

void cuda_conv_fprop(Call& call, const Map& x, const Filter& w, const float* b, const Map& y,
                     const Geometry& g, bool relu) {
  ConvCudaArgs a{};
  fill_map(call, a, x), fill_window(call, a, w, g);
  a.x = x.data, a.x_strides = strides(call, x), a.panel_count = 1;
  ConvCudaPanel& panel = a.panels[0];
  panel.w = dense(call, w, "w"), panel.b = b, panel.K = narrow(call, w.K), panel.relu = relu;
  panel.y = y.data, panel.y_strides = strides(call, y);
  run(call, "conv_fprop", a, false);
}

void cuda_conv_dgrad(Call& call, const Map& gy, const Filter& w, const Map& mask, const Map& gx,
                     const Geometry& g, bool accumulate) {
  ConvCudaArgs a{};
  fill_map(call, a, gx), fill_window(call, a, w, g);
  a.gx = gx.data, a.gx_strides = strides(call, gx), a.panel_count = 1, a.accumulate = accumulate;
  ConvCudaPanel& panel = a.panels[0];
  panel.w = dense(call, w, "w"), panel.K = narrow(call, w.K);
  panel.gy = gy.data, panel.gy_strides = strides(call, gy);
  panel.y = mask.data, panel.y_strides = strides(call, mask);
  run(call, "conv_dgrad", a, false);
}

void cuda_conv_wgrad(Call& call, const Map& x, const Map& gy, const Map& mask, const Filter& gw,
                     float* gb, const Geometry& g) {
  ConvCudaArgs a{};
  fill_map(call, a, x), fill_window(call, a, gw, g);
  a.x = x.data, a.x_strides = strides(call, x), a.gw = gw.data, a.gb = gb, a.panel_count = 1;
  ConvCudaPanel& panel = a.panels[0];
  panel.K = narrow(call, gw.K), panel.gy = gy.data, panel.gy_strides = strides(call, gy);
  panel.y = mask.data, panel.y_strides = strides(call, mask);
  run(call, "conv_wgrad", a, true);
}

void cuda_reduce_conv(Call& call, bool backward, const BranchOperands& o, const Geometry& g,
                      bool accumulate) {
  ReduceConvCudaArgs a{};
  int32_t multiprocessors = 0;
  raise(pyi_cuda_device(&a.shared_limit, &multiprocessors));
  fill_map(call, a, o.x), fill_window(call, a, o.w, g);
  a.Cr = narrow(call, o.wr.K), a.K = narrow(call, o.w.K), a.accumulate = accumulate;
  a.x = o.x.data, a.x_strides = strides(call, o.x);
  a.wr = dense(call, o.wr, "wr"), a.br = o.br, a.w = dense(call, o.w, "w"), a.b = o.b;
  a.y = o.y.data, a.y_strides = strides(call, o.y);
  a.r = o.r.data, a.r_strides = strides(call, o.r);
  a.gy = o.gy.data, a.gy_strides = strides(call, o.gy);
  a.gx = o.gx.data, a.gx_strides = strides(call, o.gx);
  a.gwr = o.gwr, a.gbr = o.gbr, a.gw = o.gw, a.gb = o.gb;
  run(call, backward ? "reduce_conv_backward" : "reduce_conv_fprop", a, backward);
}

void cuda_inception(Call& call, bool backward, const ModuleOperands& o) {
  InceptionCudaArgs a{};
  raise(pyi_cuda_device(&a.shared_limit, &a.multiprocessors));
  fill_map(call, a, o.x);
  const char* names[6] = {"w1", "wr3", "w3", "wr5", "w5", "wp"};
  for (int i = 0; i < 6; ++i) {
    a.K[i] = narrow(call, o.w[i].K), a.w[i] = dense(call, o.w[i], names[i]), a.b[i] = o.b[i];
    a.gw[i] = o.gw[i], a.gb[i] = o.gb[i];
  }
  a.filter = narrow(call, o.w[4].R), a.argmax = o.argmax;
  a.x = o.x.data, a.x_strides = strides(call, o.x);
  a.y = o.y.data, a.y_strides = strides(call, o.y);
  a.r3 = o.r3.data, a.r3_strides = strides(call, o.r3);
  a.r5 = o.r5.data, a.r5_strides = strides(call, o.r5);
  a.pooled = o.pooled.data, a.pooled_strides = strides(call, o.pooled);
  a.gy = o.gy.data, a.gy_strides = strides(call, o.gy);
  a.gx = o.gx.data, a.gx_strides = strides(call, o.gx);
  run(call, backward ? "inception_backward" : "inception_fprop", a, true);
}

}  // namespace pyi
