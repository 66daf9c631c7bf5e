// Conversions and comparisons of PTX.
#pragma once

#include "floating.h"
#include "integer.h"

namespace emu {

// ---- integer -> float
// ---------------------------------------------------------------------------- 64 bits do not fit a
// double: round to odd first, then once more to the format.
template <class F, class I>
inline F from_integer(I x, Round mode) {
  const double near = static_cast<double>(x);
  const __int128 rest = static_cast<__int128>(x) - static_cast<__int128>(near);
  if constexpr (std::is_same_v<F, double>) {
    if (rest == 0 || mode == Round::even) return near;
    const bool toward_zero = mode == Round::zero;
    const bool down = mode == Round::down || (toward_zero && x > 0);
    if (down == (rest > 0)) return near;
    return std::nextafter(near, rest > 0 ? std::numeric_limits<double>::infinity()
                                         : -std::numeric_limits<double>::infinity());
  } else {
    return round_to<F>(to_odd(near, rest > 0 ? 1.0 : rest < 0 ? -1.0 : 0.0), mode);
  }
}

// ---- float -> integer, and float -> integral float
// -----------------------------------------------
inline double integral(double x, Round mode) {
  switch (mode) {
    case Round::even:
      return std::nearbyint(x);  // the host's mode is to nearest even
    case Round::down:
      return std::floor(x);
    case Round::up:
      return std::ceil(x);
    default:
      return std::trunc(x);
  }
}
// Out of range saturates. NaN is 0; from or to 64 bits it is the pattern of the sign bit alone.
template <class I, class F>
inline I to_integer(F from, Round mode) {
  const double x = value(from);
  if (std::isnan(x)) {
    const bool wide = std::is_same_v<F, double> || sizeof(I) == 8;
    return wide ? static_cast<I>(static_cast<Unsigned<I>>(1) << (kBits<I> - 1)) : I{0};
  }
  const double whole = integral(x, mode);
  if (whole <= static_cast<double>(std::numeric_limits<I>::min())) {
    return std::numeric_limits<I>::min();
  }
  // The greatest 64-bit integers round up to 2^63 and 2^64 as doubles: >= keeps the cast defined.
  if (whole >= static_cast<double>(std::numeric_limits<I>::max())) {
    return std::numeric_limits<I>::max();
  }
  return static_cast<I>(whole);
}
template <class F>
inline F to_integral(F x, Round mode) {
  return is_nan(x) ? canonical_nan<F>() : round_to<F>(integral(value(x), mode));
}

// ---- float -> float
// ------------------------------------------------------------------------------
template <class To, class From>
inline To to_float(From x, Round mode) {
  if constexpr (std::is_same_v<To, double>) {
    return value(x);
  } else {
    return round_to<To>(value(x), mode);
  }
}
// .satfinite: the greatest finite number instead of an infinity, NaN stays the canonical one.
template <class To, class From>
inline To to_finite(From x, Round mode) {
  const double wide = value(x);
  return std::isinf(wide) || std::isinf(value(to_float<To>(x, mode)))
             ? round_to<To>(std::copysign(std::numeric_limits<double>::max(), wide), Round::zero)
             : to_float<To>(x, mode);
}
template <class T>
inline tf32 relu_tf32(T a) {
  return std::isnan(value(a)) || value(a) > 0 ? a : tf32{0};
}

// ---- comparisons
// ---------------------------------------------------------------------------------
template <class T>
inline bool eq(T a, T b) {
  return value(a) == value(b);
}
template <class T>
inline bool ne(T a, T b) {  // false for NaN
  return value(a) < value(b) || value(a) > value(b);
}
template <class T>
inline bool lt(T a, T b) {
  return value(a) < value(b);
}
template <class T>
inline bool le(T a, T b) {
  return value(a) <= value(b);
}
template <class T>
inline bool gt(T a, T b) {
  return value(a) > value(b);
}
template <class T>
inline bool ge(T a, T b) {
  return value(a) >= value(b);
}
template <class T>
inline bool num(T a, T b) {
  return !is_nan(a) && !is_nan(b);
}
template <class T>
inline bool nan(T a, T b) {
  return !num(a, b);
}
template <class T>
inline bool equ(T a, T b) {
  return nan(a, b) || eq(a, b);
}
template <class T>
inline bool neu(T a, T b) {
  return nan(a, b) || ne(a, b);
}
template <class T>
inline bool ltu(T a, T b) {
  return nan(a, b) || lt(a, b);
}
template <class T>
inline bool leu(T a, T b) {
  return nan(a, b) || le(a, b);
}
template <class T>
inline bool gtu(T a, T b) {
  return nan(a, b) || gt(a, b);
}
template <class T>
inline bool geu(T a, T b) {
  return nan(a, b) || ge(a, b);
}

}  // namespace emu
