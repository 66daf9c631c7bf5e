// Runs a plan's launches on a stream. Included by the .cu files after their entries; nvcc only.
#pragma once
#include "mma_plan.h"

#define PYI_MMA_ADDRESS(NAME) (const void*)NAME,

constexpr int kMmaDeclined = -1;

// 0, kMmaDeclined with the reason in `reason` (192 bytes, or null), or a cudaError_t. Nothing is
// allocated and nothing waited for; declined, nothing was launched.
template <class Args>
int launch_mma(const MmaPlan<Args>& plan, const void* const* entries, void* stream, char* reason) {
  if (reason)
    for (int i = 0; i < (int)sizeof plan.reason.text; i++) reason[i] = plan.reason.text[i];
  if (plan.reason) return kMmaDeclined;
  for (int i = 0; i < plan.count; i++) {
    const MmaLaunch& launch = plan.launches[i];
    const void* entry = entries[launch.entry];
    cudaError_t error = cudaSuccess;
    if (launch.shared_bytes > 48 * 1024)  // more than 48 KB must be asked for
      error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)launch.shared_bytes);
    void* params[] = {const_cast<void*>(launch.params)};
    if (error == cudaSuccess)
      error =
          cudaLaunchKernel(entry, dim3(launch.grid_x, launch.grid_y, launch.grid_z),
                           dim3(launch.block), params, launch.shared_bytes, (cudaStream_t)stream);
    if (error != cudaSuccess) return (int)error;
  }
  return 0;
}

// The plan's copy of a tile is the kernels' tile.
template <class T, int kShape>
constexpr bool is_shape() {
  return kMmaShapes[kShape].rows == T::kRows && kMmaShapes[kShape].columns == T::kColumns &&
         kMmaShapes[kShape].warps_n == T::kWarpsN && kMmaShapes[kShape].threads == T::kThreads &&
         kMmaShapes[kShape].ring_bytes() == T::kRing;
}
