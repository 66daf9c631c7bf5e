// XLA calls of the core: two handlers per entry point of pyinception.h, on host and on CUDA memory.
//
// Compiled on request against the headers of the installed jaxlib (interop/jax_build.py) and linked
// to libpyinception.so; no Python, no header of CUDA. Maps are NHWC. A missing optional array is a
// vector of no elements. On the host filters come in HWIO and are read where they lie, as KRSC with
// strides; in CUDA memory they come in KRSC. Gradients of filters are written KRSC.
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "pyinception.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Window = ffi::Span<const int64_t>;  // stride_h, stride_w, pad_h, pad_w
constexpr int kHost = 1, kCuda = 2;       // devices of DLPack

// An XLA buffer as a DLTensor.
struct Operand {
  DLTensor tensor{};
  std::array<int64_t, 4> shape{}, strides{};
  bool missing = false;

  Operand(const ffi::AnyBuffer& buffer, int device, bool hwio) {
    const auto extents = buffer.dimensions();
    const auto rank = static_cast<int32_t>(extents.size());
    missing = rank == 1 && extents[0] == 0;
    for (int i = 0; i < rank && i < 4; ++i) shape[i] = extents[i];
    const bool bytes = buffer.element_type() == ffi::DataType::U8;
    const DLDataType type = {static_cast<uint8_t>(bytes ? 1 : 2),
                             static_cast<uint8_t>(ffi::ByteWidth(buffer.element_type()) * 8), 1};
    static float nothing[1];  // XLA may give no address to a buffer of no elements
    void* data = buffer.untyped_data() != nullptr ? buffer.untyped_data() : nothing;
    tensor = {data, {device, 0}, rank, type, nullptr, nullptr, 0};
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

  Call(ffi::RemainingArgs args, ffi::RemainingRets rets, int device, std::string_view filters,
       Window window, bool relu, std::string_view algorithm_, std::string_view level_,
       int64_t threads)
      : algorithm(algorithm_), level(level_) {
    for (size_t i = 0; i < args.size(); ++i) {
      const bool hwio = device == kHost && i < filters.size() && filters[i] == 'f';
      inputs.emplace_back(args.get<ffi::AnyBuffer>(i).value(), device, hwio);
    }
    for (size_t i = 0; i < rets.size(); ++i) {
      outputs.emplace_back(*rets.get<ffi::AnyBuffer>(i).value(), device, false);
    }
    for (Operand& operand : inputs) in.push_back(operand.get());
    for (Operand& operand : outputs) out.push_back(operand.get());
    params = {window[0], window[1], window[2], window[3], 0, 0, relu, 0, 0};
    options = {};
    options.algorithm = algorithm.c_str(), options.level = level.c_str();
    options.threads = static_cast<int>(threads);
  }
};

ffi::Error error_of(pyi_status status) {
  if (status == PYI_OK) return ffi::Error::Success();
  const auto code = status == PYI_OUT_OF_MEMORY ? ffi::ErrorCode::kResourceExhausted
                    : status == PYI_UNSUPPORTED ? ffi::ErrorCode::kUnimplemented
                                                : ffi::ErrorCode::kInvalidArgument;
  return ffi::Error(code, pyi_last_error());
}

// On CUDA memory: once for the bytes of workspace, then on XLA's stream with XLA's memory.
template <class Body>
ffi::Error on_cuda(Call& c, void* stream, ffi::ScratchAllocator& scratch, Body body) {
  c.options.stream = stream;
  c.options.workspace_needed = &c.options.workspace_bytes;
  if (const pyi_status status = body(c); status != PYI_OK) return error_of(status);
  c.options.workspace_needed = nullptr;
  if (c.options.workspace_bytes > 0) {
    const auto bytes = static_cast<size_t>(c.options.workspace_bytes);
    const auto workspace = scratch.Allocate(bytes, 16);
    if (!workspace) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                        "no workspace of " + std::to_string(bytes) + " bytes in CUDA memory");
    }
    c.options.workspace = *workspace;
  }
  return error_of(body(c));
}

ffi::Error checked(ffi::RemainingArgs args, ffi::RemainingRets rets, Window window, size_t inputs,
                   size_t outputs) {
  if (args.size() == inputs && rets.size() >= outputs && window.size() == 4)
    return ffi::Error::Success();
  return ffi::Error::InvalidArgument("wrong number of operands");
}

// The handlers pyi_jax_NAME and pyi_jax_cuda_NAME of an expression over `c`, the call. The numbers
// of operands are what jax.py passes.
#define PYI_ATTRIBUTES                     \
  Attr<Window>("window")                   \
      .Attr<bool>("relu")                  \
      .Attr<std::string_view>("algorithm") \
      .Attr<std::string_view>("level")     \
      .Attr<int64_t>("threads")
#define PYI_HANDLERS(NAME, FILTERS, ARGS, RETS, EXPRESSION)                                        \
  pyi_status NAME##_call(Call& c) { return EXPRESSION; }                                           \
  ffi::Error NAME##_host(ffi::RemainingArgs args, ffi::RemainingRets rets, Window window,          \
                         bool relu, std::string_view algorithm, std::string_view level,            \
                         int64_t threads) {                                                        \
    if (ffi::Error error = checked(args, rets, window, ARGS, RETS); error.failure()) return error; \
    Call c(args, rets, kHost, FILTERS, window, relu, algorithm, level, threads);                   \
    return error_of(NAME##_call(c));                                                               \
  }                                                                                                \
  ffi::Error NAME##_cuda(void* stream, ffi::ScratchAllocator scratch, ffi::RemainingArgs args,     \
                         ffi::RemainingRets rets, Window window, bool relu,                        \
                         std::string_view algorithm, std::string_view level, int64_t threads) {    \
    if (ffi::Error error = checked(args, rets, window, ARGS, RETS); error.failure()) return error; \
    Call c(args, rets, kCuda, FILTERS, window, relu, algorithm, level, threads);                   \
    return on_cuda(c, stream, scratch, NAME##_call);                                               \
  }                                                                                                \
  }                                                                                                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(pyi_jax_##NAME, NAME##_host,                                       \
                                ffi::Ffi::Bind().RemainingArgs().RemainingRets().PYI_ATTRIBUTES);  \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(pyi_jax_cuda_##NAME, NAME##_cuda,                                  \
                                ffi::Ffi::Bind()                                                   \
                                    .Ctx<ffi::PlatformStream<void*>>()                             \
                                    .Ctx<ffi::ScratchAllocator>()                                  \
                                    .RemainingArgs()                                               \
                                    .RemainingRets()                                               \
                                    .PYI_ATTRIBUTES);                                              \
  namespace {

// x w b -> y
PYI_HANDLERS(conv_fprop, "mf", 3, 1,
             pyi_conv_fprop(c.in[0], c.in[1], c.in[2], c.out[0], &c.params, &c.options))

// gy w y -> gx
PYI_HANDLERS(conv_dgrad, "mf", 3, 1,
             pyi_conv_dgrad(c.in[0], c.in[1], c.in[2], c.out[0], &c.params, &c.options))

// x gy y -> gw gb
PYI_HANDLERS(conv_wgrad, "", 3, 2,
             pyi_conv_wgrad(c.in[0], c.in[1], c.in[2], c.out[0], c.out[1], &c.params, &c.options))

// x wr br w b -> y [r]
PYI_HANDLERS(reduce_conv_fprop, "mfvf", 5, 1,
             pyi_reduce_conv_fprop(c.in[0], c.in[1], c.in[2], c.in[3], c.in[4], c.out[0],
                                   c.out.size() > 1 ? c.out[1] : nullptr, &c.params, &c.options))

// gy x wr w r y -> gx gwr gbr gw gb
PYI_HANDLERS(reduce_conv_backward, "mmff", 6, 5,
             pyi_reduce_conv_backward(c.in[0], c.in[1], c.in[2], c.in[3], c.in[4], c.in[5],
                                      c.out[0], c.out[1], c.out[2], c.out[3], c.out[4], &c.params,
                                      &c.options))

// x and twelve weights -> y [r3 r5 pooled argmax]
PYI_HANDLERS(inception_fprop, "mfvfvfvfvfvfv", 13, 1,
             pyi_inception_fprop(c.in[0], &c.in[1], c.out[0],
                                 c.out.size() > 4 ? &c.out[1] : nullptr, &c.options))

// gy x, twelve weights, y r3 r5 pooled argmax -> gx and twelve gradients
PYI_HANDLERS(inception_backward, "mmfvfvfvfvfvfv", 19, 13,
             pyi_inception_backward(c.in[0], c.in[1], &c.in[2], c.in[14], &c.in[15], c.out[0],
                                    &c.out[1], &c.options))

}  // namespace
