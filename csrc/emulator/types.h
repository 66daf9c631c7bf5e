// The types of PTX as C++ types, and the one rounding that every conversion and directed operation
// uses. A register is a bit pattern: as<> and extend<> make one of a value.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace emu {

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};
struct tf32 {
  uint32_t bits;
};
// Two lanes in 32 bits, the first one low.
template <class T>
struct Pair {
  uint32_t bits;
};
using f16x2 = Pair<f16>;
using bf16x2 = Pair<bf16>;
using s16x2 = Pair<int16_t>;
using u16x2 = Pair<uint16_t>;

// ---- registers
// -----------------------------------------------------------------------------------
// A cast where one will do: a variable whose address memcpy takes is renamed into SSA form later,
// and thousands of those in one function took the host's compiler most of its time.
template <class To, class From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  if constexpr (std::is_same_v<To, From> ||
                (std::is_integral_v<To> && std::is_integral_v<From> && sizeof(To) > 1)) {
    return static_cast<To>(from);
  } else {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
  }
}

// The low bytes of a register that is wider than the instruction's type (st, cvt).
template <class To, class From>
inline To low(From from) {
  static_assert(sizeof(To) <= sizeof(From), "no operand is narrower than its type");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// A register may be wider than the result (ld, cvt): signed types extend their sign, others zeros.
template <class Register, class Value>
inline Register extend(Value value) {
  static_assert(sizeof(Register) >= sizeof(Value), "no register is narrower than its result");
  if constexpr (sizeof(Register) == sizeof(Value)) {
    return as<Register>(value);
  } else if constexpr (std::is_integral_v<Register>) {
    if constexpr (std::is_integral_v<Value>) {
      return static_cast<Register>(value);
    } else {
      return value.bits;
    }
  } else {
    static_assert(sizeof(Register) == 0, "a float register takes results of its own size");
  }
}

template <class T>
inline T lane(Pair<T> pair, int i) {
  return as<T>(static_cast<uint16_t>(pair.bits >> 16 * i));
}
template <class T>
inline Pair<T> make_pair(T first, T second) {
  return {static_cast<uint32_t>(as<uint16_t>(second)) << 16 | as<uint16_t>(first)};
}
template <class T, class Function>
inline Pair<T> each(Function function, Pair<T> a) {
  return make_pair<T>(function(lane(a, 0)), function(lane(a, 1)));
}
template <class T, class Function>
inline Pair<T> each(Function function, Pair<T> a, Pair<T> b) {
  return make_pair<T>(function(lane(a, 0), lane(b, 0)), function(lane(a, 1), lane(b, 1)));
}
template <class T, class Function>
inline Pair<T> each(Function function, Pair<T> a, Pair<T> b, Pair<T> c) {
  return make_pair<T>(function(lane(a, 0), lane(b, 0), lane(c, 0)),
                      function(lane(a, 1), lane(b, 1), lane(c, 1)));
}

// ---- formats
// -------------------------------------------------------------------------------------
enum class Round { even, zero, down, up, away };

// The bits of x in a format of kExponent and kMantissa bits, without its sign. NaN: every bit below
// the sign set, the canonical NaN of the machine.
template <int kExponent, int kMantissa>
inline uint32_t encode(double x, Round mode) {
  constexpr int kLeast = 2 - (1 << (kExponent - 1));  // exponent of the least normal number
  constexpr uint32_t kInfinity = ((1u << kExponent) - 1) << kMantissa;
  const uint64_t bits = as<uint64_t>(x);
  const bool negative = bits >> 63;
  const int biased = static_cast<int>(bits >> 52 & 0x7ff);
  uint64_t significand = bits & ((1ull << 52) - 1);
  if (biased == 0x7ff) return significand ? (1u << (kExponent + kMantissa)) - 1 : kInfinity;
  if (biased) significand |= 1ull << 52;
  const int exponent = (biased ? biased : 1) - 1023;
  const int kept_exponent = exponent > kLeast ? exponent : kLeast;
  const int shift = kept_exponent - kMantissa - (exponent - 52);
  uint64_t kept = shift < 64 ? significand >> shift : 0;
  const uint64_t rest = shift < 64 ? significand & ((1ull << shift) - 1) : significand;
  const uint64_t half = shift < 64 ? 1ull << (shift - 1) : ~0ull;
  const bool carry = mode == Round::even   ? rest > half || (rest == half && (kept & 1))
                     : mode == Round::away ? rest >= half
                     : mode == Round::down ? negative && rest
                     : mode == Round::up   ? !negative && rest
                                           : false;
  kept += carry;  // the implicit bit of a normal number adds one to the exponent below
  const uint64_t code = kept + (static_cast<uint64_t>(kept_exponent - kLeast) << kMantissa);
  if (code < kInfinity) return static_cast<uint32_t>(code);
  const bool stays_finite =
      mode == Round::zero || (mode == Round::down && !negative) || (mode == Round::up && negative);
  return stays_finite ? kInfinity - 1 : kInfinity;
}

template <class T>
inline T round_to(double x, Round mode = Round::even) {
  const uint32_t sign = std::isnan(x) ? 0 : static_cast<uint32_t>(as<uint64_t>(x) >> 63);
  if constexpr (std::is_same_v<T, f16>) {
    return {static_cast<uint16_t>(encode<5, 10>(x, mode) | sign << 15)};
  } else if constexpr (std::is_same_v<T, bf16>) {
    return {static_cast<uint16_t>(encode<8, 7>(x, mode) | sign << 15)};
  } else if constexpr (std::is_same_v<T, tf32>) {
    if (std::isnan(x)) return {0x7fffffffu};
    return {encode<8, 10>(x, mode) << 13 | sign << 31};
  } else if constexpr (std::is_same_v<T, float>) {
    return as<float>(encode<8, 23>(x, mode) | sign << 31);
  } else {
    static_assert(std::is_same_v<T, double>, "a floating-point format");
    return x;
  }
}

// The value of a number, exact: integers as they are, floats in a wider one.
template <class T>
inline T value(T x) {
  return x;
}
inline double value(f16 x) {
  // Shifted into place, the exponent is 112 too small; the product is exact, subnormals included.
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t size = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  if (size >= 0x0f800000u) return as<float>(sign | size | 0x7f800000u);
  return as<float>(sign | as<uint32_t>(as<float>(size) * 0x1p112f));
}
inline double value(bf16 x) { return as<float>(static_cast<uint32_t>(x.bits) << 16); }
inline double value(tf32 x) { return as<float>(x.bits); }

template <class T>
constexpr bool kIsPair = false;
template <class T>
constexpr bool kIsPair<Pair<T>> = true;
template <class T>
constexpr bool kIsHalf = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;
template <class T>
constexpr bool kIsFloat = std::is_floating_point_v<T> || kIsHalf<T>;

template <class T>
inline bool is_nan(T x) {
  return std::isnan(static_cast<double>(value(x)));
}
template <class T>
inline T canonical_nan() {
  if constexpr (std::is_same_v<T, double>) {
    return as<double>(0x7fffffffffffffffull);
  } else {
    return round_to<T>(std::numeric_limits<double>::quiet_NaN());
  }
}

}  // namespace emu
