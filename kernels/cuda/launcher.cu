// Runs launches on a stream: the only file that calls the CUDA runtime.
#include "launcher.cuh"

static bool equal(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

// The kernel of this name; null where this build has none (tensor-core kernels of an architecture
// that was left out).
static const void* address_of(const char* name) {
  static const CudaEntry* const kTables[] = {
      pyi_cuda_conv_entries,     pyi_cuda_depthwise_entries,     pyi_cuda_elementary_entries,
      pyi_cuda_lrn_pool_entries, pyi_cuda_pool_entries,          pyi_cuda_reduce_conv_entries,
#ifdef PYI_CUDA_MMA
      pyi_cuda_conv_mma_entries, pyi_cuda_inception_mma_entries, pyi_cuda_reduce_conv_mma_entries,
#endif
#ifdef PYI_CUDA_SM75
      pyi_cuda_mma_sm75_entries,
#endif
  };
  for (const CudaEntry* entry : kTables)
    for (; entry->name; entry++)
      if (equal(entry->name, name)) return entry->address;
  return nullptr;
}

// 0 or a cudaError_t. Allocates nothing and waits for nothing.
extern "C" int pyi_cuda_run_launches(const CudaLaunch* launches, int count, void* stream) {
  for (int i = 0; i < count; i++) {
    const CudaLaunch& launch = launches[i];
    const void* address = address_of(launch.entry);
    if (!address) return cudaErrorInvalidDeviceFunction;
    cudaError_t error = cudaSuccess;
    if (launch.shared_bytes > 48 * 1024)  // more than 48 KB must be asked for
      error = cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)launch.shared_bytes);
    void* params[] = {const_cast<void*>(launch.params)};
    if (error == cudaSuccess)
      error =
          cudaLaunchKernel(address, dim3(launch.grid_x, launch.grid_y, launch.grid_z),
                           dim3(launch.block), params, launch.shared_bytes, (cudaStream_t)stream);
    if (error != cudaSuccess) return (int)error;
  }
  return 0;
}

// 0 or a cudaError_t: what plans ask of the current device.
extern "C" int pyi_cuda_limits(int* shared_limit, int* multiprocessors) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(multiprocessors, cudaDevAttrMultiProcessorCount, device);
  return (int)error;
}

extern "C" const char* pyi_cuda_error_text(int error) {
  return cudaGetErrorString((cudaError_t)error);
}
