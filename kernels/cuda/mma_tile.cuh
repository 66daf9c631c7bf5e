// What the tensor-core kernels share: the tile of a block, its panels in shared memory, the ring of
// copies under way and the multiply-add of a stage. mma_results.cuh has the way out.
//
//   acc[kRows][8 nt kWarpsN] += A[kRows][K] B[8 nt kWarpsN][K]^T,   nt = 1..4 chosen at run time
//
// K is counted in units of 16 bytes (8 elements of 16 bits, 4 of fp32), two to an mma. Filters are
// read as KRSC: a row of units [tap][channel] per output channel is what ldmatrix wants, so nothing
// is packed. The units of A are gathered, each from the pixel of its tap: a unit never straddles
// taps, so 24 channels cost 3 units and not 4. Where K ends within a stage both operands are zero.
#pragma once
#include "../cuda_mma_args.h"
#include "index.cuh"
#include "ptx.cuh"
#include "relu.cuh"

// ---- tile --------------------------------------------------------------------------------------
// kSm75: fp16 by eight k, and copies through registers into a ring of two stages.
template <class E_, int kWarpTiles_, int kWarpsM_, int kWarpsN_, bool kSm75_ = false>
struct MmaTile {
  using E = E_;
  static constexpr bool kSm75 = kSm75_;
  static constexpr int kWarpTiles = kWarpTiles_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kRows = 16 * kWarpTiles * kWarpsM, kColumns = 32 * kWarpsN;
  static constexpr int kUnit = 16 / sizeof(E);  // elements
  static constexpr int kStageUnits = 4, kStages = kSm75 ? 2 : 3;
  static constexpr int kPanelA = kRows * 16 * kStageUnits, kPanelB = kColumns * 16 * kStageUnits;
  static constexpr int kStage = kPanelA + kPanelB, kRing = kStages * kStage;  // bytes
  static constexpr int kLoadRows = kThreads / kStageUnits;  // rows of a panel per pass of the block
  static constexpr int kLoadsA = (kRows + kLoadRows - 1) / kLoadRows;
  static constexpr int kLoadsB = (kColumns + kLoadRows - 1) / kLoadRows;

  static_assert(
      kWarpTiles == 7 || kWarpTiles == 4,
      "7 x 2 tiles of 16 rows hold 14x14, 7x28 and four 7x7 maps with 28 rows to spare; 4 "
      "make 64 rows, for one 7x7. 8 lost: 128 accumulators and 13 of 16 tiles filled");
  static_assert(kThreads == 128 || kThreads == 256, "the entries' launch bounds");
  static_assert(kStageUnits == 4,
                "a row of a stage is 64 bytes: 8 rows meet 8 groups of 4 banks under panel_offset. "
                "8 units lost: 45 KB more, which costs whole 14x14 maps on 99 KB");
};

// Byte of (row, unit) in a panel. Rows 2i and 2i+1 fill 128 bytes; their four units are turned by
// i, so that 8 neighbouring rows of one unit, and 8 neighbouring units, lie in different banks.
__device__ __forceinline__ unsigned panel_offset(int row, int unit) {
  return row * 64 + ((unit ^ (row >> 1)) & 3) * 16;
}

// A thread's place in the tile, and what of its addresses no stage changes: the compiler would
// otherwise compute them again in every stage.
template <class T>
struct Lane {
  int warp_m, warp_n;   // of the warp in the block
  int lane, g, t;       // g = lane / 4, t = lane % 4
  int row, unit;        // of the first unit it copies; its next rows are kLoadRows apart
  unsigned to;          // that unit's place in A's panel of the first slot of the ring
  unsigned a_at, b_at;  // what it reads there: of tile 0 of A, of the block's first columns of B
  __device__ __forceinline__ explicit Lane(unsigned ring)
      : warp_m(threadIdx.x / 32 % T::kWarpsM),
        warp_n(threadIdx.x / 32 / T::kWarpsM),
        lane(threadIdx.x % 32),
        g(lane / 4),
        t(lane % 4),
        row(threadIdx.x / T::kStageUnits),
        unit(threadIdx.x % T::kStageUnits),
        to(computed_here(ring + panel_offset(row, unit))),
        a_at(computed_here(ring + panel_offset(address_row(0), lane / 16))),
        b_at(computed_here(ring + T::kPanelA +
                           panel_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2))) {}
  // the row whose address this lane gives for tile i of A, and the first row it holds results of
  __device__ __forceinline__ int address_row(int i) const {
    return (warp_m * T::kWarpTiles + i) * 16 + lane % 16;
  }
  __device__ __forceinline__ int result_row(int i, int half) const {
    return (warp_m * T::kWarpTiles + i) * 16 + g + 8 * half;
  }
  __device__ __forceinline__ int first_column(int nt) const { return warp_n * 8 * nt; }
};

// ---- pixels ------------------------------------------------------------------------------------
// A pixel's h and w in one register, added and compared as one: both may be negative and less than
// 16384 + 128. A corner kFarAbove or a tap kFarBelow is outside of every map, also their sum.
constexpr int kFarAbove = -32768 * 65536, kFarBelow = (16384 + 64) * 65536;
__device__ __forceinline__ int join_corner(int h, int w) { return h * 65536 + w; }
__device__ __forceinline__ int column_of(int at) { return (short)at; }
__device__ __forceinline__ int row_of(int at) { return (at - column_of(at)) >> 16; }
// A half that is negative, or larger than that of the map's last pixel, sets its sign, or its
// borrow the other's.
__device__ __forceinline__ bool inside_map(int at, int last) {
  return ((at | (last - at)) & 0x80008000) == 0;
}

// ---- copies ------------------------------------------------------------------------------------
// What a thread copies of a stage: asynchronously at once, or on sm_75 into registers, to be stored
// when the stage before has been multiplied. `which` is a constant: 0 .. kLoadsA + kLoadsB - 1.
template <class T, bool kSm75 = T::kSm75>
struct Copies {
  __device__ __forceinline__ void begin() {}
  __device__ __forceinline__ void copy(int, unsigned to, const void* from, bool wanted) {
    cp_async16(to, from, wanted);
  }
};
template <class T>
struct Copies<T, true> {
  static constexpr int kPass = T::kLoadRows * 64;  // bytes from a thread's row to its next
  static_assert(T::kLoadRows % 8 == 0, "panel_offset turns all rows of a thread alike");
  uint4 values[T::kLoadsA + T::kLoadsB];
  unsigned first[2], copied;  // its first row's place in A and B; a bit for each copy
  __device__ __forceinline__ void begin() { copied = 0; }
  __device__ __forceinline__ void copy(int which, unsigned to, const void* from, bool wanted) {
    const int is_b = which >= T::kLoadsA;
    first[is_b] = to - (which - is_b * T::kLoadsA) * kPass;
    copied |= 1u << which;
    values[which] = wanted ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void store() const {
#pragma unroll
    for (int i = 0; i < T::kLoadsA + T::kLoadsB; i++) {
      const int is_b = i >= T::kLoadsA;
      if (copied >> i & 1) store_shared(first[is_b] + (i - is_b * T::kLoadsA) * kPass, values[i]);
    }
  }
};

// Rows of A: a thread's unit of each of its rows; place(i) says where that begins and whether it is
// wanted, zeros where not.
template <class E>
struct Source {
  const E* from;
  bool wanted;
};
template <class T, class Place>
__device__ __forceinline__ void load_pixels(Copies<T>& copies, const Lane<T>& l, int slot,
                                            Place place) {
#pragma unroll
  for (int i = 0; i < T::kLoadsA; i++) {
    const Source<typename T::E> source = place(i);
    if ((i + 1) * T::kLoadRows <= T::kRows || i * T::kLoadRows + l.row < T::kRows)
      copies.copy(i, l.to + slot + i * T::kLoadRows * 64, source.from, source.wanted);
  }
}

// Rows of B: `count` output channels from `row` of `rows`, and of each the units stage * 4 .. + 3.
template <class T>
struct FilterRows {
  const typename T::E* from;  // (rows, units): this thread's unit of its first row
  int step;                   // elements to its next row
  int count_left, rows_left, units_left;
  __device__ __forceinline__ FilterRows(const Lane<T>& l, const typename T::E* w, int row, int rows,
                                        int count, int units)
      : from(element<T::kUnit>(w, (row + l.row) * units + l.unit)),
        step(T::kLoadRows * units * T::kUnit),
        count_left(computed_here(count - l.row)),
        rows_left(computed_here(rows - row - l.row)),
        units_left(computed_here(units - l.unit)) {}
  __device__ __forceinline__ void load(Copies<T>& copies, const Lane<T>& l, int slot,
                                       int stage) const {
    const int wanted = stage * T::kStageUnits < units_left ? rows_left : 0;
    const auto unit = element<T::kStageUnits * T::kUnit>(from, stage);
    const unsigned to = l.to + slot + T::kPanelA;
    if (8 * T::kWarpsN >= T::kLoadRows || 0 < count_left)  // first: the least columns there are
      copies.copy(T::kLoadsA, to, unit, 0 < wanted);
    if (T::kLoadsB == 1 || count_left <= T::kLoadRows) return;
    copy<1>(copies, to, unit, wanted);
    copy<2>(copies, to, unit, wanted);
    copy<3>(copies, to, unit, wanted);
    static_assert(T::kLoadsB <= 4, "copies are written out");
  }
  template <int i>
  __device__ __forceinline__ void copy(Copies<T>& copies, unsigned to, const typename T::E* unit,
                                       int wanted) const {
    if constexpr (i < T::kLoadsB)
      if (i * T::kLoadRows < count_left)
        copies.copy(T::kLoadsA + i, to + i * T::kLoadRows * 64, element<i>(unit, step),
                    i * T::kLoadRows < wanted);
  }
};

// Two stages, sm_75: while one is multiplied, the next is on its way to registers.
template <class T, class Load, class Multiply>
__device__ __forceinline__ void ring_of_two(int stages, Load load, Multiply multiply) {
  Copies<T> copies;
  copies.begin(), load(0, 0, copies), copies.store();
#pragma unroll 1
  for (int i = 0, slot = 0; i < stages; i++, slot = T::kStage - slot) {
    __syncthreads();  // stage i is there, and nobody reads the other slot any more
    copies.begin();
    if (i + 1 < stages) load(i + 1, T::kStage - slot, copies);
    multiply(i, slot);
    copies.store();
  }
  __syncthreads();
}

// A ring of kStages panels: while stage i is multiplied, the copies of the next two are under way.
// One barrier a stage: it publishes stage i and says that i - 1 is read. Ends with the ring free.
template <class T, class Load, class Multiply>
__device__ __forceinline__ void ring_of_three(int stages, Load load, Multiply multiply) {
  Copies<T> copies;
#pragma unroll
  for (int i = 0; i < T::kStages - 1; i++) {
    if (i < stages) load(i, i * T::kStage, copies);
    cp_async_commit();
  }
  int slot = 0, next = (T::kStages - 1) * T::kStage;
#pragma unroll 1
  for (int i = 0; i < stages; i++) {
    cp_async_wait<T::kStages - 2>();
    __syncthreads();
    if (i + T::kStages - 1 < stages) load(i + T::kStages - 1, next, copies);
    cp_async_commit();
    multiply(i, slot);
    slot = slot + T::kStage == T::kRing ? 0 : slot + T::kStage;
    next = next + T::kStage == T::kRing ? 0 : next + T::kStage;
  }
  cp_async_wait<0>();
  __syncthreads();
}

// load(stage, slot, copies) fills a stage, multiply(stage, slot) uses it.
template <class T, class Load, class Multiply>
__device__ __forceinline__ void ring(int stages, Load load, Multiply multiply) {
  if constexpr (T::kSm75)
    ring_of_two<T>(stages, load, multiply);
  else
    ring_of_three<T>(stages, load, multiply);
}

// ---- multiply-add -------------------------------------------------------------------------------
template <class E, int n>
__device__ __forceinline__ void round_operand(unsigned (&v)[n]) {
  if constexpr (sizeof(E) == 4) {
#pragma unroll
    for (int i = 0; i < n; i++) v[i] = to_tf32(v[i]);
  }
}

// Two mma deep, nt tiles wide; a(step, i) is the address this lane gives for tile i of A, b that
// for its warp's first columns: the units of the second step lie 32 bytes from those of the first,
// on the side that panel_offset turns them to.
template <class T, int nt, bool kRoundA, class Address>
__device__ __forceinline__ void multiply_stage(float (&acc)[T::kWarpTiles][4][4], Address a,
                                               unsigned from_b) {
  using E = typename T::E;
#pragma unroll(T::kSm75 ? 1 : T::kStageUnits / 2)
  for (int step = 0; step < T::kStageUnits / 2; step++) {
    unsigned b[4][2];
#pragma unroll
    for (int j = 0; j + 1 < nt; j += 2) {
      unsigned v[4];
      ldmatrix_x4(v, (from_b ^ 32 * step) + j * 8 * 64);
      round_operand<E>(v);
      b[j][0] = v[0], b[j][1] = v[1], b[j + 1][0] = v[2], b[j + 1][1] = v[3];
    }
    if constexpr (nt % 2 == 1) {  // addresses of lanes 16..31 are not looked at
      ldmatrix_x2(b[nt - 1], (from_b ^ 32 * step) + (nt - 1) * 8 * 64);
      round_operand<E>(b[nt - 1]);
    }
#pragma unroll
    for (int i = 0; i < T::kWarpTiles; i++) {
      unsigned v[4];
      ldmatrix_x4(v, a(step, i));
      if constexpr (kRoundA) round_operand<E>(v);
#pragma unroll
      for (int j = 0; j < nt; j++)
        if constexpr (T::kSm75)
          mma_halves(acc[i][j], v, b[j], E{});
        else
          mma(acc[i][j], v, b[j], E{});
    }
  }
}

template <class T, bool kRoundA, class Address>
__device__ __forceinline__ void multiply(int nt, float (&acc)[T::kWarpTiles][4][4], Address a,
                                         unsigned from_b) {
  if (nt > 2) {  // two branches; a switch came out as a table of jumps in constant memory
    if (nt > 3)
      multiply_stage<T, 4, kRoundA>(acc, a, from_b);
    else
      multiply_stage<T, 3, kRoundA>(acc, a, from_b);
  } else {
    if (nt > 1)
      multiply_stage<T, 2, kRoundA>(acc, a, from_b);
    else
      multiply_stage<T, 1, kRoundA>(acc, a, from_b);
  }
}

// What a lane reads in the first slot: its warp's first columns.
template <class T>
__device__ __forceinline__ unsigned columns_address(const Lane<T>& l, int nt) {
  return computed_here(l.b_at + l.first_column(nt) * 64);
}

// A stage with both operands in panels.
template <class T>
__device__ __forceinline__ void multiply_panels(int nt, float (&acc)[T::kWarpTiles][4][4],
                                                unsigned from_a, unsigned from_b) {
  multiply<T, true>(
      nt, acc, [&](int step, int i) { return (from_a ^ 32 * step) + i * 1024; }, from_b);
}

// Tiles of 8 columns a warp needs for what is left of N.
template <class T>
__device__ __forceinline__ int warp_columns(int left) {
  const int nt = ceil_div(left, 8 * T::kWarpsN);
  return nt < 4 ? nt : 4;
}

template <class T>
__device__ __forceinline__ void clear(float (&acc)[T::kWarpTiles][4][4]) {
#pragma unroll
  for (int i = 0; i < T::kWarpTiles; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;
}
