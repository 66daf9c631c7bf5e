// Runs a plan's launches on a stream: the only place that calls the CUDA runtime. Not for NVRTC.
#pragma once
#include "launch.h"

#define PYI_POINTER(NAME) (const void*)NAME
#define PYI_STORED_POINTERS(NAME) \
  PYI_POINTER(NAME##_f32), PYI_POINTER(NAME##_bf16), PYI_POINTER(NAME##_f16)

// 0 or a cudaError_t. Allocates nothing and waits for nothing.
inline int run_launches(const CudaLaunch* launches, int count, const void* const* entries,
                        void* stream) {
  for (int i = 0; i < count; i++) {
    const CudaLaunch& launch = launches[i];
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
  return kCudaOk;
}
