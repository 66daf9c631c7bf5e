// The CUDA runtime as far as launcher.cu calls it, for a machine without a GPU: every call is noted
// as a line, and one of them can be made to fail. With it the core's lists run as they are.
#include <cuda_runtime.h>

#include <sstream>
#include <string>

#include "core.h"
#include "cuda/launcher.cuh"

namespace {
std::string calls, failing, message;
int major_version = 9, next_stream = 100, oldest_ptx = 90;

template <class... Parts>
cudaError_t note(const std::string& name, const Parts&... parts) {
  std::ostringstream line;
  line << name;
  ((line << ' ' << parts), ...);
  calls += line.str() + '\n';
  return name == failing ? cudaErrorLaunchOutOfResources : cudaSuccess;
}
}  // namespace

// Two kernels that a plan of the tests launches, and one that no build has.
#define TABLE(NAME) extern "C" const CudaEntry pyi_cuda_##NAME##_entries[] = {{nullptr, nullptr}};
extern "C" const CudaEntry pyi_cuda_elementary_entries[] = {
    {"cast", reinterpret_cast<const void*>(0x10)},
    {"lrn_fprop", reinterpret_cast<const void*>(0x20)},
    {nullptr, nullptr}};
extern "C" const CudaEntry pyi_cuda_reduce_conv_entries[] = {
    {"reduce_conv_fprop_wide", reinterpret_cast<const void*>(0x30)},
    {"reduce_conv_fprop_narrow", reinterpret_cast<const void*>(0x40)},
    {nullptr, nullptr}};
TABLE(conv)
TABLE(depthwise)
TABLE(lrn_pool)
TABLE(pool)

extern "C" {
const char* stub_calls() { return calls.c_str(); }
void stub_begin(const char* fail, int major) {
  calls.clear(), failing = fail, major_version = major, oldest_ptx = 90;
}
// What kernels but "cast" were compiled for.
void stub_compiled_for(int ptx) { oldest_ptx = ptx; }
const char* stub_message() { return message.c_str(); }

cudaError_t cudaGetDevice(int* device) { return *device = 0, note("get_device"); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor         ? major_version
           : attribute == cudaDevAttrComputeCapabilityMinor       ? 5
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10
                                                                  : 100;
  return note("attribute", static_cast<int>(attribute));
}
cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute attribute, int value) {
  return note("set_shared", f, attribute == cudaFuncAttributeMaxDynamicSharedMemorySize, value);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void* f) {
  a->ptxVersion = f == reinterpret_cast<const void*>(0x10) ? 90 : oldest_ptx;
  return note("load", f);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = reinterpret_cast<cudaStream_t>(static_cast<uintptr_t>(next_stream++));
  return note("create_stream", flags == cudaStreamNonBlocking);
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return note("destroy_stream"); }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const bool own = reinterpret_cast<uintptr_t>(stream) >= 100;
  return note("begin", own, mode == cudaStreamCaptureModeThreadLocal);
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  const cudaError_t error = note("end");
  *graph = failing == "launch" ? nullptr : reinterpret_cast<cudaGraph_t>(7);
  return error != cudaSuccess || *graph ? error : cudaErrorStreamCaptureInvalidated;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t, unsigned long long) {
  const cudaError_t error = note("instantiate");
  if (error == cudaSuccess) *exec = reinterpret_cast<cudaGraphExec_t>(8);
  return error;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return note("destroy_graph"); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return note("forget"); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) {
  return note("replay", reinterpret_cast<uintptr_t>(stream));
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** params) {
  const bool own = reinterpret_cast<uintptr_t>(c->stream) >= 100;
  const bool overlap = c->numAttrs == 1 && c->attrs->val.programmaticStreamSerializationAllowed;
  const int stream = own ? -1 : static_cast<int>(reinterpret_cast<uintptr_t>(c->stream));
  return note("launch", f, stream, overlap, c->gridDim.x, c->blockDim.x, c->dynamicSmemBytes,
              *static_cast<const void* const*>(params[0]));
}
const char* cudaGetErrorString(cudaError_t) { return "too many resources requested for launch"; }
}

namespace pyi {
pyi_status guard(void (*body)(void*), void* context) {
  try {
    body(context);
    return PYI_OK;
  } catch (const Error& error) {
    message = error.message;
    return error.status;
  }
}
}  // namespace pyi
