// What every plan shares: its status, a launch as data, checks on extents and strides, the arena.
// Plain C++, no CUDA header.
//
// A plan declines with a negative status and launches nothing; cuda_status_text() is its reason.
#pragma once
#include "index.cuh"

enum CudaStatus {
  kCudaOk = 0,
  kCudaBadExtent = -1,
  kCudaBadGeometry = -2,
  kCudaNoOutput = -3,
  kCudaBadStrides = -4,
  kCudaTooLarge = -5,
  kCudaSharedMemory = -6,
  kCudaMissingArray = -7,
  kCudaWorkspace = -8,
  kCudaBadStorage = -9,
  kCudaBadWindow = -10,
  kCudaBadConstant = -11,
};

inline const char* cuda_status_text(int status) {
  switch (status) {
    case kCudaOk:
      return "ok";
    case kCudaBadExtent:
      return "an extent is not positive (only N may be 0)";
    case kCudaBadGeometry:
      return "filter and stride must be 1..64, padding 0..63";
    case kCudaNoOutput:
      return "the filter is larger than the padded image";
    case kCudaBadStrides:
      return "a stride is negative";
    case kCudaTooLarge:
      return "an array spans about 2^31 elements, beyond 32-bit indices";
    case kCudaSharedMemory:
      return "not even the smallest tile fits the shared memory of a block";
    case kCudaMissingArray:
      return "a required array is null";
    case kCudaWorkspace:
      return "the workspace is null, misaligned or too small";
    case kCudaBadStorage:
      return "storage must be 0 (fp32), 1 (bf16) or 2 (fp16)";
    case kCudaBadWindow:
      return "a pooling window must see a pixel and have at most 255 taps";
    case kCudaBadConstant:
      return "a constant lies outside the range its kernel was written for";
  }
  return status > 0 ? "an error of the CUDA runtime" : "unknown status";
}

// Less than 2^31 by the room that lanes beyond the end of an extent need for their unused index.
constexpr long long kMaxElements = (1ll << 31) - (1ll << 24);

// entry is an index into the entry names of the plan's header; params is the address of the record
// the kernel takes. It points into the plan itself: a plan is filled in place and not copied.
struct CudaLaunch {
  int entry;
  unsigned grid_x, grid_y, grid_z, block, shared_bytes;
  const void* params;
  unsigned params_bytes;
};

// Names of a kernel's entries, one per storage, in the order of `storage`.
#define PYI_STORED(NAME) NAME "_f32", NAME "_bf16", NAME "_f16"

// ---- checks ------------------------------------------------------------------------------------
inline bool fits(const CudaStrides& s, int n, int h, int w, int c) {
  const long long last = (n - 1ll) * s.image + (h - 1ll) * s.row + (w - 1ll) * s.pixel + c;
  return n == 0 || last <= kMaxElements;
}
inline bool fits(long long a, long long b) { return b == 0 || a <= kMaxElements / b; }
inline bool negative(const CudaStrides& s) { return s.image < 0 || s.row < 0 || s.pixel < 0; }

// ---- workspace ---------------------------------------------------------------------------------
// Carves the caller's workspace; with base 0 the same lines only count.
struct CudaArena {
  unsigned long long base, used;
  float* take(long long floats) {
    const unsigned long long at = base + used;
    used += ((unsigned long long)floats * 4 + 255) / 256 * 256;
    return base ? (float*)at : nullptr;
  }
};
