// cp.async. Lazy by default: nothing moves before the wait, and until then the destination holds
// NaN, so that reading it too early gives wrong numbers even without the checker.
#include <cstring>

#include "check.h"
#include "count.h"
#include "runtime.h"

namespace emu {

static void move_bytes(Fiber& f, const Copy& c) {
  f.site = c.site;  // the source may lie on a guard page
  char* to = f.shared + c.dst;
  std::memcpy(to, reinterpret_cast<const char*>(c.src), c.src_bytes);
  std::memset(to + c.src_bytes, 0, c.bytes - c.src_bytes);
}

void cp_async_issue(Thread& t, uint32_t dst, uint64_t src, uint32_t bytes, uint32_t src_bytes,
                    uint32_t site) {
  Fiber& f = fiber_of(t);
  Device& device = f.block->device;
  if (dst & (bytes - 1)) misaligned(t, Space::kShared, dst, bytes, Access::kWrite, site);
  if (src_bytes && (src & (bytes - 1)))
    misaligned(t, Space::kGlobal, src, bytes, Access::kRead, site);
  if (src_bytes > bytes)
    fail(t, {EMU_FAULT_TRAP, site}, "cp.async of %u bytes has a source of %u", bytes, src_bytes);
  if (static_cast<uint64_t>(dst) + bytes > t.shared_bytes) {
    Fault fault{EMU_FAULT_OUT_OF_BOUNDS, site};
    fault.bytes = bytes, fault.offset = dst, fault.buffer = "shared memory";
    fail(t, fault,
         "out-of-bounds write by cp.async of %u bytes at byte %u of shared memory (%u bytes)",
         bytes, dst, t.shared_bytes);
  }
  const Copy copy{dst, src, bytes, src_bytes, site};
  if (device.checker) device.checker->issue_copy(f, copy);
  if (device.counters) device.counters->copy(f, copy);
  if (device.config.eager_copies)
    move_bytes(f, copy);
  else
    std::memset(f.shared + dst, 0xff, bytes);
  f.copies.push_back(copy);
}

void cp_async_close_group(Thread& t, uint32_t) {
  Fiber& f = fiber_of(t);
  f.group_ends.push_back(static_cast<uint32_t>(f.copies.size()));
}

static void land(Fiber& f, uint32_t count) {
  Device& device = f.block->device;
  for (uint32_t i = 0; i < count; i++) {
    if (!device.config.eager_copies) move_bytes(f, f.copies[i]);
    if (device.checker) device.checker->land_copy(f, f.copies[i]);
  }
  f.copies.erase(f.copies.begin(), f.copies.begin() + count);
}

void cp_async_wait_groups(Thread& t, uint32_t groups_left, uint32_t) {
  Fiber& f = fiber_of(t);
  if (groups_left == kWaitAll) {
    land(f, static_cast<uint32_t>(f.copies.size()));
    f.group_ends.clear();
    return;
  }
  if (f.group_ends.size() <= groups_left) return;
  const std::size_t groups = f.group_ends.size() - groups_left;
  const uint32_t count = f.group_ends[groups - 1];
  land(f, count);
  f.group_ends.erase(f.group_ends.begin(), f.group_ends.begin() + groups);
  for (uint32_t& end : f.group_ends) end -= count;
}

// What a thread leaves behind completes, but nobody has waited for it: the checker keeps it marked.
void cp_async_land_all(Fiber& f) {
  if (!f.block->device.config.eager_copies)
    for (const Copy& copy : f.copies) move_bytes(f, copy);
}

}  // namespace emu
