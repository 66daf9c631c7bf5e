// CRC-32 of ISO-HDLC, as zlib and PNG have it: a checkpoint's tensors are checked as they are read.
//
// A CRC is a remainder: 16 bytes may be replaced by their product with x^d mod P, added to the 16
// bytes that lie d bits further on. Four such sums run side by side. What they leave is 16 bytes
// with the same remainder as all before, and goes through the table like the rest.
#include <immintrin.h>

#include <array>

#include "core.h"

namespace pyi {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320;  // the coefficient of x^31 in bit 0

constexpr uint32_t times_x(uint32_t r) { return (r >> 1) ^ (r & 1 ? kPolynomial : 0); }

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t r = byte;
    for (int bit = 0; bit < 8; ++bit) r = times_x(r);
    table[byte] = r;
  }
  return table;
}
constexpr auto kTable = make_table();

// x^n mod P, one bit up: the product of two reflected polynomials comes out a bit too low.
constexpr int64_t power(int n) {
  uint32_t r = 1u << 31;  // x^0
  for (int i = 0; i < n; ++i) r = times_x(r);
  return static_cast<int64_t>(r) << 1;
}

uint32_t through_table(uint32_t crc, const uint8_t* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) crc = kTable[(crc ^ data[i]) & 255] ^ (crc >> 8);
  return crc;
}

__attribute__((target("pclmul"))) inline __m128i load(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

// `sum` moved on by the distance of `powers`, added to `next`.
__attribute__((target("pclmul"))) inline __m128i fold(__m128i sum, __m128i powers, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(sum, powers, 0x00);
  const __m128i high = _mm_clmulepi64_si128(sum, powers, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// Takes all whole 16 bytes of at least 64.
__attribute__((target("pclmul"))) uint32_t folded(uint32_t crc, const uint8_t* data, size_t bytes) {
  // Of the two halves of 16 bytes the lower one has 64 bits more to go; 32 are the remainder's own.
  const __m128i by_64 = _mm_set_epi64x(power(512 - 32), power(512 + 32));
  const __m128i by_16 = _mm_set_epi64x(power(128 - 32), power(128 + 32));
  __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(crc)));
  __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
  size_t at = 64;
  for (; at + 64 <= bytes; at += 64) {
    a = fold(a, by_64, load(data + at)), b = fold(b, by_64, load(data + at + 16));
    c = fold(c, by_64, load(data + at + 32)), d = fold(d, by_64, load(data + at + 48));
  }
  a = fold(fold(fold(a, by_16, b), by_16, c), by_16, d);
  for (; at + 16 <= bytes; at += 16) a = fold(a, by_16, load(data + at));
  uint8_t left[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(left), a);
  return through_table(0, left, sizeof left);
}

}  // namespace
}  // namespace pyi

extern "C" uint32_t pyi_crc32(const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  uint32_t crc = ~0u;
  static const bool folds = __builtin_cpu_supports("pclmul");
  if (folds && bytes >= 64) {
    const size_t whole = bytes / 16 * 16;
    crc = pyi::folded(crc, at, whole);
    at += whole, bytes -= whole;
  }
  return ~pyi::through_table(crc, at, bytes);
}
