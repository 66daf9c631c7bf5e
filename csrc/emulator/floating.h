// Floating-point arithmetic of PTX. f32 and f64 in the nearest mode are the host's own operations
// (built with -ffp-contract=off); f16, bf16 and the directed modes go through a double that is
// rounded to odd, so that the second rounding is the only one that counts. The payload of a NaN is
// specified for min, max and conversions only, where it is the canonical one.
#pragma once

#include "types.h"

namespace emu {

template <class T>
using IfFloat = std::enable_if_t<kIsFloat<T>, int>;
template <class T>
using IfHalf = std::enable_if_t<kIsHalf<T>, int>;

// ---- sums, quotients and roots rounded to odd
// ---------------------------------------------------- s is near the exact result, `rest` has the
// sign of what is missing: an even s moves to its odd neighbour on that side. 53 odd-rounded bits
// decide any rounding to 24 or fewer.
inline double to_odd(double s, double rest) {
  if (rest == 0 || !std::isfinite(s) || (as<uint64_t>(s) & 1)) return s;
  return std::nextafter(s, rest > 0 ? std::numeric_limits<double>::infinity()
                                    : -std::numeric_limits<double>::infinity());
}
inline double odd_sum(double a, double b) {
  const double s = a + b, part = s - a;
  const double rest = (a - (s - part)) + (b - part);
  return std::isfinite(s) ? to_odd(s, rest) : s;
}
inline double odd_quotient(double a, double b) {
  const double q = a / b;
  if (!std::isfinite(q) || !std::isfinite(b) || q == 0) return q;
  const double rest = std::fma(-q, b, a);
  return to_odd(q, b < 0 ? -rest : rest);
}
inline double odd_root(double a) {
  const double s = std::sqrt(a);
  return s > 0 && std::isfinite(s) ? to_odd(s, std::fma(-s, s, a)) : s;
}
// The sum of two numbers that cancel is -0 where rounding goes down.
template <class T>
inline T round_sum(double a, double b, Round mode) {
  const double s = odd_sum(a, b);
  if (s == 0 && std::signbit(a) != std::signbit(b)) {
    return round_to<T>(mode == Round::down ? -0.0 : 0.0, mode);
  }
  return round_to<T>(s, mode);
}

// ---- one operation, one rounding
// -----------------------------------------------------------------
inline float add(float a, float b) { return a + b; }
inline float sub(float a, float b) { return a - b; }
inline float mul(float a, float b) { return a * b; }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float div(float a, float b) { return a / b; }
inline float sqrt(float a) { return std::sqrt(a); }
inline double add(double a, double b) { return a + b; }
inline double sub(double a, double b) { return a - b; }
inline double mul(double a, double b) { return a * b; }
inline double fma(double a, double b, double c) { return std::fma(a, b, c); }
inline double div(double a, double b) { return a / b; }
inline double sqrt(double a) { return std::sqrt(a); }

template <class T, IfHalf<T> = 0>
inline T add(T a, T b) {
  return round_sum<T>(value(a), value(b), Round::even);
}
template <class T, IfHalf<T> = 0>
inline T sub(T a, T b) {
  return round_sum<T>(value(a), -value(b), Round::even);
}
template <class T, IfHalf<T> = 0>
inline T mul(T a, T b) {
  return round_to<T>(value(a) * value(b));
}
template <class T, IfHalf<T> = 0>
inline T fma(T a, T b, T c) {
  return round_sum<T>(value(a) * value(b), value(c), Round::even);
}

template <Round kMode>
inline float add_round(float a, float b) {
  return round_sum<float>(a, b, kMode);
}
template <Round kMode>
inline float sub_round(float a, float b) {
  return round_sum<float>(a, -static_cast<double>(b), kMode);
}
template <Round kMode>
inline float mul_round(float a, float b) {
  return round_to<float>(static_cast<double>(a) * b, kMode);
}
template <Round kMode>
inline float fma_round(float a, float b, float c) {
  return round_sum<float>(static_cast<double>(a) * b, c, kMode);
}
template <Round kMode>
inline float div_round(float a, float b) {
  return round_to<float>(odd_quotient(a, b), kMode);
}
template <Round kMode>
inline float rcp_round(float a) {
  return round_to<float>(odd_quotient(1, a), kMode);
}
template <Round kMode>
inline float sqrt_round(float a) {
  return round_to<float>(odd_root(a), kMode);
}

// ---- approximations: correctly rounded here, within the bounds PTX gives
// -------------------------
inline float rcp(float a) { return 1 / a; }
inline double rcp(double a) { return 1 / a; }
inline float rsqrt(float a) { return static_cast<float>(1 / std::sqrt(static_cast<double>(a))); }
inline double rsqrt(double a) { return 1 / std::sqrt(a); }
// rcp.approx.ftz.f64 and its sibling read the upper half of the operand and write that of the
// result.
inline double upper_half(double a) {
  const double cut = as<double>(as<uint64_t>(a) & 0xffffffff00000000ull);
  if (std::isnan(a)) return std::numeric_limits<double>::quiet_NaN();
  return std::fabs(cut) < std::numeric_limits<double>::min() ? std::copysign(0.0, cut) : cut;
}
inline double rcp_gross(double a) { return upper_half(1 / upper_half(a)); }
inline double rsqrt_gross(double a) { return upper_half(1 / std::sqrt(upper_half(a))); }
inline float sin(float a) { return static_cast<float>(std::sin(static_cast<double>(a))); }
inline float cos(float a) { return static_cast<float>(std::cos(static_cast<double>(a))); }
inline float lg2(float a) { return static_cast<float>(std::log2(static_cast<double>(a))); }
inline float ex2(float a) { return static_cast<float>(std::exp2(static_cast<double>(a))); }
inline float tanh(float a) { return static_cast<float>(std::tanh(static_cast<double>(a))); }
template <class T, IfHalf<T> = 0>
inline T ex2(T a) {
  return round_to<T>(std::exp2(value(a)));
}
template <class T, IfHalf<T> = 0>
inline T tanh(T a) {
  return round_to<T>(std::tanh(value(a)));
}
// 2^126 < |b| < 2^128 gives 0, as PTX says of div.approx.
inline float div_approx(float a, float b) {
  const float size = std::fabs(b);
  if (size > 0x1p126f && std::isfinite(b)) {
    return std::isfinite(a) ? std::copysign(0.0f, std::signbit(a) != std::signbit(b) ? -1.0f : 1.0f)
                            : std::numeric_limits<float>::quiet_NaN();
  }
  return a / b;
}

// ---- modifiers
// -----------------------------------------------------------------------------------
template <class T, IfFloat<T> = 0>
inline T ftz(T a) {
  if constexpr (std::is_same_v<T, float>) {
    const uint32_t bits = as<uint32_t>(a);
    return bits & 0x7f800000u ? a : as<float>(bits & 0x80000000u);
  } else {
    static_assert(kIsHalf<T>, ".ftz is for all formats but f64");
    const uint16_t exponent = std::is_same_v<T, f16> ? 0x7c00 : 0x7f80;
    return a.bits & exponent ? a : T{static_cast<uint16_t>(a.bits & 0x8000)};
  }
}
template <class T, IfFloat<T> = 0>
inline T sat(T a) {
  const auto x = value(a);
  return x > 0 ? (x < 1 ? a : round_to<T>(1)) : round_to<T>(0);
}
template <class T, IfFloat<T> = 0>
inline T relu(T a) {
  if (is_nan(a)) return canonical_nan<T>();
  return value(a) > 0 ? a : round_to<T>(0);
}

// ---- signs, minimum, maximum
// ---------------------------------------------------------------------
template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, uint64_t,
                                std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
template <class T>
constexpr Bits<T> kSign = static_cast<Bits<T>>(static_cast<Bits<T>>(1) << (8 * sizeof(T) - 1));

template <class T, IfFloat<T> = 0>
inline T neg(T a) {
  return as<T>(static_cast<Bits<T>>(as<Bits<T>>(a) ^ kSign<T>));
}
template <class T, IfFloat<T> = 0>
inline T abs(T a) {
  return as<T>(static_cast<Bits<T>>(as<Bits<T>>(a) & ~kSign<T>));
}
// The magnitude of b with the sign of a.
template <class T, IfFloat<T> = 0>
inline T copysign(T a, T b) {
  const Bits<T> magnitude = as<Bits<T>>(abs(b));
  return as<T>(static_cast<Bits<T>>(magnitude | (as<Bits<T>>(a) & kSign<T>)));
}
template <class T, IfFloat<T> = 0>
inline bool below(T a, T b) {  // -0 is below +0
  if (value(a) == 0 && value(b) == 0)
    return (as<Bits<T>>(a) & kSign<T>) > (as<Bits<T>>(b) & kSign<T>);
  return value(a) < value(b);
}
template <class T, IfFloat<T> = 0>
inline T min(T a, T b) {
  if (is_nan(a)) return is_nan(b) ? canonical_nan<T>() : b;
  return is_nan(b) || !below(b, a) ? a : b;
}
template <class T, IfFloat<T> = 0>
inline T max(T a, T b) {
  if (is_nan(a)) return is_nan(b) ? canonical_nan<T>() : b;
  return is_nan(b) || !below(a, b) ? a : b;
}
template <class T, IfFloat<T> = 0>
inline T min_nan(T a, T b) {
  return is_nan(a) || is_nan(b) ? canonical_nan<T>() : min(a, b);
}
template <class T, IfFloat<T> = 0>
inline T max_nan(T a, T b) {
  return is_nan(a) || is_nan(b) ? canonical_nan<T>() : max(a, b);
}
// .xorsign.abs: the extremum of the magnitudes with the exclusive or of the signs.
template <class T, IfFloat<T> = 0>
inline T xorsign(T magnitude, T a, T b) {
  const Bits<T> sign = static_cast<Bits<T>>((as<Bits<T>>(a) ^ as<Bits<T>>(b)) & kSign<T>);
  return as<T>(static_cast<Bits<T>>(as<Bits<T>>(abs(magnitude)) | sign));
}

// ---- two lanes
// -----------------------------------------------------------------------------------
#define EMU_LANES_1(NAME)                        \
  template <class T, IfHalf<T> = 0>              \
  inline Pair<T> NAME(Pair<T> a) {               \
    return each([](T x) { return NAME(x); }, a); \
  }
#define EMU_LANES_2(NAME)                                   \
  template <class T, IfHalf<T> = 0>                         \
  inline Pair<T> NAME(Pair<T> a, Pair<T> b) {               \
    return each([](T x, T y) { return NAME(x, y); }, a, b); \
  }
#define EMU_LANES_3(NAME)                                              \
  template <class T, IfHalf<T> = 0>                                    \
  inline Pair<T> NAME(Pair<T> a, Pair<T> b, Pair<T> c) {               \
    return each([](T x, T y, T z) { return NAME(x, y, z); }, a, b, c); \
  }
EMU_LANES_1(neg)
EMU_LANES_1(abs)
EMU_LANES_1(ftz)
EMU_LANES_1(sat)
EMU_LANES_1(relu)
EMU_LANES_1(ex2)
EMU_LANES_1(tanh)
EMU_LANES_2(add)
EMU_LANES_2(sub)
EMU_LANES_2(mul)
EMU_LANES_2(min)
EMU_LANES_2(max)
EMU_LANES_2(min_nan)
EMU_LANES_2(max_nan)
EMU_LANES_3(fma)
EMU_LANES_3(xorsign)
#undef EMU_LANES_1
#undef EMU_LANES_2
#undef EMU_LANES_3

// 1.0 in the lanes that hold, else 0.
template <class T>
inline Pair<T> ones(bool first, bool second) {
  return make_pair(round_to<T>(first ? 1 : 0), round_to<T>(second ? 1 : 0));
}

// ---- classes
// -------------------------------------------------------------------------------------
template <class T>
inline bool is_finite(T a) {
  return std::isfinite(a);
}
template <class T>
inline bool is_infinite(T a) {
  return std::isinf(a);
}
template <class T>
inline bool is_number(T a) {
  return !std::isnan(a);
}
template <class T>
inline bool is_normal(T a) {  // zero counts as normal here, as in PTX
  return std::isnormal(a) || a == 0;
}
template <class T>
inline bool is_subnormal(T a) {
  return std::fpclassify(a) == FP_SUBNORMAL;
}

}  // namespace emu
