// XLA calls of the core: one handler per entry point of pyinception.h, maps NHWC, filters HWIO.
//
// Compiled on request against the headers of the installed jaxlib (interop/jax_build.py) and linked
// to libpyinception.so; no Python. A missing optional array is a vector of no elements. Filters are
// read where they lie, as KRSC with strides; gradients of filters are written KRSC. The ops of
// CUDA memory take contiguous KRSC filters; they are compiled where cuda.h is and have not run yet.
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "pyinception.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Window = ffi::Span<const int64_t>;  // stride_h, stride_w, pad_h, pad_w

// An XLA buffer as a DLTensor.
struct Operand {
  DLTensor tensor{};
  std::array<int64_t, 4> shape{}, strides{};
  bool missing = false;

  Operand(const ffi::AnyBuffer& buffer, bool hwio) {
    const auto extents = buffer.dimensions();
    const auto rank = static_cast<int32_t>(extents.size());
    missing = rank == 1 && extents[0] == 0;
    for (int i = 0; i < rank && i < 4; ++i) shape[i] = extents[i];
    const bool bytes = buffer.element_type() == ffi::DataType::U8;
    const DLDataType type = {static_cast<uint8_t>(bytes ? 1 : 2),
                             static_cast<uint8_t>(ffi::ByteWidth(buffer.element_type()) * 8), 1};
    static float nothing[1];  // XLA may give no address to a buffer of no elements
    void* data = buffer.untyped_data() != nullptr ? buffer.untyped_data() : nothing;
    tensor = {data, {1, 0}, rank, type, nullptr, nullptr, 0};
    if (hwio && rank == 4) {
      const auto [r, s, c, k] = shape;
      shape = {k, r, s, c};
      strides = {1, s * c * k, c * k, k};
    }
    strided = hwio && rank == 4;
  }
  // Addresses inside this object, so they are taken when it has come to rest.
  const DLTensor* get() {
    tensor.shape = shape.data();
    tensor.strides = strided ? strides.data() : nullptr;
    return missing ? nullptr : &tensor;
  }

 private:
  bool strided = false;
};

// The operands of one XLA call. `filters` has an 'f' where an argument is a filter in HWIO.
struct Call {
  std::vector<Operand> inputs, outputs;
  std::vector<const DLTensor*> in, out;
  std::string algorithm, level;
  pyi_conv_params params;
  pyi_options options;

  Call(ffi::RemainingArgs args, ffi::RemainingRets rets, std::string_view filters, Window window,
       bool relu, std::string_view algorithm_, std::string_view level_, int64_t threads)
      : algorithm(algorithm_), level(level_) {
    for (size_t i = 0; i < args.size(); ++i) {
      const bool hwio = i < filters.size() && filters[i] == 'f';
      inputs.emplace_back(args.get<ffi::AnyBuffer>(i).value(), hwio);
    }
    for (size_t i = 0; i < rets.size(); ++i) {
      outputs.emplace_back(*rets.get<ffi::AnyBuffer>(i).value(), false);
    }
    for (Operand& operand : inputs) in.push_back(operand.get());
    for (Operand& operand : outputs) out.push_back(operand.get());
    params = {window[0], window[1], window[2], window[3], 0, 0, relu, 0, 0};
    options = {algorithm.c_str(), level.c_str(), static_cast<int>(threads), nullptr, nullptr};
  }
};

ffi::Error error_of(pyi_status status) {
  if (status == PYI_OK) return ffi::Error::Success();
  const auto code = status == PYI_OUT_OF_MEMORY ? ffi::ErrorCode::kResourceExhausted
                    : status == PYI_UNSUPPORTED ? ffi::ErrorCode::kUnimplemented
                                                : ffi::ErrorCode::kInvalidArgument;
  return ffi::Error(code, pyi_last_error());
}

// A handler from an expression over `c`, the call. The numbers of operands are what jax.py passes.
#define PYI_HANDLER(SYMBOL, FILTERS, ARGS, RETS, EXPRESSION)                                \
  ffi::Error SYMBOL##_body(ffi::RemainingArgs args, ffi::RemainingRets rets, Window window, \
                           bool relu, std::string_view algorithm, std::string_view level,   \
                           int64_t threads) {                                               \
    if (args.size() != (ARGS) || rets.size() < (RETS) || window.size() != 4)                \
      return ffi::Error::InvalidArgument(#SYMBOL ": wrong number of operands");             \
    Call c(args, rets, FILTERS, window, relu, algorithm, level, threads);                   \
    return error_of(EXPRESSION);                                                            \
  }                                                                                         \
  }                                                                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(SYMBOL, SYMBOL##_body,                                      \
                                ffi::Ffi::Bind()                                            \
                                    .RemainingArgs()                                        \
                                    .RemainingRets()                                        \
                                    .Attr<Window>("window")                                 \
                                    .Attr<bool>("relu")                                     \
                                    .Attr<std::string_view>("algorithm")                    \
                                    .Attr<std::string_view>("level")                        \
                                    .Attr<int64_t>("threads"));                             \
  namespace {

// x w b -> y
PYI_HANDLER(pyi_jax_conv_fprop, "mf", 3, 1,
            pyi_conv_fprop(c.in[0], c.in[1], c.in[2], c.out[0], &c.params, &c.options))

// gy w y -> gx
PYI_HANDLER(pyi_jax_conv_dgrad, "mf", 3, 1,
            pyi_conv_dgrad(c.in[0], c.in[1], c.in[2], c.out[0], &c.params, &c.options))

// x gy y -> gw gb
PYI_HANDLER(pyi_jax_conv_wgrad, "", 3, 2,
            pyi_conv_wgrad(c.in[0], c.in[1], c.in[2], c.out[0], c.out[1], &c.params, &c.options))

// x wr br w b -> y [r]
PYI_HANDLER(pyi_jax_reduce_conv_fprop, "mfvf", 5, 1,
            pyi_reduce_conv_fprop(c.in[0], c.in[1], c.in[2], c.in[3], c.in[4], c.out[0],
                                  c.out.size() > 1 ? c.out[1] : nullptr, &c.params, &c.options))

// gy x wr w r y -> gx gwr gbr gw gb
PYI_HANDLER(pyi_jax_reduce_conv_backward, "mmff", 6, 5,
            pyi_reduce_conv_backward(c.in[0], c.in[1], c.in[2], c.in[3], c.in[4], c.in[5], c.out[0],
                                     c.out[1], c.out[2], c.out[3], c.out[4], &c.params, &c.options))

// x and twelve weights -> y [r3 r5 pooled argmax]
PYI_HANDLER(pyi_jax_inception_fprop, "mfvfvfvfvfvfv", 13, 1,
            pyi_inception_fprop(c.in[0], &c.in[1], c.out[0], c.out.size() > 4 ? &c.out[1] : nullptr,
                                &c.options))

// gy x, twelve weights, y r3 r5 pooled argmax -> gx and twelve gradients
PYI_HANDLER(pyi_jax_inception_backward, "mmfvfvfvfvfvfv", 19, 13,
            pyi_inception_backward(c.in[0], c.in[1], &c.in[2], c.in[14], &c.in[15], c.out[0],
                                   &c.out[1], &c.options))

}  // namespace

// ---- CUDA memory -------------------------------------------------------------------------------
#ifdef PYI_JAX_CUDA
#include <cuda.h>

#include "cuda_args.h"

namespace {

using Buffer = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Buffer>;

int extent(int64_t value) { return static_cast<int>(value); }

CudaStrides dense(const Buffer& map) {
  const auto d = map.dimensions();
  return {extent(d[1] * d[2] * d[3]), extent(d[2] * d[3]), extent(d[3])};
}

const float* optional(const Buffer& vector) {
  return vector.element_count() == 0 ? nullptr : vector.typed_data();
}

// What forward and backward share: x (N,H,W,C)  wr (Cr,1,1,C)  w (K,R,S,Cr), all contiguous.
ReduceConvCudaArgs cuda_args(const Buffer& x, const Buffer& wr, const Buffer& w, Window window) {
  ReduceConvCudaArgs a{};
  const auto map = x.dimensions(), first = wr.dimensions(), last = w.dimensions();
  a.x = x.typed_data(), a.wr = wr.typed_data(), a.w = w.typed_data();
  a.N = extent(map[0]), a.H = extent(map[1]), a.W = extent(map[2]), a.C = extent(map[3]);
  a.Cr = extent(first[0]), a.K = extent(last[0]), a.R = extent(last[1]), a.S = extent(last[2]);
  a.stride_h = extent(window[0]), a.stride_w = extent(window[1]);
  a.pad_h = extent(window[2]), a.pad_w = extent(window[3]);
  a.x_strides = dense(x);
  int32_t multiprocessors = 0;
  pyi_cuda_device(&a.shared_limit, &multiprocessors);  // where it fails, the run says why
  return a;
}

ffi::Error run_plan(const char* plan, const ReduceConvCudaArgs& a, CUstream stream) {
  if (pyi_cuda_run(plan, &a, sizeof a, stream) == PYI_OK) return ffi::Error::Success();
  return ffi::Error::InvalidArgument(pyi_last_error());
}

ffi::Error cuda_fprop(CUstream stream, Buffer x, Buffer wr, Buffer br, Buffer w, Buffer b, Result y,
                      ffi::RemainingRets rest, Window window) {
  ReduceConvCudaArgs a = cuda_args(x, wr, w, window);
  a.br = optional(br), a.b = optional(b);
  a.y = y->typed_data(), a.y_strides = dense(*y);
  if (rest.size() > 0) {
    Result r = rest.get<Buffer>(0).value();
    a.r = r->typed_data(), a.r_strides = dense(*r);
  }
  return run_plan("reduce_conv_fprop", a, stream);
}

ffi::Error cuda_backward(CUstream stream, ffi::ScratchAllocator scratch, Buffer gy, Buffer x,
                         Buffer wr, Buffer w, Buffer r, Buffer y, Result gx, Result gwr, Result gbr,
                         Result gw, Result gb, Window window) {
  ReduceConvCudaArgs a = cuda_args(x, wr, w, window);
  a.y = y.typed_data(), a.y_strides = dense(y);
  a.r = r.typed_data(), a.r_strides = dense(r);
  a.gy = gy.typed_data(), a.gy_strides = dense(gy);
  a.gx = gx->typed_data(), a.gx_strides = dense(*gx);
  a.gwr = gwr->typed_data(), a.gbr = gbr->typed_data();
  a.gw = gw->typed_data(), a.gb = gb->typed_data();
  int64_t bytes = 0;
  const auto ignore = [](void*, const pyi_cuda_launch*) {};
  if (pyi_cuda_plan("reduce_conv_backward_size", &a, sizeof a, ignore, nullptr, &bytes) != PYI_OK)
    return ffi::Error::InvalidArgument(pyi_last_error());
  const auto workspace = scratch.Allocate(static_cast<size_t>(bytes), 16);
  if (!workspace) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "reduce_conv on CUDA: no workspace of " + std::to_string(bytes) + " bytes");
  }
  a.workspace = static_cast<float*>(*workspace), a.workspace_bytes = bytes;
  return run_plan("reduce_conv_backward", a, stream);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(pyi_jax_cuda_reduce_conv_fprop, cuda_fprop,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<CUstream>>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .RemainingRets()
                                  .Attr<Window>("window"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(pyi_jax_cuda_reduce_conv_backward, cuda_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<CUstream>>()
                                  .Ctx<ffi::ScratchAllocator>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<Window>("window"));
#endif
