// Matrix instructions of a warp: ldmatrix, movmatrix, mma.sync, as meetings of its 32 lanes.
//
// Fragment maps, lane = 4 group + place:
//
//   8x8 of 16 bits   a register holds (row group, columns 2 place and 2 place + 1)
//   A, 16 bits       registers: rows group, group + 8; then the same for k + 8
//   A, tf32          (group, place), (group + 8, place); then the same for k + 4
//   B                (k as A's columns, n = group)
//   C, D             rows group, group + 8; columns 2 place, 2 place + 1
//
// Products are exact in fp32 and summed there in ascending k, starting at C. The machine keeps more
// bits of some of these sums and fewer of others: compare real values with a tolerance.
#pragma once
#include "device.h"
#include "values.h"

namespace emu {

template <class T, int N>
struct Fragment {
  T v[N];
};

// All 32 lanes take part; the runtime ends a launch in which one cannot.
inline void meet_matrix(Thread& t, uint32_t key, uint32_t site, void* record, Rendezvous run) {
  meet(t, kKeyMatrix + key, ~0u, site, record, run, true);
}
// ---- 8x8 matrices of 16-bit elements
// -------------------------------------------------------------
template <int N>
struct MatrixRecord {
  uint16_t row[8];  // of matrix lane / 8, brought by this lane
  uint32_t result[N];
};

template <int N, bool kTrans>
inline void share_matrices(Thread* const*, void* const* records, uint32_t) {
  const auto record = [&](int lane) { return static_cast<MatrixRecord<N>*>(records[lane]); };
  for (int lane = 0; lane < kWarpSize; lane++) {
    const int group = lane / 4, place = lane % 4;
    for (int m = 0; m < N; m++) {
      uint32_t bits = 0;
      for (int i = 0; i < 2; i++) {
        const int r = kTrans ? 2 * place + i : group, c = kTrans ? group : 2 * place + i;
        bits |= static_cast<uint32_t>(record(8 * m + r)->row[c]) << 16 * i;
      }
      record(lane)->result[m] = bits;
    }
  }
}

// Lane l brings the address of row l % 8 of matrix l / 8; addresses of other lanes do not count.
template <int N, bool kTrans>
EMU_INLINE Fragment<uint32_t, N> ldmatrix(Thread& t, uint32_t address, uint32_t site) {
  MatrixRecord<N> record{};
  if (t.lane < 8 * N) {
    before_access<Space::kShared, 16>(t, address, Access::kMatrix, Order::kWeak, site);
    std::memcpy(record.row, host<Space::kShared>(t, address), sizeof record.row);
  }
  meet_matrix(t, kTrans ? N + 8 : N, site, &record, share_matrices<N, kTrans>);
  Fragment<uint32_t, N> result;
  std::memcpy(result.v, record.result, sizeof result.v);
  return result;
}

struct TransposeRecord {
  uint32_t value, result;
};
inline uint32_t transpose(Thread& t, uint32_t value, uint32_t site) {
  TransposeRecord record{value, 0};
  meet_matrix(t, 16, site, &record, [](Thread* const*, void* const* records, uint32_t) {
    const auto at = [&](int lane) { return static_cast<TransposeRecord*>(records[lane]); };
    for (int lane = 0; lane < kWarpSize; lane++) {
      uint32_t bits = 0;
      for (int i = 0; i < 2; i++) {
        const int row = 2 * (lane % 4) + i, column = lane / 4;
        const uint32_t pair = at(4 * row + column / 2)->value;
        bits |= (pair >> 16 * (column & 1) & 0xffff) << 16 * i;
      }
      at(lane)->result = bits;
    }
  });
  return record.result;
}

// ---- mma.sync
// ------------------------------------------------------------------------------------ K: the
// summed extent; S: float or f16, the type of C and D.
template <class T, int K>
constexpr int kRegistersA = 16 * K * (std::is_same_v<T, tf32> ? 4 : 2) / (4 * kWarpSize);
template <class T, int K>
constexpr int kRegistersB = kRegistersA<T, K> / 2;
template <class S>
using Sum = std::conditional_t<std::is_same_v<S, float>, Fragment<float, 4>, Fragment<uint32_t, 2>>;

template <class T, int K, class S>
struct MultiplyRecord {
  Fragment<uint32_t, kRegistersA<T, K>> a;
  Fragment<uint32_t, kRegistersB<T, K>> b;
  Sum<S> c;
};

// tf32 has no bits below the 13th: they are cut off, a NaN stays one.
inline float element(tf32 x) {
  const uint32_t kept = x.bits & 0xffffe000u;
  const float cut = as<float>(kept);
  return std::isnan(as<float>(x.bits)) ? as<float>(0x7fffffffu) : cut;
}
inline float element(f16 x) { return static_cast<float>(value(x)); }
inline float element(bf16 x) { return as<float>(static_cast<uint32_t>(x.bits) << 16); }

// Calls use(m_or_n, k, value) for every element of A or B that one register of a lane holds.
template <class T, class Use>
inline void unpack(uint32_t bits, int lane, int major, int k, Use use) {
  const int place = lane % 4;
  if constexpr (std::is_same_v<T, tf32>) {
    use(major, k + place, element(tf32{bits}));
  } else {
    use(major, k + 2 * place, element(T{static_cast<uint16_t>(bits)}));
    use(major, k + 2 * place + 1, element(T{static_cast<uint16_t>(bits >> 16)}));
  }
}

template <class T, int K, class S>
inline void multiply(Thread* const*, void* const* records, uint32_t) {
  using Record = MultiplyRecord<T, K, S>;
  const auto record = [&](int lane) { return static_cast<Record*>(records[lane]); };
  constexpr int kStep = std::is_same_v<T, tf32> ? 4 : 8;  // of k, to the next register
  alignas(32) float a[16][K], b[K][8], c[16][8];
  for (int lane = 0; lane < kWarpSize; lane++) {
    const int group = lane / 4, place = lane % 4;
    const Record& own = *record(lane);
    for (int i = 0; i < kRegistersA<T, K>; i++) {
      unpack<T>(own.a.v[i], lane, group + 8 * (i & 1), kStep * (i >> 1),
                [&](int m, int k, float x) { a[m][k] = x; });
    }
    for (int i = 0; i < kRegistersB<T, K>; i++) {
      unpack<T>(own.b.v[i], lane, group, kStep * i, [&](int n, int k, float x) { b[k][n] = x; });
    }
    for (int i = 0; i < 4; i++) {
      float& to = c[group + 8 * (i >> 1)][2 * place + (i & 1)];
      if constexpr (std::is_same_v<S, float>) {
        to = own.c.v[i];
      } else {
        to = element(f16{static_cast<uint16_t>(own.c.v[i >> 1] >> 16 * (i & 1))});
      }
    }
  }
  for (int m = 0; m < 16; m++) {
    for (int k = 0; k < K; k++) {
      for (int n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarpSize; lane++) {
    const int group = lane / 4, place = lane % 4;
    for (int half = 0; half < 2; half++) {
      const float* from = c[group + 8 * half] + 2 * place;
      if constexpr (std::is_same_v<S, float>) {
        record(lane)->c.v[2 * half] = from[0], record(lane)->c.v[2 * half + 1] = from[1];
      } else {
        record(lane)->c.v[half] = make_pair(round_to<f16>(from[0]), round_to<f16>(from[1])).bits;
      }
    }
  }
}

template <class T, int K, class S>
EMU_INLINE Sum<S> mma(Thread& t, const Fragment<uint32_t, kRegistersA<T, K>>& a,
                      const Fragment<uint32_t, kRegistersB<T, K>>& b, const Sum<S>& c,
                      uint32_t site) {
  MultiplyRecord<T, K, S> record{a, b, c};
  meet_matrix(t, 32, site, &record, multiply<T, K, S>);
  return record.c;
}

}  // namespace emu
