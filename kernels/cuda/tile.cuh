// The register tile every kernel of this rung shares:
//
//   acc[64][kColumns] += A[64][16] B[16][kColumns],   128 threads, panels A and B in shared memory
//
// A thread holds kThreadRows x 4 accumulators and walks the summed axis in ascending order, one
// fmaf each: an accumulator is one chain whatever the tiling, with the bits of the plain loop.
//
//   columns ->   lane_x 0..15 (0..7 when narrow), 4 neighbouring columns each
//   rows         lane_y, lane_y + kLanesY, ...
#pragma once
#include "storage.cuh"

template <int kColumns_>
struct Tile {
  static constexpr int kThreads = 128, kRows = 64, kColumns = kColumns_, kStep = kChannelStep;
  static constexpr int kLanesX = kColumns / 4, kLanesY = kThreads / kLanesX;
  static constexpr int kThreadRows = kRows / kLanesY;
  // Pitches for stores without bank conflicts, from lanes as 8 x 4: 24 r + c and 20 c + r cover 32
  // banks for the rows of A, 4 c + n and 8 c + n for B (written as rows, as columns).
  static constexpr int kRowsPitchA = kStep + 8, kColumnsPitchA = kStep + 4;
  static constexpr int kRowsPitchB = kColumns + 4, kColumnsPitchB = kColumns + 8;
  static constexpr int kPanelA = kRows * kRowsPitchA, kPanelB = kStep * kColumnsPitchB;  // floats
  static constexpr int kPanels = 2 * (kPanelA + kPanelB);  // 2 buffers

  static_assert(kColumns == 64 || kColumns == 32,
                "64 columns fill 8x4 accumulators a thread; 32 halve the waste of K, Cr <= 32 "
                "(5x5 branches). 128 lost: most GoogLeNet branches would leave half of it empty");
  static_assert(
      kStep == 16 && kThreads == 128,
      "128 threads stage 16 steps: 8 lanes to a 32-byte sector, twice along rows. 8 steps "
      "lost: twice the barriers; 32 lost: 39 KB of panels");
  static_assert(kThreadRows * 4 + 2 * kStep <= 64,
                "accumulators and staged values must leave half of 128 registers to operands and "
                "addresses. 8x8 accumulators in 64 threads lost: two warps hide no latency");
  static_assert(kPanels * 4 <= 24 * 1024, "panels leave 40 of 64 KB (sm_75) to the resident tile");
};
using WideTile = Tile<64>;
using NarrowTile = Tile<32>;

template <class T>
__device__ __forceinline__ int lane_x() {
  return threadIdx.x % T::kLanesX;
}
template <class T>
__device__ __forceinline__ int lane_y() {
  return threadIdx.x / T::kLanesX;
}

// ---- staging: global memory -> registers -> panel ----------------------------------------------
// Rows: the summed axis is contiguous in memory (pixels of a map, rows of a filter). Eight lanes
// read one 32-byte sector of a row; thread t has rows t/8 + 16 i.
template <int kRows, class Load>
__device__ __forceinline__ void fetch_rows(float (&v)[kRows / 8], Load load) {
#pragma unroll
  for (int i = 0; i < kRows / 16; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) v[2 * i + j] = load(i, threadIdx.x % 8 + 8 * j);
}
template <int kRows>
__device__ __forceinline__ void store_rows(const float (&v)[kRows / 8], float* panel, int row_pitch,
                                           int step_pitch) {
#pragma unroll
  for (int i = 0; i < kRows / 16; i++)
#pragma unroll
    for (int j = 0; j < 2; j++)
      panel[(threadIdx.x / 8 + 16 * i) * row_pitch + (threadIdx.x % 8 + 8 * j) * step_pitch] =
          v[2 * i + j];
}

// Columns: the other axis is contiguous. Thread t has step t/8 and columns t%8 + 8 i.
template <int kColumns, class Load>
__device__ __forceinline__ void fetch_columns(float (&v)[kColumns / 8], Load load) {
#pragma unroll
  for (int i = 0; i < kColumns / 8; i++) v[i] = load(i, threadIdx.x % 8 + 8 * i);
}
template <int kColumns>
__device__ __forceinline__ void store_columns(const float (&v)[kColumns / 8], float* panel,
                                              int column_pitch, int step_pitch) {
#pragma unroll
  for (int i = 0; i < kColumns / 8; i++)
    panel[(threadIdx.x % 8 + 8 * i) * column_pitch + threadIdx.x / 8 * step_pitch] = v[i];
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
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float value = bias && column + j < columns ? bias[column + j] : 0.f;
#pragma unroll
    for (int i = 0; i < T::kThreadRows; i++) acc[i][j] = value;
  }
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
