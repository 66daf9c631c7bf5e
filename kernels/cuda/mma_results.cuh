// The way out of the tensor-core kernels: bias and ReLU, rows of a map that the results are masked
// by or added to, and the stores.
//
// fp32: the four lanes of a row hold eight columns of a tile, 32 bytes, and access them where they
// are: a whole sector. 16 bits: that is half a sector, and a warp with an odd number of tiles would
// leave the other half to its neighbour. So the block's tile goes through the ring, which is free
// by then, and rows are accessed in units, four of a row by four neighbouring threads (or all it
// has):
//
//   panel u / 4 of the ring, row, unit u % 4      of the unit u of a row of 8 nt kWarpsN columns
//
// Lost: units gathered by shuffles within a warp (half sectors of 8 and 24 columns: 15 to 100 %
// more of them; and more instructions, for the place of a row was found by each of its lanes, 14
// times instead of four, and all of four tiles were computed of a warp that has one).
#pragma once
#include "mma_tile.cuh"

// acc = relu(acc + b); column0: the block's first of `end`. A null b adds nothing.
template <class T>
__device__ __forceinline__ void finish_results(float (&acc)[T::kWarpTiles][4][4], const Lane<T>& l,
                                               int nt, const float* __restrict__ b, int column0,
                                               int end, bool rectify = true) {
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (j > 0 && j >= nt) continue;
      const int k = column0 + l.first_column(nt) + 8 * j + 2 * l.t + e;
      const float bias = b && k < end ? b[k] : 0.f;
#pragma unroll
      for (int i = 0; i < T::kWarpTiles; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float& v = acc[i][j][2 * half + e];
          v += bias;
          if (rectify) v = relu(v);
        }
    }
}

// at_row(row)(column, pair) of every pair of neighbouring columns that a lane holds, by their
// places in the block's tile; pair[0] and pair[1] are its values.
template <class T, class AtRow>
__device__ __forceinline__ void each_pair(float (&acc)[T::kWarpTiles][4][4], const Lane<T>& l,
                                          int nt, AtRow at_row) {
#pragma unroll
  for (int i = 0; i < T::kWarpTiles; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const auto pair = at_row(l.result_row(i, half));
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (j < nt) pair(l.first_column(nt) + 8 * j + 2 * l.t, &acc[i][j][2 * half]);
    }
}

// What of a tile lies in the ring at once: `count` of each warp's tiles of rows from `first`.
template <class T>
struct Staged {
  static constexpr bool kWhole = T::kRows * 64 * T::kWarpsN <= T::kRing;
  static constexpr int kTiles = kWhole ? T::kWarpTiles : 4;
  static constexpr int kRows = 16 * kTiles * T::kWarpsM, kPanel = kRows * 64;  // a panel's bytes
  static_assert(sizeof(typename T::E) == 2 && kPanel * T::kWarpsN <= T::kRing,
                "32 columns of 16 bits a warp are a panel of four units");

  // Byte of (row, unit) in a panel: as panel_offset, with the two bits of row / 2 changing places,
  // so that two units of four rows lie in different banks as well.
  static __device__ __forceinline__ unsigned offset(int row, int unit) {
    return row * 64 + ((unit ^ (row & 2) ^ (row >> 2 & 1)) & 3) * 16;
  }

  // Tiles of a warp that are staged: a row of three units takes the wavefronts of one of four.
  static __device__ __forceinline__ int tiles(int nt) {
    return T::kWarpsN == 1 && nt == 3 ? 4 : nt;
  }

  // f(address of a word in the ring, the pair it holds) of every pair of a lane.
  template <class F>
  static __device__ __forceinline__ void each_word(float (&acc)[T::kWarpTiles][4][4],
                                                   const Lane<T>& l, int nt, unsigned ring,
                                                   int first, F f) {
    const int row = l.warp_m * kTiles * 16 + l.g;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int unit = l.first_column(nt) / 8 + j;
      const unsigned at = ring + unit / 4 * kPanel + offset(row, unit % 4) + 4 * l.t;
#pragma unroll
      for (int i = 0; i < kTiles; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          if (j < tiles(nt) && first + i < T::kWarpTiles)
            f(at + (16 * i + 8 * half) * 64, &acc[(first + i) % T::kWarpTiles][j][2 * half]);
    }
  }

  // at_row(row)(column, address in the ring) of every unit that a thread moves.
  template <class AtRow>
  static __device__ __forceinline__ void each_unit(int nt, unsigned ring, int first, AtRow at_row) {
    const int units = tiles(nt) * T::kWarpsN,
              shift = units > 2 ? 2 : units - 1;  // one, two or four lanes
    const int own = threadIdx.x & ((1 << shift) - 1);
#pragma unroll
    for (int i = 0; i < (kRows + T::kLoadRows - 1) / T::kLoadRows; i++) {
      const int at = (i * T::kThreads + threadIdx.x) >> shift, of_warp = at % (16 * kTiles);
      if (at >= kRows || first * 16 + of_warp >= 16 * T::kWarpTiles) continue;
      const auto unit = at_row((at / (16 * kTiles) * T::kWarpTiles + first) * 16 + of_warp);
#pragma unroll
      for (int panel = 0; panel < T::kWarpsN; panel++)
        if (4 * panel + own < units)
          unit(8 * (4 * panel + own), ring + panel * kPanel + offset(at, own));
    }
  }
};

// A row of a map from the block's first column on, as far as it goes: the usual place(row).
template <class E>
struct Row {
  E* first;
  int columns;
  __device__ __forceinline__ E* operator()(int column) const {
    return column < columns ? first + column : nullptr;
  }
};

// update(value, value at its place in a map). place(row)(column) is the address of a column of the
// block's tile, or null: counts as zero. The ring is free before and after; all threads come here.
template <class T, class Place, class Update>
__device__ __forceinline__ void update_results(float (&acc)[T::kWarpTiles][4][4], const Lane<T>& l,
                                               int nt, unsigned ring, Place place, Update update) {
  using E = typename T::E;
  if constexpr (sizeof(E) == 4) {
    each_pair<T>(acc, l, nt, [&](int row) {
      return [from_row = place(row), update](int column, float* v) {
        const float* from = from_row(column);
        const float2 old = from ? *(const float2*)from : make_float2(0.f, 0.f);
        update(v[0], old.x), update(v[1], old.y);
      };
    });
  } else {
#pragma unroll
    for (int first = 0; first < T::kWarpTiles; first += Staged<T>::kTiles) {
      Staged<T>::each_unit(nt, ring, first, [&](int row) {
        return [from_row = place(row)](int column, unsigned at) {
          const E* from = from_row(column);
          store_shared(at, from ? *(const uint4*)from : make_uint4(0, 0, 0, 0));
        };
      });
      __syncthreads();
      Staged<T>::each_word(acc, l, nt, ring, first, [&](unsigned at, float* v) {
        float old[2];
        unpack(load_shared(at), old[0], old[1], E{});
        update(v[0], old[0]), update(v[1], old[1]);
      });
      __syncthreads();
    }
  }
}

// The results rounded to the storage; place as above, null: is not stored.
template <class T, class Place>
__device__ __forceinline__ void store_results(float (&acc)[T::kWarpTiles][4][4], const Lane<T>& l,
                                              int nt, unsigned ring, Place place) {
  using E = typename T::E;
  if constexpr (sizeof(E) == 4) {
    each_pair<T>(acc, l, nt, [&](int row) {
      return [to_row = place(row)](int column, const float* v) {
        if (float* p = to_row(column)) *(float2*)p = make_float2(v[0], v[1]);
      };
    });
  } else {
#pragma unroll
    for (int first = 0; first < T::kWarpTiles; first += Staged<T>::kTiles) {
      Staged<T>::each_word(acc, l, nt, ring, first, [&](unsigned at, const float* v) {
        store_shared(at, pack(v[0], v[1], E{}));
      });
      __syncthreads();
      Staged<T>::each_unit(nt, ring, first, [&](int row) {
        return [to_row = place(row)](int column, unsigned at) {
          const uint4 unit =
              load_shared_unit(at);  // also past the end: a wavefront has eight of them
          if (E* p = to_row(column)) store_global(p, unit);
        };
      });
      __syncthreads();
    }
  }
}
