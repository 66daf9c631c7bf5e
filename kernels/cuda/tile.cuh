// The register tile every kernel of this rung shares:
//
//   acc[64][kColumns] += A[64][16] B[16][kColumns],   128 threads, panels A and B in shared memory
//
// A thread holds kThreadRows x 4 accumulators and walks the summed axis in ascending order, one
// fmaf each: an accumulator is one chain whatever the tiling, with the bits of the plain loop.
//
//   columns ->   lane_x 0..15 (0..7 when narrow), 4 neighbouring columns each
//   rows         lane_y, lane_y + kLanesY, ...
//
// A warp is 8 lanes along the columns and 4 along the rows, bits of both interleaved: lanes n and
// n ^ 1 read one address of B, lanes n and n ^ 2 one of A, so every 16-byte read returns two
// registers a wavefront. (16 x 2 lanes in row order took twice as many.)
#pragma once
#include "storage.cuh"

template <int kColumns_>
struct Tile {
  static constexpr int kThreads = 128, kRows = 64, kColumns = kColumns_, kStep = kChannelStep;
  static constexpr int kLanesX = kColumns / 4, kLanesY = kThreads / kLanesX;
  static constexpr int kThreadRows = kRows / kLanesY;
  // Pitches for stores of pairs without bank conflicts. Pairs along the pitch's row go as 8 bytes,
  // 16 lanes at a time: two rows must lie 16 words apart. Pairs across it go as two words, those of
  // lanes 4..7 of eight in the other order: 40 l + 20 e and 8 l + 4 e cover the banks.
  static constexpr int kRowsPitchA = kStep, kColumnsPitchA = kStep + 4;
  static constexpr int kRowsPitchB = kColumns + 4, kColumnsPitchB = kColumns + 16;
  static constexpr int kPanelA = kRows * kColumnsPitchA,
                       kPanelB = kStep * kColumnsPitchB;   // floats
  static constexpr int kPanels = 2 * (kPanelA + kPanelB);  // 2 buffers

  static_assert(kColumns == 64 || kColumns == 32,
                "64 columns fill 8x4 accumulators a thread; 32 halve the waste of K, Cr <= 32 "
                "(5x5 branches). 128 lost: most GoogLeNet branches would leave half of it empty");
  static_assert(
      kStep == 16 && kThreads == 128,
      "128 threads stage 16 steps: 8 lanes fetch a pair each, whole sectors in every storage. 8 "
      "steps lost: twice the barriers; 32 lost: 39 KB of panels");
  static_assert(kThreadRows * 4 + 2 * kStep <= 64,
                "accumulators and staged values must leave half of 128 registers to operands and "
                "addresses. 8x8 accumulators in 64 threads lost: two warps hide no latency");
  static_assert(kPanels * 4 <= 24 * 1024, "panels leave 40 of 64 KB (sm_75) to the resident tile");
};
using WideTile = Tile<64>;
using NarrowTile = Tile<32>;

template <class T>
__device__ __forceinline__ int lane_x() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return warp % (T::kLanesX / 8) * 8 + ((lane & 6) | (lane >> 3 & 1));
}
template <class T>
__device__ __forceinline__ int lane_y() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return warp / (T::kLanesX / 8) * 4 + (lane >> 4 << 1 | (lane & 1));
}

// ---- staging: global memory -> registers -> panel ----------------------------------------------
// Rows: the summed axis is contiguous in memory (pixels of a map, rows of a filter). Thread t has
// steps 2 (t % 8) and the next one of rows t/8 + 16 i: eight lanes read 16 neighbouring values.
template <int kRows, class S, class Load>
__device__ __forceinline__ void fetch_rows(Pair<S> (&v)[kRows / 16], Load load) {
#pragma unroll
  for (int i = 0; i < kRows / 16; i++) v[i] = load(i, threadIdx.x % 8 * 2);
}
// Columns: the other axis is contiguous. Thread t has step t/8 and columns 2 (t % 8) + 16 i.
template <int kColumns, class S, class Load>
__device__ __forceinline__ void fetch_columns(Pair<S> (&v)[kColumns / 16], Load load) {
#pragma unroll
  for (int i = 0; i < kColumns / 16; i++) v[i] = load(i, threadIdx.x % 8 * 2 + 16 * i);
}

// Pairs that go on along the panel's rows: panel[t / 8 + major i][2 (t % 8) + minor i]
template <int kPairs, class S>
__device__ __forceinline__ void store_along(const Pair<S> (&v)[kPairs], float* panel, int pitch,
                                            int major, int minor) {
  float* to = panel + threadIdx.x / 8 * pitch + threadIdx.x % 8 * 2;
#pragma unroll
  for (int i = 0; i < kPairs; i++) {
    const float2 f = to_floats(v[i]);  // one store by its type: a float2 may be taken apart
    *(unsigned long long*)(to + i * (major * pitch + minor)) =
        (unsigned long long)__float_as_uint(f.y) << 32 | __float_as_uint(f.x);
  }
}
// Pairs that lie across them: panel[2 (t % 8) + major i, and the next][t / 8 + minor i]
template <int kPairs, class S>
__device__ __forceinline__ void store_across(const Pair<S> (&v)[kPairs], float* panel, int pitch,
                                             int major, int minor) {
  const bool turn = threadIdx.x & 4;
  float* to = panel + threadIdx.x % 8 * 2 * pitch + threadIdx.x / 8;
  float *one = to + (turn ? pitch : 0), *other = to + (turn ? 0 : pitch);
#pragma unroll
  for (int i = 0; i < kPairs; i++) {
    const float2 f = to_floats(v[i]);
    one[i * (major * pitch + minor)] = turn ? f.y : f.x;
    other[i * (major * pitch + minor)] = turn ? f.x : f.y;
  }
}

// A as rows of the summed axis, or as columns (turned); B likewise.
template <class T, class S>
__device__ __forceinline__ void store_rows_a(const Pair<S> (&v)[T::kRows / 16], float* panel) {
  store_along(v, panel, T::kRowsPitchA, 16, 0);
}
template <class T, class S>
__device__ __forceinline__ void store_columns_a(const Pair<S> (&v)[T::kRows / 16], float* panel) {
  store_across(v, panel, T::kColumnsPitchA, 16, 0);
}
template <class T, class S>
__device__ __forceinline__ void store_rows_b(const Pair<S> (&v)[T::kColumns / 16], float* panel) {
  store_across(v, panel, T::kRowsPitchB, 0, 16);
}
template <class T, class S>
__device__ __forceinline__ void store_columns_b(const Pair<S> (&v)[T::kColumns / 16],
                                                float* panel) {
  store_along(v, panel, T::kColumnsPitchB, 0, 16);
}

// ---- arithmetic --------------------------------------------------------------------------------
// row(i) is the address of the 16 summed values of this thread's row i; b is the panel of B.
template <class T, class Row>
__device__ __forceinline__ void multiply(float (&acc)[T::kThreadRows][4], Row row, const float* b,
                                         int pitch_b) {
  const float* column = b + lane_x<T>() * 4;
#pragma unroll
  for (int c = 0; c < T::kStep; c += 4) {
    const float4 b0 = *(const float4*)(column + (c + 0) * pitch_b);
    const float4 b1 = *(const float4*)(column + (c + 1) * pitch_b);
    const float4 b2 = *(const float4*)(column + (c + 2) * pitch_b);
    const float4 b3 = *(const float4*)(column + (c + 3) * pitch_b);
#pragma unroll
    for (int i = 0; i < T::kThreadRows; i++) {
      const float4 a = *(const float4*)(row(i) + c);
      float* s = acc[i];
      s[0] = fmaf(a.x, b0.x, s[0]), s[1] = fmaf(a.x, b0.y, s[1]);
      s[2] = fmaf(a.x, b0.z, s[2]), s[3] = fmaf(a.x, b0.w, s[3]);
      s[0] = fmaf(a.y, b1.x, s[0]), s[1] = fmaf(a.y, b1.y, s[1]);
      s[2] = fmaf(a.y, b1.z, s[2]), s[3] = fmaf(a.y, b1.w, s[3]);
      s[0] = fmaf(a.z, b2.x, s[0]), s[1] = fmaf(a.z, b2.y, s[1]);
      s[2] = fmaf(a.z, b2.z, s[2]), s[3] = fmaf(a.z, b2.w, s[3]);
      s[0] = fmaf(a.w, b3.x, s[0]), s[1] = fmaf(a.w, b3.y, s[1]);
      s[2] = fmaf(a.w, b3.z, s[2]), s[3] = fmaf(a.w, b3.w, s[3]);
    }
  }
}

// Every accumulator starts at its column's bias; null and columns past the end start at zero.
template <class T>
__device__ __forceinline__ void start(float (&acc)[T::kThreadRows][4], const float* bias,
                                      int column, int columns) {
  float value[4] = {0.f, 0.f, 0.f, 0.f};
  if (bias && column < columns)
    load4(bias + column, value, columns - column, is_vector(bias, CudaStrides{}));
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < T::kThreadRows; i++) acc[i][j] = value[j];
}

// Two buffers, one barrier a step: while step i is multiplied, step i+1 is on its way to registers.
// fetch() advances by itself. Ends in a barrier, so the panels are free for the next pipeline.
template <class Fetch, class Store, class Multiply>
__device__ __forceinline__ void pipeline(int steps, Fetch fetch, Store store, Multiply mul) {
  if (steps > 0) {
    fetch();
    store(0);
  }
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
    const bool more = i + 1 < steps;
    if (more) fetch();
    mul(i & 1);
    if (more) store(i & 1 ^ 1);
    __syncthreads();
  }
}
