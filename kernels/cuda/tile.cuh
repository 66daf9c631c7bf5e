// The register tile every kernel of this rung shares:
//
//   acc[64][kColumns] += A[64][16] B[16][kColumns],   128 threads, panels A and B in shared memory
//
// A thread holds kThreadRows x 4 accumulators and walks the summed axis in ascending order, one
// fmaf each: an accumulator is one chain whatever the tiling, with the bits of the plain loop.
//
//   columns ->   lane_x 0..15 (0..7 when narrow), 4 neighbouring columns each
//   rows         lane_y, lane_y + kLanesY, ...; four neighbours where A's steps are outermost
//
// A warp is 16 lanes along the columns and 2 along the rows (8 and 4 when narrow), so that every
// read of shared memory takes the wavefronts its distinct bytes need: of B 256 bytes by 16 a lane
// (64 by 8), of A 16 by 8 (32). Lanes n and n ^ 1 read one address of B, n and n ^ 2 one of A, so a
// wavefront returns two registers. Lost: lanes 8 x 4 and 16 bytes of both, 12 reads a 128
// multiply-adds for 20, with as many wavefronts, two for the 64 and 128 bytes that differ. (ptxas
// 13.0 joins the reads of A again where it knows their alignment.)
#pragma once
#include "ptx.cuh"

template <int kColumns_>
struct Tile {
  static constexpr int kThreads = 128, kRows = 64, kColumns = kColumns_, kStep = kChannelStep;
  static constexpr int kLanesX = kColumns / 4, kLanesY = kThreads / kLanesX;
  static constexpr int kThreadRows = kRows / kLanesY;
  static constexpr int kPanelA = kRows * (kStep + 4), kPanelB = kColumns * (kStep + 4);  // floats
  static constexpr int kPanels = 2 * (kPanelA + kPanelB);  // 2 buffers

  static_assert(kColumns == 64 || kColumns == 32,
                "64 columns fill 8x4 accumulators a thread; 32 halve the waste of K, Cr <= 32 "
                "(5x5 branches). 128 lost: most GoogLeNet branches would leave half of it empty");
  static_assert(kStep == 16 && kThreads == 128,
                "128 threads stage 16 steps: 4 lanes fetch a quad each, whole sectors in every "
                "storage. 8 steps lost: twice the barriers; 32 lost: 36 KB of panels");
  static_assert(kThreadRows * 4 + 2 * kStep <= 64,
                "accumulators and staged values must leave half of 128 registers to operands and "
                "addresses. 8x8 accumulators in 64 threads lost: two warps hide no latency");
  static_assert(kPanels * 4 <= 24 * 1024, "panels leave 40 of 64 KB (sm_75) to the resident tile");
};
using WideTile = Tile<64>;
using NarrowTile = Tile<32>;

// Eight lanes, who store 16 bytes together, have every other group of columns of two rows: rows of
// the resident tile are 4 or 20 banks apart.
template <class T>
__device__ __forceinline__ int lane_x() {
  const int lane = threadIdx.x % 32;
  return lane & 6 | lane >> 3 & 1 | (T::kLanesX == 16 ? lane >> 1 & 8 : 0);
}
template <class T>
__device__ __forceinline__ int lane_y() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return warp * (32 / T::kLanesX) + (lane & 1 | (T::kLanesX == 16 ? 0 : lane >> 3 & 2));
}

// ---- panels: global memory -> registers -> shared memory ---------------------------------------
// A panel holds kUnits rows of A (columns of B) by 16 steps of the summed axis in the order that
// memory has, so quads are stored as they come. Its minor axis is the one contiguous in memory.
enum Order { kStepsInner, kStepsOuter };

template <Order kOrder, int kUnits>
struct Panel {
  static constexpr bool kInner = kOrder == kStepsInner;
  static constexpr int kQuads = kUnits / 32;  // of a thread: rows 32 apart, or of one step
  static constexpr int kLanes = kInner ? 4 : 8;
  // Eight rows of 20 begin in different banks for reads of 8 and 16 bytes, and rows r and r + 4
  // fill them for stores.
  static constexpr int kPitch = kInner ? kChannelStep + 4 : kUnits;

  // Quad i of this thread on the major axis. Inner: eight lanes, who store together, have two rows,
  // r and r + 4.
  static __device__ __forceinline__ int major(int i) {
    if constexpr (!kInner) return threadIdx.x / kLanes;
    const int group = threadIdx.x % 32 / 4;
    return threadIdx.x / 32 * 8 + (group / 2 | group % 2 * 4) + 32 * i;
  }
  // Its element j on the minor axis. Lost, for quads that cannot be read whole: lanes that read
  // neighbours, a value each. Their stores stood, switched off, in the loops of all others.
  static __device__ __forceinline__ int minor(int i, int j) {
    return threadIdx.x % kLanes * 4 + j + (kInner ? 0 : 32 * i);
  }

  // v[i] = p[at(i, j)] for its elements j, an index below zero meaning 0 and no access. whole: the
  // four are one access, and element 0 speaks for them; uniform over the grid.
  template <class S, class At>
  static __device__ __forceinline__ void fetch(Quad<S> (&v)[kQuads], const S* p, bool whole,
                                               At at) {
    if (whole) {
#pragma unroll
      for (int i = 0; i < kQuads; i++) v[i] = fetch_quad(p, at(i, 0));
    } else {
#pragma unroll
      for (int i = 0; i < kQuads; i++)
        v[i] = gather_quad(p, at(i, 0), at(i, 1), at(i, 2), at(i, 3));
    }
  }
  // The mask, if there is one, is looked at here and not in fetch(): until now it was under way.
  template <class S>
  static __device__ __forceinline__ void store(const Quad<S> (&v)[kQuads],
                                               const Quad<S> (&mask)[kQuads], bool masked,
                                               float* panel) {
#pragma unroll
    for (int i = 0; i < kQuads; i++) {
      float f[4];
      unpack(v[i], f);
      if (masked) keep_positive(f, mask[i]);
      store_shared(shared_address(panel + major(i) * kPitch + minor(i, 0)),
                   make_uint4(__float_as_uint(f[0]), __float_as_uint(f[1]), __float_as_uint(f[2]),
                              __float_as_uint(f[3])));
    }
  }
  template <class S>
  static __device__ __forceinline__ void store(const Quad<S> (&v)[kQuads], float* panel) {
    store(v, v, false, panel);
  }
};

// Row i of a thread's kThreadRows, and how far it is from the first, in a tile whose A has this
// order
template <class T, Order kOrder>
__device__ __forceinline__ constexpr int row_step(int i) {
  return kOrder == kStepsInner ? i * T::kLanesY : i / 4 * (4 * T::kLanesY) + i % 4;
}
template <class T, Order kOrder = kStepsInner>
__device__ __forceinline__ int row_of(int i) {
  return lane_y<T>() * (kOrder == kStepsInner ? 1 : 4) + row_step<T, kOrder>(i);
}

// Panels of B with the steps inside keep column 4 x + j at row x + kLanesX j: lanes that differ in
// x alone read neighbouring rows.
template <class T>
__device__ __forceinline__ int column_of(int row) {
  return row % T::kLanesX * 4 + row / T::kLanesX;
}

// ---- arithmetic --------------------------------------------------------------------------------
// Steps c .. c + 3 of this thread's columns: b[step][column]
template <class T, Order kOrder, int kFirst>
__device__ __forceinline__ void read_columns(float (&b)[4][4], unsigned panel) {
  using P = Panel<kOrder, T::kColumns>;
#pragma unroll
  for (int i = 0; i < 4; i++) {  // a column with the steps inside, a step otherwise
    float v[4];
    const unsigned row = panel + 4 * (P::kInner ? i * T::kLanesX : kFirst + i) * P::kPitch;
    constexpr int kAt = P::kInner ? 4 * kFirst : 0;
    if constexpr (T::kLanesX == 16) {
      read_shared<kAt>(v, row);
    } else {
      read_shared<kAt>(v[0], v[1], row);
      read_shared<kAt + 8>(v[2], v[3], row);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) (P::kInner ? b[j][i] : b[i][j]) = v[j];
  }
}
// and of rows i and i + 1: a[row][step]. row(i) is the address of the 16 summed values of row i;
// with the steps outside, that of both rows' values at the first step.
template <class T, Order kOrder, int kFirst, class Row>
__device__ __forceinline__ void read_rows(float (&a)[2][4], Row row, int i) {
  constexpr int kPitch = 4 * Panel<kOrder, T::kRows>::kPitch;
  if constexpr (kOrder == kStepsInner) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      read_shared<4 * kFirst>(a[r][0], a[r][1], row(i + r));
      read_shared<4 * kFirst + 8>(a[r][2], a[r][3], row(i + r));
    }
  } else {
    read_shared<(kFirst + 0) * kPitch>(a[0][0], a[1][0], row(i));
    read_shared<(kFirst + 1) * kPitch>(a[0][1], a[1][1], row(i));
    read_shared<(kFirst + 2) * kPitch>(a[0][2], a[1][2], row(i));
    read_shared<(kFirst + 3) * kPitch>(a[0][3], a[1][3], row(i));
  }
}

template <class T, Order kOrderA, Order kOrderB, int kFirst = 0, class Row>
__device__ __forceinline__ void multiply_rows(float (&acc)[T::kThreadRows][4], Row row,
                                              unsigned columns) {
  float b[4][4];
  read_columns<T, kOrderB, kFirst>(b, columns);
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i += 2) {
    float a[2][4];
    read_rows<T, kOrderA, kFirst>(a, row, i);
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
      for (int c = 0; c < 4; c++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i + r][j] = fmaf(a[r][c], b[c][j], acc[i + r][j]);
  }
  if constexpr (kFirst + 4 < T::kStep)
    multiply_rows<T, kOrderA, kOrderB, kFirst + 4>(acc, row, columns);
}
// A where it lies, row by row: row(i) is the shared address of this thread's row i.
template <class T, Order kOrderB, class Row>
__device__ __forceinline__ void multiply_resident(float (&acc)[T::kThreadRows][4], Row row,
                                                  const float* b) {
  using B = Panel<kOrderB, T::kColumns>;
  const int first = B::kInner ? lane_x<T>() * B::kPitch : lane_x<T>() * 4;
  multiply_rows<T, kStepsInner, kOrderB>(acc, row, shared_address(b + first));
}
// A from its panel
template <class T, Order kOrderA, Order kOrderB>
__device__ __forceinline__ void multiply(float (&acc)[T::kThreadRows][4], const float* a,
                                         const float* b) {
  using A = Panel<kOrderA, T::kRows>;
  using B = Panel<kOrderB, T::kColumns>;
  constexpr int kUnit = A::kInner ? A::kPitch : 1;  // from row to row
  const unsigned rows = shared_address(a + row_of<T, kOrderA>(0) * kUnit);
  const auto row = [&](int i) { return rows + 4 * kUnit * row_step<T, kOrderA>(i); };
  const int first = B::kInner ? lane_x<T>() * B::kPitch : lane_x<T>() * 4;
  multiply_rows<T, kOrderA, kOrderB>(acc, row, shared_address(b + first));
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
