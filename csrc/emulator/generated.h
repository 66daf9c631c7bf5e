// The one header that translated device code includes.
#pragma once
#include "device.h"
#include "mma.h"
#include "values.h"

namespace emu {

// What a register holds before anything has written it.
template <class T>
inline T ones_pattern() {
  if constexpr (sizeof(T) == 8) return as<T>(~0ull);
  if constexpr (sizeof(T) == 4) return as<T>(~0u);
  if constexpr (sizeof(T) == 2) return as<T>(static_cast<uint16_t>(~0u));
  if constexpr (sizeof(T) == 1) return as<T>(static_cast<uint8_t>(~0u));
}

// ---- local memory
// ---------------------------------------------------------------------------------- The local
// arrays of one function; a pointer into them may be handed to the functions it calls.
struct Frame {
  const Frame* caller;
  const char* base;
  uint64_t size;
};
template <uint64_t kBytes>
struct LocalFrame : Frame {
  alignas(64) char bytes[kBytes];
  explicit LocalFrame(const Frame* from) : Frame{from, bytes, kBytes} {
    std::memset(bytes, 0xff, kBytes);
  }
};
inline uint64_t local_address(Thread& t, const Frame* frame, uint64_t address, uint64_t bytes,
                              uint32_t site) {
  for (; frame; frame = frame->caller) {
    const uint64_t offset = address - reinterpret_cast<uint64_t>(frame->base);
    if (offset < frame->size && bytes <= frame->size - offset) return address;
  }
  fault(t, site, "access beyond the local arrays of the function and its callers");
}

// A GPU does not launch a block larger than .maxntid (__launch_bounds__) says.
inline void launch_bound(Thread& t, uint64_t threads) {
  if (uint64_t{t.ntid.x} * t.ntid.y * t.ntid.z > threads) {
    fault(t, 0, "the block has more threads than the kernel's launch bound");
  }
}

// ---- operands that PTX leaves undefined are faults, not guesses
// ------------------------------------
template <class T>
inline T divisor(Thread& t, T b, uint32_t site) {
  if (b == 0) fault(t, site, "integer division by zero");
  return b;
}
inline uint32_t shared_offset(Thread& t, uint64_t address, uint32_t site) {
  if (address >> 32) fault(t, site, "an address of shared memory has more than 32 bits");
  return static_cast<uint32_t>(address);
}
inline uint32_t shared_of_generic_checked(Thread& t, uint64_t address, uint32_t site) {
  // One past the end is a legal address to hold.
  if (!is_shared(t, address) && !is_shared(t, address - 1)) {
    fault(t, site, "cvta.to.shared of an address outside shared memory");
  }
  return shared_of_generic(t, address);
}
inline uint32_t copied_bytes(Thread& t, uint32_t source, uint32_t bytes, uint32_t site) {
  if (source > bytes) fault(t, site, "cp.async reads more bytes than it writes");
  return source;
}
inline uint32_t barrier_count(Thread& t, uint32_t count, uint32_t site) {
  if (count == 0 || count % kWarpSize) {
    fault(t, site, "the thread count of a barrier is no multiple of 32");
  }
  return count;
}

}  // namespace emu
