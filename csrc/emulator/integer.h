// Integer and bit operations of PTX. Arithmetic wraps; shifts by the width or more are defined.
#pragma once

#include "types.h"

namespace emu {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
using Wide = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>>;

template <class T>
constexpr int kBits = 8 * sizeof(T);

template <class T>
using IfInteger = std::enable_if_t<std::is_integral_v<T>, int>;

template <class D, class S>
inline D saturate(S x) {
  const __int128 wide = x, least = std::numeric_limits<D>::min(),
                 greatest = std::numeric_limits<D>::max();
  return static_cast<D>(wide < least ? least : wide > greatest ? greatest : wide);
}

// Small types promote to int: the detour over 64 unsigned bits keeps every wrap defined.
template <class T, IfInteger<T> = 0>
inline T add(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
template <class T, IfInteger<T> = 0>
inline T sub(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
inline int32_t add_sat(int32_t a, int32_t b) {
  return saturate<int32_t>(static_cast<int64_t>(a) + b);
}
inline int32_t sub_sat(int32_t a, int32_t b) {
  return saturate<int32_t>(static_cast<int64_t>(a) - b);
}
template <class T>
inline T mul_lo(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <class T>
inline T mul_hi(T a, T b) {
  return static_cast<T>((static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)) >> kBits<T>);
}
template <class T>
inline Wide<T> mul_wide(T a, T b) {
  return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b);
}
inline int32_t mad_hi_sat(int32_t a, int32_t b, int32_t c) {
  return saturate<int32_t>(static_cast<int64_t>(mul_hi(a, b)) + c);
}
template <class T>
inline T low24(T a) {
  return std::is_signed_v<T> ? static_cast<T>(static_cast<uint32_t>(a) << 8) >> 8
                             : static_cast<T>(a & 0xffffff);
}
template <class T>
inline T mul24_lo(T a, T b) {
  return mul_lo(low24(a), low24(b));
}
template <class T>
inline T mul24_hi(T a, T b) {
  return static_cast<T>((static_cast<Wide<T>>(low24(a)) * low24(b)) >> 16);
}

// The divisor is not zero (the caller has checked); the least number by -1 wraps.
template <class T>
inline T div(T a, T b) {
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return sub(T{0}, a);
  return static_cast<T>(a / b);
}
template <class T>
inline T rem(T a, T b) {
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <class T, IfInteger<T> = 0>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T, IfInteger<T> = 0>
inline T max(T a, T b) {
  return a < b ? b : a;
}
template <class T, IfInteger<T> = 0>
inline T neg(T a) {
  return sub(T{0}, a);
}
template <class T, IfInteger<T> = 0>
inline T abs(T a) {
  return a < 0 ? neg(a) : a;
}
template <class T>
inline T sad(T a, T b, T c) {
  return add(c, a < b ? sub(b, a) : sub(a, b));
}

// ---- with the carry flag
// -------------------------------------------------------------------------
template <class T>
inline T add_carry(T a, T b, bool in, bool& out) {
  const unsigned __int128 sum = static_cast<unsigned __int128>(static_cast<Unsigned<T>>(a)) +
                                static_cast<Unsigned<T>>(b) + in;
  out = sum >> kBits<T> & 1;
  return static_cast<T>(sum);
}
template <class T>
inline T sub_borrow(T a, T b, bool in, bool& out) {
  const unsigned __int128 difference = static_cast<unsigned __int128>(static_cast<Unsigned<T>>(a)) -
                                       static_cast<Unsigned<T>>(b) - in;
  out = difference >> kBits<T> & 1;
  return static_cast<T>(difference);
}

// ---- bits
// ----------------------------------------------------------------------------------------
template <class T>
inline T shl(T a, uint32_t n) {
  return n >= kBits<T> ? T{0} : static_cast<T>(static_cast<uint64_t>(a) << n);
}
template <class T>
inline T shr(T a, uint32_t n) {
  if (n >= kBits<T>) return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(a >> n);
}
inline uint32_t funnel_left(uint32_t lower, uint32_t upper, uint32_t n) {
  const uint64_t both = static_cast<uint64_t>(upper) << 32 | lower;
  return static_cast<uint32_t>(both << n >> 32);
}
inline uint32_t funnel_right(uint32_t lower, uint32_t upper, uint32_t n) {
  const uint64_t both = static_cast<uint64_t>(upper) << 32 | lower;
  return static_cast<uint32_t>(both >> n);
}
inline uint32_t shf_l_clamp(uint32_t a, uint32_t b, uint32_t n) {
  return funnel_left(a, b, n < 32 ? n : 32);
}
inline uint32_t shf_l_wrap(uint32_t a, uint32_t b, uint32_t n) { return funnel_left(a, b, n & 31); }
inline uint32_t shf_r_clamp(uint32_t a, uint32_t b, uint32_t n) {
  return funnel_right(a, b, n < 32 ? n : 32);
}
inline uint32_t shf_r_wrap(uint32_t a, uint32_t b, uint32_t n) {
  return funnel_right(a, b, n & 31);
}

inline uint32_t popc(uint32_t a) { return static_cast<uint32_t>(__builtin_popcount(a)); }
inline uint32_t popc(uint64_t a) { return static_cast<uint32_t>(__builtin_popcountll(a)); }
inline uint32_t clz(uint32_t a) { return a ? static_cast<uint32_t>(__builtin_clz(a)) : 32; }
inline uint32_t clz(uint64_t a) { return a ? static_cast<uint32_t>(__builtin_clzll(a)) : 64; }
template <class T>
inline T brev(T a) {
  T reversed = 0;
  for (int i = 0; i < kBits<T>; i++) reversed = static_cast<T>(reversed << 1 | (a >> i & 1));
  return reversed;
}
// Position of the highest bit that differs from the sign; all ones where there is none.
template <class T>
inline uint32_t bfind(T a) {
  const Unsigned<T> bits = static_cast<Unsigned<T>>(std::is_signed_v<T> && a < 0 ? ~a : a);
  return bits ? static_cast<uint32_t>(kBits<T> - 1) - clz(bits) : ~0u;
}
template <class T>
inline uint32_t bfind_shift(T a) {
  const uint32_t at = bfind(a);
  return at == ~0u ? at : static_cast<uint32_t>(kBits<T> - 1) - at;
}
template <class T>
inline T bfe(T a, uint32_t position, uint32_t length) {
  const int first = static_cast<int>(position & 255), count = static_cast<int>(length & 255);
  const int last = first + count - 1 < kBits<T> - 1 ? first + count - 1 : kBits<T> - 1;
  const bool sign = std::is_signed_v<T> && count > 0 && (a >> last & 1);
  Unsigned<T> field = 0;
  for (int i = 0; i < kBits<T>; i++) {
    const bool bit = i < count && first + i < kBits<T> ? a >> (first + i) & 1 : sign;
    field |= static_cast<Unsigned<T>>(bit) << i;
  }
  return static_cast<T>(field);
}
template <class T>
inline T bfi(T a, T b, uint32_t position, uint32_t length) {
  const uint32_t first = position & 255, count = length & 255;
  if (first >= kBits<T>) return b;
  const T field = count >= kBits<T> ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << count) - 1);
  const T mask = static_cast<T>(field << first);
  return static_cast<T>((b & ~mask) | (a << first & mask));
}
inline uint32_t bmsk_clamp(uint32_t a, uint32_t b) {
  return shl(~shl(~0u, b < 32 ? b : 32), a < 32 ? a : 32);
}
inline uint32_t bmsk_wrap(uint32_t a, uint32_t b) { return ~(~0u << (b & 31)) << (a & 31); }
template <class T>
inline T szext(T a, uint32_t bits) {  // bits: 0 ... 32
  if (bits == 0) return 0;
  const uint32_t shifted = static_cast<uint32_t>(a) << (32 - bits);
  return static_cast<T>(static_cast<T>(shifted) >> (32 - bits));
}
template <class T>
inline T szext_clamp(T a, uint32_t b) {
  return szext(a, b < 32 ? b : 32);
}
template <class T>
inline T szext_wrap(T a, uint32_t b) {
  return szext(a, b & 31);
}

// kTable holds the result for a = 0xf0, b = 0xcc, c = 0xaa.
template <uint32_t kTable>
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (uint32_t i = 0; i < 8; i++) {
    const uint32_t chosen = (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    if (kTable >> i & 1) result |= chosen;
  }
  return result;
}

inline uint32_t byte_of(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  const uint32_t byte = static_cast<uint32_t>(both >> 8 * (selector & 7) & 255);
  return selector & 8 ? (byte & 128 ? 255 : 0) : byte;
}
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selectors) {
  uint32_t result = 0;
  for (uint32_t i = 0; i < 4; i++) result |= byte_of(a, b, selectors >> 4 * i & 15) << 8 * i;
  return result;
}
// The named modes are tables of selectors, indexed by the low two bits of c.
inline uint32_t prmt_f4e(uint32_t a, uint32_t b, uint32_t c) {
  constexpr uint32_t kSelectors[] = {0x3210, 0x4321, 0x5432, 0x6543};
  return prmt(a, b, kSelectors[c & 3]);
}
inline uint32_t prmt_b4e(uint32_t a, uint32_t b, uint32_t c) {
  constexpr uint32_t kSelectors[] = {0x5670, 0x6701, 0x7012, 0x0123};
  return prmt(a, b, kSelectors[c & 3]);
}
inline uint32_t prmt_rc8(uint32_t a, uint32_t b, uint32_t c) {
  return prmt(a, b, 0x1111 * (c & 3));
}
inline uint32_t prmt_ecl(uint32_t a, uint32_t b, uint32_t c) {
  constexpr uint32_t kSelectors[] = {0x3210, 0x3211, 0x3222, 0x3333};
  return prmt(a, b, kSelectors[c & 3]);
}
inline uint32_t prmt_ecr(uint32_t a, uint32_t b, uint32_t c) {
  constexpr uint32_t kSelectors[] = {0x0000, 0x1110, 0x2210, 0x3210};
  return prmt(a, b, kSelectors[c & 3]);
}
inline uint32_t prmt_rc16(uint32_t a, uint32_t b, uint32_t c) {
  return prmt(a, b, c & 1 ? 0x3232 : 0x1010);
}

// ---- dot products of bytes and halves
// ------------------------------------------------------------
template <class A, class B>
inline uint32_t dp4a(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; i++) {
    c += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a >> 8 * i)) *
                               static_cast<int32_t>(static_cast<B>(b >> 8 * i)));
  }
  return c;
}
// A: the type of the halves of a; B: of the bytes of b, of which kFirst and its neighbour count.
template <class A, class B, int kFirst>
inline uint32_t dp2a(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 2; i++) {
    c += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a >> 16 * i)) *
                               static_cast<int32_t>(static_cast<B>(b >> 8 * (kFirst + i))));
  }
  return c;
}

template <class T, IfInteger<T> = 0>
inline Pair<T> add(Pair<T> a, Pair<T> b) {
  return each([](T x, T y) { return add(x, y); }, a, b);
}
template <class T, IfInteger<T> = 0>
inline Pair<T> min(Pair<T> a, Pair<T> b) {
  return each([](T x, T y) { return min(x, y); }, a, b);
}
template <class T, IfInteger<T> = 0>
inline Pair<T> max(Pair<T> a, Pair<T> b) {
  return each([](T x, T y) { return max(x, y); }, a, b);
}

}  // namespace emu
