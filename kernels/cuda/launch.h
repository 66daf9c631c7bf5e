// What every plan shares: how it declines, a launch as data, checks on extents and strides, the
// arena. Plain C++, no CUDA header.
#pragma once
#include "index.cuh"

enum CudaCode {
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
  kCudaDeclined = -12,
};

inline const char* cuda_code_text(int code) {
  switch (code) {
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
    case kCudaDeclined:
      return "the plan declines";
  }
  return code > 0 ? "an error of the CUDA runtime" : "unknown code";
}

// What a plan answers. Where it declines, code is negative, text a sentence, and nothing is to be
// launched. A code brings its sentence; a plan that knows numbers streams one: "x has a pixel
// stride of 20 elements, expected a multiple of 8".
struct CudaStatus {
  int code;
  int length;
  char text[192];

  CudaStatus(CudaCode given = kCudaOk) : code(given), length(0) {
    text[0] = 0;
    if (code) append(cuda_code_text(code));
  }
  CudaStatus& operator<<(const char* s) {
    code = kCudaDeclined;
    return append(s);
  }
  CudaStatus& operator<<(long long v) {
    char digits[24];
    int i = sizeof digits;
    digits[--i] = 0;
    unsigned long long u = v < 0 ? 0ull - (unsigned long long)v : (unsigned long long)v;
    do digits[--i] = (char)('0' + u % 10);
    while (u /= 10);
    if (v < 0) digits[--i] = '-';
    return *this << digits + i;
  }
  explicit operator bool() const { return code != kCudaOk; }

 private:
  CudaStatus& append(const char* s) {
    while (*s && length + 1 < (int)sizeof text) text[length++] = *s++;
    text[length] = 0;
    return *this;
  }
};

// What the smallest tile takes, and the most there is.
inline CudaStatus beyond_shared_memory(double needs, int limit) {
  CudaStatus status = kCudaSharedMemory;
  status << ": it needs " << (long long)needs << " bytes, expected at most " << limit;
  status.code = kCudaSharedMemory;
  return status;
}

// One kernel over one grid. params is the record the entry takes; it points into the plan itself: a
// plan is filled in place and not copied.
struct CudaLaunch {
  const char* entry;
  unsigned grid_x, grid_y, grid_z, block, shared_bytes;
  const void* params;
  unsigned params_bytes;
  double clocks = 0;  // of the busiest multiprocessor by the plan's model; 0: not modelled
};

// A plan header lists its entries once, as PYI_..._ENTRIES(X): here as names, in the .cu file with
// their addresses. A stored entry exists once per storage, in the order of `storage`.
#define PYI_NAME(NAME) #NAME,
#define PYI_STORED(X, NAME) X(NAME##_f32) X(NAME##_bf16) X(NAME##_f16)

// Less than 2^31 by the room that lanes beyond the end of an extent need for their unused index.
constexpr long long kMaxElements = (1ll << 31) - (1ll << 24);

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
