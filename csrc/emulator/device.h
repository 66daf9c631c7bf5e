// What translated device code includes: the state of one CUDA thread and everything it may do that
// is not pure arithmetic: memory access, barriers, warp collectives, atomics, asynchronous copies.
//
// An entry is   extern "C" void ENTRY(emu::Thread& t, const char* params)   in a file of its own.
// The file ends in EMU_ENTRY(...), which exports ENTRY_entry, a record the runtime launches.
// Runtime calls go through t.runtime, so that the file links to nothing.
//
// Addresses. Shared addresses are 32-bit offsets into the block's window; all others (global,
// generic, const, param, local) are host addresses. A generic address of shared memory is
// t.shared + offset.
//
// Site: the ordinal of the PTX statement within its entry, the identity of barriers and of
// accesses.
//
// EMU_CHECKED, set before this header, sends every access through the checker and the counters. The
// plain variant checks natural alignment and leaves bounds to guard pages.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace emu {

enum class Space : uint8_t { kGlobal, kShared, kLocal, kConst, kParam, kGeneric };
// Strong accesses (volatile, relaxed and stronger, atomics) do not race with one another.
// kAcquire and kRelease order what surrounds them.
enum class Order : uint8_t { kWeak, kRelaxed, kAcquire, kRelease, kAcqRel };
enum class Access : uint8_t { kRead, kWrite, kAtomic, kMatrix };  // kMatrix: ldmatrix reads a row

struct Dim {
  uint32_t x, y, z;
};

struct Thread;
constexpr int kWarpSize = 32;

// Runs once for a warp when every lane of `mask` has come: records[lane] is what the lane brought.
// It may write results into the records; it must not block.
using Rendezvous = void (*)(Thread* const* lanes, void* const* records, uint32_t mask);

// Which lanes meet. Aligned operations meet at one statement, the others (shfl, vote, ...) wherever
// the same operation with the same qualifiers is executed; `key` tells operations apart.
struct Meeting {
  uint32_t key, mask;
  bool aligned, orders_memory;
};
enum : uint32_t {
  kKeySync = 1,
  kKeyShfl = 16,
  kKeyVote = 32,
  kKeyMatch = 48,
  kKeyRedux = 64,
  kKeyElect = 80,
  kKeyMatrix = 96  // and above: ldmatrix, mma
};

enum class BarrierRed : uint8_t { kNone, kPopc, kAnd, kOr };
struct BarrierCall {
  uint32_t id, count;  // count 0: all threads of the block
  bool arrive_only, aligned;
  BarrierRed red;
  bool predicate;
};

struct Runtime {
  void (*access)(Thread&, Space, uint64_t address, uint32_t bytes, Access, Order, uint32_t site);
  uint32_t (*barrier)(Thread&, const BarrierCall&, uint32_t site);
  void (*collective)(Thread&, const Meeting&, uint32_t site, void* record, Rendezvous);
  void (*cp_async)(Thread&, uint32_t dst, uint64_t src, uint32_t bytes, uint32_t src_bytes,
                   uint32_t site);
  void (*cp_async_commit)(Thread&, uint32_t site);
  void (*cp_async_wait)(Thread&, uint32_t groups_left, uint32_t site);  // kWaitAll: open ones too
  void (*fence)(Thread&, uint32_t site);
  void (*back_edges)(Thread&, uint32_t site);
  void (*block_executed)(Thread&, uint32_t site);
  void (*misaligned)(Thread&, Space, uint64_t address, uint32_t bytes, Access, uint32_t site);
  void (*fault)(Thread&, uint32_t site, const char* text);
};
constexpr uint32_t kWaitAll = ~0u;

struct Thread {
  char* shared;             // the block's window; static variables first, dynamic memory after them
  uint32_t shared_bytes;    // of the whole window
  uint32_t dynamic_offset;  // where dynamic shared memory begins
  const Runtime* runtime;
  int64_t slice;           // back edges before the runtime is asked again
  volatile uint32_t site;  // of the latest access; a guard page's fault is reported there
  uint32_t lane, warp, linear;
  Dim tid, ctaid, ntid, nctaid;
  const char* params;
  uint32_t param_bytes;
};

[[noreturn]] inline void fault(Thread& t, uint32_t site, const char* text) {
  t.runtime->fault(t, site, text);
  __builtin_unreachable();
}
[[noreturn]] inline void trap(Thread& t, uint32_t site) { fault(t, site, "trap"); }

// ---- memory ------------------------------------------------------------------------------------
// A vector access is one access of N * sizeof(T) bytes, aligned to its size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};

template <Space kSpace>
using Address = std::conditional_t<kSpace == Space::kShared, uint32_t, uint64_t>;

template <Space kSpace>
inline char* host(Thread& t, Address<kSpace> address) {
  if constexpr (kSpace == Space::kShared)
    return t.shared + address;
  else
    return reinterpret_cast<char*>(address);
}

// A checked access is a call of the runtime anyway: kept out of line, the thousands of them that an
// entry has cost its compiler less. Plain code has them inline.
#ifdef EMU_CHECKED
#define EMU_INLINE __attribute__((noinline))
#else
#define EMU_INLINE inline
#endif
template <Space kSpace, uint32_t kBytes>
inline void before_access(Thread& t, Address<kSpace> address, Access access, Order order,
                          uint32_t site) {
  if (__builtin_expect((address & (kBytes - 1)) != 0, 0))
    t.runtime->misaligned(t, kSpace, address, kBytes, access, site);
#ifdef EMU_CHECKED
  t.runtime->access(t, kSpace, address, kBytes, access, order, site);
#else
  (void)order;
  t.site = site;
#endif
}

// Volatile, so that an access stands after its site and is done even where its result is unused:
// then a guard page names the right line. Words of 16 bytes are one host access.
template <uint32_t kBytes>
struct Word;
template <>
struct Word<1> {
  using type = uint8_t;
};
template <>
struct Word<2> {
  using type = uint16_t;
};
template <>
struct Word<4> {
  using type = uint32_t;
};
template <>
struct Word<8> {
  using type = uint64_t;
};
template <>
struct Word<16> {
  typedef uint64_t type __attribute__((vector_size(16), may_alias));
};
template <class T>
inline T load_bytes(const char* p) {
  if constexpr (std::is_floating_point_v<T>) {
    typedef T Aliased __attribute__((may_alias));
    return *reinterpret_cast<const volatile Aliased*>(p);
  } else {
    typedef typename Word<sizeof(T)>::type Bits __attribute__((may_alias));
    const Bits bits = *reinterpret_cast<const volatile Bits*>(p);
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
}
template <class T>
inline void store_bytes(char* p, const T& value) {
  if constexpr (std::is_floating_point_v<T>) {
    typedef T Aliased __attribute__((may_alias));
    *reinterpret_cast<volatile Aliased*>(p) = value;
  } else {
    typedef typename Word<sizeof(T)>::type Bits __attribute__((may_alias));
    Bits bits;
    std::memcpy(&bits, &value, sizeof value);
    *reinterpret_cast<volatile Bits*>(p) = bits;
  }
}

// T is any trivially copyable type of 1, 2, 4, 8 or 16 bytes: uint32_t, float, Vec<float, 4>, ...
// It comes by value: a register that a reference was taken of lives in memory, and one kernel of
// 11,000 statements took its compiler three times as long.
template <Space kSpace, class T, Order kOrder = Order::kWeak>
EMU_INLINE T ld(Thread& t, Address<kSpace> address, uint32_t site) {
  before_access<kSpace, sizeof(T)>(t, address, Access::kRead, kOrder, site);
  return load_bytes<T>(host<kSpace>(t, address));
}
template <Space kSpace, class T, Order kOrder = Order::kWeak>
EMU_INLINE void st(Thread& t, Address<kSpace> address, T value, uint32_t site) {
  before_access<kSpace, sizeof(T)>(t, address, Access::kWrite, kOrder, site);
  store_bytes<T>(host<kSpace>(t, address), value);
}

// old = *address; *address = update(old). T: an unsigned integer of 2, 4 or 8 bytes, whose bits
// `update` reinterprets. Blocks may run on several host threads, so the host's atomics are used.
template <Space kSpace, class T, Order kOrder = Order::kRelaxed, class Update>
EMU_INLINE T atom(Thread& t, Address<kSpace> address, uint32_t site, Update update) {
  static_assert(std::is_unsigned_v<T>, "atomics work on bit patterns");
  before_access<kSpace, sizeof(T)>(t, address, Access::kAtomic, kOrder, site);
  T* p = reinterpret_cast<T*>(host<kSpace>(t, address));
  T old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
  while (!__atomic_compare_exchange_n(p, &old, static_cast<T>(update(old)), false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST)) {
  }
  return old;
}

// cvta.shared and cvta.to.shared
inline uint64_t generic_of_shared(Thread& t, uint32_t offset) {
  return reinterpret_cast<uint64_t>(t.shared) + offset;
}
inline uint32_t shared_of_generic(Thread& t, uint64_t address) {
  return static_cast<uint32_t>(address - reinterpret_cast<uint64_t>(t.shared));
}
inline bool is_shared(Thread& t, uint64_t address) {
  return address - reinterpret_cast<uint64_t>(t.shared) < t.shared_bytes;
}

inline void fence(Thread& t, uint32_t site) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  t.runtime->fence(t, site);
}

// ---- asynchronous copies -----------------------------------------------------------------------
// bytes (4, 8, 16) to shared memory, of which src_bytes come from `src` and the rest is zero.
inline void cp_async(Thread& t, uint32_t dst, uint64_t src, uint32_t bytes, uint32_t src_bytes,
                     uint32_t site) {
  t.runtime->cp_async(t, dst, src, bytes, src_bytes, site);
}
inline void cp_async_commit(Thread& t, uint32_t site) { t.runtime->cp_async_commit(t, site); }
inline void cp_async_wait(Thread& t, uint32_t groups_left, uint32_t site) {
  t.runtime->cp_async_wait(t, groups_left, site);
}
inline void cp_async_wait_all(Thread& t, uint32_t site) {
  t.runtime->cp_async_wait(t, kWaitAll, site);
}

// ---- barriers ----------------------------------------------------------------------------------
// bar.sync and friends: count is a multiple of 32, or 0 for all threads of the block. `aligned` is
// false for barrier.sync without .aligned: lanes may then stand at different statements.
inline void bar_sync(Thread& t, uint32_t id, uint32_t count, uint32_t site, bool aligned = true) {
  t.runtime->barrier(t, {id, count, false, aligned, BarrierRed::kNone, false}, site);
}
inline void bar_arrive(Thread& t, uint32_t id, uint32_t count, uint32_t site, bool aligned = true) {
  t.runtime->barrier(t, {id, count, true, aligned, BarrierRed::kNone, false}, site);
}
// The count of true predicates, or 0 or 1 for and, or.
template <BarrierRed kRed>
inline uint32_t bar_red(Thread& t, uint32_t id, uint32_t count, bool predicate, uint32_t site,
                        bool aligned = true) {
  return t.runtime->barrier(t, {id, count, false, aligned, kRed, predicate}, site);
}

// ---- control -----------------------------------------------------------------------------------
// At every branch that may go backwards: the budget that ends a hang, and the turn of other
// threads.
inline void back_edge(Thread& t, uint32_t site) {
  if (__builtin_expect(--t.slice < 0, 0)) t.runtime->back_edges(t, site);
}
// At the head of every basic block, with the site of its first statement; counts executions.
inline void block_executed(Thread& t, uint32_t site) {
#ifdef EMU_CHECKED
  t.runtime->block_executed(t, site);
#else
  (void)t, (void)site;
#endif
}

// ---- what a file of device code exports
// ----------------------------------------------------------
struct Symbol {  // a module's .global or .const variable
  const char* name;
  void* address;
  uint64_t bytes;
  uint32_t writable;
};
struct Entry {
  uint32_t abi, checked;
  void (*function)(Thread&, const char* params);
  uint32_t param_bytes, static_shared_bytes, shared_align, site_count;
  const Symbol* symbols;
  uint32_t symbol_count;
  uint32_t reserved;
};
constexpr uint32_t kAbi = 1;
#ifdef EMU_CHECKED
constexpr uint32_t kChecked = 1;
#else
constexpr uint32_t kChecked = 0;
#endif
}  // namespace emu

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))
#define EMU_ENTRY(NAME, PARAM_BYTES, STATIC_SHARED_BYTES, SHARED_ALIGN, SITES, SYMBOLS, \
                  SYMBOL_COUNT)                                                         \
  EMU_EXPORT const emu::Entry NAME##_entry;                                             \
  const emu::Entry NAME##_entry = {                                                     \
      emu::kAbi,    emu::kChecked, NAME,    PARAM_BYTES,  STATIC_SHARED_BYTES,          \
      SHARED_ALIGN, SITES,         SYMBOLS, SYMBOL_COUNT, 0};

#include "warp.h"
