// What the plans of the tensor-core kernels share: tiles, checks that decline with numbers, the
// model of a launch's time. Plain C++, no CUDA header.
#pragma once
#include "../cuda_mma_args.h"
#include "launch.h"

// args is the completed record, the launches point into it; count is 0 for an empty batch.
template <class Args>
struct MmaPlan {
  Args args;
  SumChunksCudaArgs sum;
  CudaLaunch launches[2];
  int count;  // 0 for an empty batch
  long long workspace_bytes;
  double clocks;  // of the first launch by the model below; 0: not modelled

  // One more launch, of the completed record, in `planes` of `blocks`.
  void launch(const char* entry, long long blocks, int planes, int threads,
              long long shared_bytes) {
    launches[count++] = {entry, (unsigned)blocks,  (unsigned)planes,
                         1,     (unsigned)threads, (unsigned)shared_bytes,
                         &args, sizeof(args),      clocks};
  }
};

// ---- tiles -------------------------------------------------------------------------------------
// As MmaTile has them.
struct MmaShape {
  int rows, columns, warps_n, threads, blocks;  // blocks: resident by registers
  int stages = 3;                               // of the ring
  constexpr int ring_bytes() const { return stages * 64 * (rows + columns); }
};
enum { kMmaWide, kMmaTall, kMmaFlat, kMmaMid };
constexpr MmaShape kMmaShapes[] = {
    {224, 128, 4, 256, 1}, {256, 32, 1, 128, 2}, {64, 128, 4, 128, 3}, {256, 64, 2, 256, 1}};
// The first three have entries of their own, the fourth serves within a module; kAnyShape: choose.
constexpr int kMmaShapeCount = 3, kMmaTypeCount = 3, kAnyShape = -1;

// Asserted by the entries: the plan's copy of a tile is the kernels' tile.
template <class T, int kShape>
constexpr bool is_shape() {
  return kMmaShapes[kShape].rows == T::kRows && kMmaShapes[kShape].columns == T::kColumns &&
         kMmaShapes[kShape].warps_n == T::kWarpsN && kMmaShapes[kShape].threads == T::kThreads &&
         kMmaShapes[kShape].ring_bytes() == T::kRing;
}

// The tile of a type's kernels.
constexpr MmaShape mma_shape(int type, int shape) {
  MmaShape s = kMmaShapes[shape];
  if (type == kMmaFp16Sm75) {
    s.stages = 2;
    if (s.blocks > 2) s.blocks = 2;
  }
  return s;
}

// clang-format off
#define PYI_MMA_SM75_ENTRIES(X)                                                             \
  X(reduce_conv_mma_sm75_wide) X(reduce_conv_mma_sm75_tall) X(reduce_conv_mma_sm75_flat)    \
  X(conv_mma_sm75_wide) X(conv_mma_sm75_tall) X(conv_mma_sm75_flat)
// clang-format on
constexpr const char* kMmaSm75Entries[] = {PYI_MMA_SM75_ENTRIES(PYI_NAME)};

// The shapes to choose from are first .. last.
struct MmaChoice {
  int first, last;
  MmaChoice(int shape)
      : first(shape == kAnyShape ? 0 : shape),
        last(shape == kAnyShape ? kMmaShapeCount - 1 : shape) {}
};

inline int unit_elements(int type) { return type == kMmaTf32 ? 4 : 8; }

// ---- checks ------------------------------------------------------------------------------------
inline bool check_extents(CudaStatus& why, const char* const* names, const int* values, int count) {
  for (int i = 0; i < count && !why; i++)
    if (values[i] < 1) why << names[i] << " is " << values[i] << ", expected at least 1";
  return !why;
}

// sm75: this op has kernels of that type.
inline bool check_type(CudaStatus& why, int type, bool sm75 = false) {
  if (type < 0 || type >= kMmaTypeCount + sm75)
    why << "type is " << type << ", expected 0 (fp32 as tf32), 1 (bf16)"
        << (sm75 ? ", 2 (fp16) or 3 (fp16 on sm_75)" : " or 2 (fp16)");
  return !why;
}

inline bool check_channels(CudaStatus& why, const char* name, int channels, int unit) {
  if (channels % unit)
    why << name << " is " << channels << ", expected a multiple of " << unit
        << " (16 bytes are copied at a time)";
  return !why;
}

// name: of the argument; h, w, c: its extents. A null array is checked by the caller.
inline bool check_map(CudaStatus& why, const char* name, const void* p, const CudaStrides& s, int n,
                      int h, int w, int c, int unit) {
  const long long last = (n - 1ll) * s.image + (h - 1ll) * s.row + (w - 1ll) * s.pixel + c;
  const int rest = (int)((unsigned long long)p % 16);
  const int strides[] = {s.image, s.row, s.pixel};
  const char* const axes[] = {"image", "row", "pixel"};
  if (rest) why << name << " begins " << rest << " bytes past a multiple of 16, expected 0";
  for (int i = 0; i < 3 && !why; i++)
    if (strides[i] < 0 || strides[i] % unit)
      why << name << " has " << (i == 0 ? "an " : "a ") << axes[i] << " stride of " << strides[i]
          << " elements, expected a multiple of " << unit;
  if (!why && n > 0 && last > kMaxElements)
    why << name << " spans " << last << " elements, expected at most " << kMaxElements;
  return !why;
}

inline bool check_array(CudaStatus& why, const char* name, const void* p, long long elements) {
  const int rest = (int)((unsigned long long)p % 16);
  if (!p)
    why << name << " is null";
  else if (rest)
    why << name << " begins " << rest << " bytes past a multiple of 16, expected 0";
  else if (elements > kMaxElements)
    why << name << " has " << elements << " elements, expected at most " << kMaxElements;
  return !why;
}

// Filter, stride and padding, and the extents of the output.
inline bool check_windows(CudaStatus& why, int H, int W, int R, int S, int stride_h, int stride_w,
                          int pad_h, int pad_w) {
  const int values[] = {R, S, stride_h, stride_w, pad_h + 1, pad_w + 1};
  const char* const names[] = {"R", "S", "stride_h", "stride_w", "pad_h", "pad_w"};
  for (int i = 0; i < 6 && !why; i++) {
    const int shown = values[i] - (i > 3), least = i < 4;
    if (values[i] < 1 || values[i] > 64)
      why << names[i] << " is " << shown << ", expected " << least << ".." << 63 + least;
  }
  for (int i = 0; i < 2 && !why; i++) {
    const int extent = i ? W : H;
    if (extent > 16384) why << (i ? "W" : "H") << " is " << extent << ", expected at most 16384";
  }
  return !why;
}

// ---- the model ---------------------------------------------------------------------------------
// Clocks of a multiprocessor. The rates are those of an H100-class device; a choice of tile needs
// no more than their proportion.
constexpr double kMmaPerClock = 1331;     // 16-bit multiply-adds of mma.sync: 65 % of 2048
constexpr double kL2PerClock = 32;        // bytes a multiprocessor draws from L2
constexpr double kPassClocks = 1500;      // filling the ring and storing a tile
constexpr double kLanes = 128;            // operations of CUDA cores
constexpr double kLoneEfficiency = .7;    // four warps alone with the latency of ldmatrix and mma
constexpr double kMemoryPerClock = 2350;  // bytes the device draws from memory
constexpr double kBoundaryClocks = 2400;  // of two kernels in a CUDA graph: 1.3 us

// What a block does: padded multiply-adds at the 16-bit rate, bytes copied, wavefronts of shared
// memory (128 bytes, one a clock), passes of the ring, operations of CUDA cores behind them.
struct MmaCost {
  double mma, copied, wavefronts, passes, lanes;
  double clocks() const {
    const double most = mma / kMmaPerClock > wavefronts ? mma / kMmaPerClock : wavefronts;
    return (most > copied / kL2PerClock ? most : copied / kL2PerClock) + lanes / kLanes;
  }
};

// One GEMM of a block: rows x columns over `units`, A copied or resident.
inline void add_gemm(const MmaShape& s, int rows, int columns, int units, int unit, bool copies_a,
                     MmaCost& cost) {
  const int m = ceil_div(rows, s.rows), n = ceil_div(columns, s.columns), warps = s.threads / 32;
  const int tiles = s.rows / 16 / (warps / s.warps_n), nt = ceil_div(columns, 8 * s.warps_n);
  const double steps = ceil_div(units, 2) * (double)m;
  const double lines = (double)m * (columns + (copies_a ? (double)n * s.rows : 0));
  cost.mma += steps * s.rows * nt * 8 * s.warps_n * 2 * unit * (unit == 4 ? 2 : 1);
  cost.copied += 16.0 * units * lines;
  cost.wavefronts += steps * warps * (4.0 * tiles * n + 2.0 * nt) + units * lines / 8;
  cost.passes += (double)m * n;
}

// Of the multiprocessor with most of `blocks` such blocks.
inline double mma_clocks(const MmaShape& s, const MmaCost& cost, long long blocks,
                         int multiprocessors, int shared_limit, long long bytes) {
  const double busy = cost.clocks();
  long long resident = (shared_limit + 1024ll) / (bytes + 1024);
  if (resident > s.blocks) resident = s.blocks;
  if (resident < 1) resident = 1;  // too large for a block: whoever asks declines by its bytes
  const long long most = (blocks + multiprocessors - 1) / multiprocessors;
  const double alone = busy / (s.threads == 128 ? kLoneEfficiency : 1) + cost.passes * kPassClocks;
  const double queued = (double)((most + resident - 1) / resident) * alone;
  return queued > most * busy ? queued : most * busy;
}
