// The launches of the CUDA kernels as data, for whoever executes them without CUDA.
#include "core.h"
#include "cuda/reduce_conv_plan.h"

namespace {

constexpr const char* kEntryNames[kEntryCount] = {"reduce_conv_fprop_wide",
                                                  "reduce_conv_fprop_narrow",
                                                  "reduce_conv_dgrad_wide",
                                                  "reduce_conv_dgrad_narrow",
                                                  "conv_wgrad_wide",
                                                  "conv_wgrad_narrow",
                                                  "sum_chunks"};

int64_t record_bytes(int entry) {
  if (entry == kSumChunks) return sizeof(SumChunksCudaArgs);
  if (entry == kWgradWide || entry == kWgradNarrow) return sizeof(ConvWgradCudaArgs);
  return sizeof(ReduceConvCudaArgs);
}

}  // namespace

extern "C" pyi_status pyi_cuda_plan_reduce_conv(const void* args, int64_t args_bytes, int direction,
                                                pyi_cuda_visitor visit, void* context,
                                                int64_t* workspace_bytes) {
  return pyi::guarded([&] {
    const char* f = "cuda_plan_reduce_conv";
    if (args_bytes != sizeof(ReduceConvCudaArgs))
      pyi::fail(PYI_INVALID_VALUE, f, ": args has ", args_bytes, " bytes, expected ",
                sizeof(ReduceConvCudaArgs));
    if (direction < 0 || direction > 2)
      pyi::fail(PYI_INVALID_VALUE, f, ": direction is ", direction, ", expected 0, 1 or 2");
    ReduceConvCudaArgs asked;
    std::memcpy(&asked, args, sizeof asked);
    ReduceConvPlan plan;
    const int status = direction == PYI_CUDA_FPROP
                           ? plan_reduce_conv_fprop(asked, plan)
                           : plan_reduce_conv_backward(asked, direction == PYI_CUDA_SIZE, plan);
    if (status) pyi::fail(PYI_UNSUPPORTED, f, ": ", cuda_status_text(status));
    *workspace_bytes = plan.workspace_bytes;
    for (int i = 0; direction != PYI_CUDA_SIZE && i < plan.count; i++) {
      const CudaLaunch& l = plan.launches[i];
      const pyi_cuda_launch launch = {
          kEntryNames[l.entry], {l.grid_x, l.grid_y, l.grid_z}, l.block, l.shared_bytes, l.params,
          record_bytes(l.entry)};
      visit(context, &launch);
    }
  });
}
