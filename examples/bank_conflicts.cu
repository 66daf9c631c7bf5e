// One 32 x 32 tile turned through shared memory, from NHWC's [pixel][channel] to [channel][pixel].
//
//   y[c][p] = x[p][c]        x (32, 32), y (32, 32), one warp
//
// transpose_conflicts   the tile as it comes: a column of it lies in one bank
// transpose_swizzled    the same tile, column c of row p kept at c ^ p: every column in 32 banks
//
// Both read and write memory in whole rows; only where the tile's numbers lie differs.

constexpr int kSide = 32;

template <bool kSwizzled>
__device__ int place(int p, int c) {
  return p * kSide + (kSwizzled ? c ^ p : c);
}

template <bool kSwizzled>
__device__ void transpose(const float* x, float* y) {
  __shared__ float tile[kSide * kSide];
  const int lane = threadIdx.x;
  for (int p = 0; p < kSide; p++) tile[place<kSwizzled>(p, lane)] = x[p * kSide + lane];
  __syncthreads();
  for (int c = 0; c < kSide; c++) y[c * kSide + lane] = tile[place<kSwizzled>(lane, c)];
}

extern "C" __global__ void transpose_conflicts(const float* x, float* y) { transpose<false>(x, y); }
extern "C" __global__ void transpose_swizzled(const float* x, float* y) { transpose<true>(x, y); }
