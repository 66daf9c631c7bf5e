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
      pyi_cuda_conv_entries,          pyi_cuda_depthwise_entries,
      pyi_cuda_elementary_entries,    pyi_cuda_lrn_pool_entries,
      pyi_cuda_pool_entries,          pyi_cuda_reduce_conv_entries,
#ifdef PYI_CUDA_MMA
      pyi_cuda_conv_mma_entries,      pyi_cuda_conv_lrn_pool_mma_entries,
      pyi_cuda_inception_mma_entries, pyi_cuda_reduce_conv_mma_entries,
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

// Finds a kernel and lets its blocks have the shared memory they ask for: more than 48 KB must be.
// All that the device has, for a launch that needs less than one captured before must not take the
// difference from it.
static cudaError_t prepare(const CudaLaunch& launch, const void** address) {
  *address = address_of(launch.entry);
  if (!*address) return cudaErrorInvalidDeviceFunction;
  if (launch.shared_bytes <= 48 * 1024) return cudaSuccess;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(*address, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

static cudaError_t start(const CudaLaunch& launch, const void* address, bool dependent,
                         cudaStream_t stream) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(launch.grid_x, launch.grid_y, launch.grid_z);
  config.blockDim = dim3(launch.block);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  config.attrs = &overlap, config.numAttrs = dependent;
  void* params[] = {const_cast<void*>(launch.params)};
  return cudaLaunchKernelExC(&config, address, params);
}

static cudaError_t run_all(const CudaLaunch* launches, int count, bool dependent,
                           cudaStream_t stream) {
  for (int i = 0; i < count; i++) {
    const void* address;
    cudaError_t error = prepare(launches[i], &address);
    // The first kernel of a graph waits for what the stream did before it.
    if (error == cudaSuccess) error = start(launches[i], address, dependent && i > 0, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// 0 or a cudaError_t. Allocates nothing and waits for nothing.
extern "C" int pyi_cuda_run_launches(const CudaLaunch* launches, int count, void* stream) {
  return run_all(launches, count, false, (cudaStream_t)stream);
}

// 0 or a cudaError_t. Nothing may be loaded while a stream is captured, so every kernel is first
// brought to the device; the stream is our own, since a caller's may be at work elsewhere.
extern "C" int pyi_cuda_capture(const CudaLaunch* launches, int count, int dependent,
                                void** graph) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  for (int i = 0; i < count && error == cudaSuccess; i++) {
    const void* address;
    cudaFuncAttributes loaded;
    error = prepare(launches[i], &address);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&loaded, address);
    // Code compiled for older devices does not wait for the launch before it.
    if (error == cudaSuccess && loaded.ptxVersion < 90) dependent = 0;
  }
  cudaStream_t stream = nullptr;
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return (int)error;
  error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) {
    cudaGraph_t recorded = nullptr;
    error = run_all(launches, count, dependent && major >= 9, stream);
    // A capture must be ended whatever happened, and the first error is the one to tell.
    const cudaError_t ended = cudaStreamEndCapture(stream, &recorded);
    if (error == cudaSuccess) error = ended;
    if (error == cudaSuccess) error = cudaGraphInstantiate((cudaGraphExec_t*)graph, recorded, 0);
    if (recorded) cudaGraphDestroy(recorded);
  }
  cudaStreamDestroy(stream);
  return (int)error;
}

extern "C" int pyi_cuda_replay(void* graph, void* stream) {
  return (int)cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream);
}

extern "C" void pyi_cuda_forget(void* graph) { cudaGraphExecDestroy((cudaGraphExec_t)graph); }

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

// 0 or a cudaError_t: 10 major + minor of the current device.
extern "C" int pyi_cuda_sm(int* sm) {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *sm = 10 * major + minor;
  return (int)error;
}

extern "C" const char* pyi_cuda_error_text(int error) {
  return cudaGetErrorString((cudaError_t)error);
}
