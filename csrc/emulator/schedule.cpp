// Blocks, fibers, and whose turn it is.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

#include "check.h"
#include "count.h"
#include "runtime.h"

namespace emu {

thread_local Block* tls_block = nullptr;

constexpr int64_t kSlice = 4096;        // back edges between two turns
constexpr uint64_t kGreedySlices = 16;  // turns before a greedy warp that waits for another yields
constexpr std::size_t kStackBytes = 128 << 10;

// ---- faults ------------------------------------------------------------------------------------
static void copy_text(char* to, std::size_t size, const char* from) {
  std::snprintf(to, size, "%s", from);
}

void Device::report(const Fiber* fiber, const Fault& what, const char* format, ...) {
  std::lock_guard<std::mutex> lock(mutex);
  stop = true;
  if (fault.kind != EMU_FAULT_NONE) return;
  fault.kind = what.kind;
  fault.site = what.site;
  fault.other_site = what.other_site;
  fault.other_thread = what.other_thread;
  fault.other_block = what.other_block;
  fault.bytes = what.bytes;
  fault.offset = what.offset;
  fault.thread = EMU_NO_THREAD;
  copy_text(fault.buffer, sizeof fault.buffer, what.buffer);
  if (fiber) {
    fault.thread = fiber->linear;
    const Dim b = fiber->ctaid, t = fiber->tid;
    fault.block_index[0] = b.x, fault.block_index[1] = b.y, fault.block_index[2] = b.z;
    fault.thread_index[0] = t.x, fault.thread_index[1] = t.y, fault.thread_index[2] = t.z;
  }
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(fault.text, sizeof fault.text, format, arguments);
  va_end(arguments);
}

void fail(Thread& t, const Fault& fault, const char* format, ...) {
  char text[sizeof(emu_fault::text)];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  Fiber& fiber = fiber_of(t);
  fiber.block->device.report(&fiber, fault, "%s", text);
  fiber.block->abandon();
}

// ---- the table
// -----------------------------------------------------------------------------------
static void fence_hook(Thread& t, uint32_t) {
  Fiber& fiber = fiber_of(t);
  if (fiber.block->device.checker) fiber.block->device.checker->fence(fiber);
}

static void back_edges(Thread& t, uint32_t site) {
  Fiber& fiber = fiber_of(t);
  Block& block = *fiber.block;
  const uint64_t budget = block.device.config.back_edge_budget;
  fiber.slice = kSlice;
  fiber.slices++;
  if (block.device.stop.load(std::memory_order_relaxed)) block.abandon();
  if (budget && fiber.slices * kSlice > budget)
    fail(t, {EMU_FAULT_HANG, site}, "more than %llu backward branches: an endless loop?",
         static_cast<unsigned long long>(budget));
  if (block.device.config.order != EMU_GREEDY || fiber.slices % kGreedySlices == 0) {
    block.greedy_warp = kMaxWarps;
    block.set_ready(fiber);
    block.give_way();
  }
}

static void block_executed_hook(Thread& t, uint32_t site) {
  Fiber& fiber = fiber_of(t);
  if (fiber.block->device.counters) fiber.block->device.counters->executed(fiber, site);
}

static void fault_hook(Thread& t, uint32_t site, const char* text) {
  fail(t, {EMU_FAULT_TRAP, site}, "%s", text);
}

static const Runtime kRuntime = {access,
                                 barrier,
                                 collective,
                                 cp_async_issue,
                                 cp_async_close_group,
                                 cp_async_wait_groups,
                                 fence_hook,
                                 back_edges,
                                 block_executed_hook,
                                 misaligned,
                                 fault_hook};

// ---- fibers ------------------------------------------------------------------------------------
static void fiber_main() {
  Block& block = *tls_block;
  Fiber& fiber = block.running();
  bool no_memory = false;
  try {
    block.entry.function(fiber, fiber.params);
    cp_async_land_all(fiber);
  } catch (const std::bad_alloc&) {  // of a hook; unwinds through translated code
    no_memory = true;
  }
  if (no_memory)
    fail(fiber, {EMU_FAULT_TRAP, fiber.site}, "the host has no memory left for the emulator");
  block.finish();
}

uint32_t dynamic_offset(const Entry& entry) {
  const uint32_t align = std::max(16u, entry.shared_align);
  return (entry.static_shared_bytes + align - 1) / align * align;
}

Block::Block(Device& d, const Entry& e, const emu_launch_record& l)
    : device(d), entry(e), launch(l) {
  const uint32_t threads = l.block[0] * l.block[1] * l.block[2];
  const std::size_t stack = d.config.stack_bytes ? d.config.stack_bytes : kStackBytes;
  window = Window(dynamic_offset(e) + l.dynamic_shared_bytes, std::max(16u, e.shared_align));
  stacks = Stacks(threads, stack);
  fibers = std::vector<Fiber>(threads);
  warps = std::vector<Warp>((threads + kWarpSize - 1) / kWarpSize);
}

void Block::run(uint32_t linear) {
  const uint32_t* g = launch.grid;
  const uint32_t* b = launch.block;
  const uint32_t threads = static_cast<uint32_t>(fibers.size());
  const uint64_t budget = device.config.back_edge_budget;
  index = linear;
  live = threads;
  live_warps = ready_warps = 0;
  greedy_warp = kMaxWarps;
  current = threads - 1;  // the fair turn begins after it
  random = Random{device.config.seed * 0x2545f4914f6cdd1dull + linear};
  for (Barrier& barrier : barriers) barrier = Barrier{};
  for (Warp& warp : warps) warp = Warp{};
  if (window.bytes) std::memset(window.base, 0xff, window.bytes);  // NaN in every float format
  if (device.checker) device.checker->begin_block(*this);
  for (uint32_t i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.shared = window.base;
    f.shared_bytes = window.bytes;
    f.dynamic_offset = window.bytes - launch.dynamic_shared_bytes;
    f.runtime = &kRuntime;
    f.slice =
        budget && budget < static_cast<uint64_t>(kSlice) ? static_cast<int64_t>(budget) : kSlice;
    f.slices = 0;
    f.site = kNoSite;
    f.lane = i % kWarpSize, f.warp = i / kWarpSize, f.linear = i;
    f.tid = {i % b[0], i / b[0] % b[1], i / (b[0] * b[1])};
    f.ctaid = {linear % g[0], linear / g[0] % g[1], linear / (g[0] * g[1])};
    f.ntid = {b[0], b[1], b[2]};
    f.nctaid = {g[0], g[1], g[2]};
    f.params = static_cast<const char*>(launch.params);
    f.param_bytes = launch.param_bytes;
    f.block = this;
    f.copies.clear();
    f.group_ends.clear();
    f.stack = stacks.low(i);
    // Equal offsets in all stacks would put the hot frames of a warp into the same few cache sets.
    make_context(f.context, f.stack, stacks.bytes - i % 64 * 64, fiber_main);
    Warp& warp = warps[f.warp];
    warp.lanes |= 1u << f.lane;
    warp.live |= 1u << f.lane;
    set_ready(f);
  }
  live_warps = static_cast<uint32_t>(warps.size());
  tls_block = this;
  Fiber* first = pick();
  current = first->linear;
  in_fiber = true;
  switch_context(main, first->context);
  in_fiber = false;
  tls_block = nullptr;
  if (device.counters) device.counters->end_block();
}

void Block::set_ready(Fiber& fiber) {
  fiber.state = State::kReady;
  warps[fiber.warp].ready |= 1u << fiber.lane;
  ready_warps |= 1u << fiber.warp;
}

static uint32_t nth_bit(uint32_t bits, uint32_t n) {
  while (n--) bits &= bits - 1;
  return static_cast<uint32_t>(__builtin_ctz(bits));
}
static uint32_t above(uint32_t bits, uint32_t i) {  // those beyond bit i
  return i >= 31 ? 0 : bits & (~0u << (i + 1));
}

// Takes the next fiber off the ready ones; null: none.
Fiber* Block::pick() {
  if (!ready_warps) return nullptr;
  uint32_t warp, lane;
  const uint32_t order = device.config.order;
  if (order == EMU_FAIR) {  // the next one round the block
    warp = current / kWarpSize;
    const uint32_t rest = above(warps[warp].ready, current % kWarpSize);
    if (rest) {
      lane = static_cast<uint32_t>(__builtin_ctz(rest));
    } else {
      const uint32_t later = above(ready_warps, warp);
      warp = static_cast<uint32_t>(__builtin_ctz(later ? later : ready_warps));
      lane = static_cast<uint32_t>(__builtin_ctz(warps[warp].ready));
    }
  } else if (order == EMU_RANDOM) {
    warp = nth_bit(ready_warps, random.below(__builtin_popcount(ready_warps)));
    const uint32_t ready = warps[warp].ready;
    lane = nth_bit(ready, random.below(__builtin_popcount(ready)));
  } else {
    if (greedy_warp == kMaxWarps || !(ready_warps >> greedy_warp & 1))
      greedy_warp = nth_bit(ready_warps, random.below(__builtin_popcount(ready_warps)));
    warp = greedy_warp;
    lane = static_cast<uint32_t>(__builtin_ctz(warps[warp].ready));
  }
  if (!(warps[warp].ready &= ~(1u << lane))) ready_warps &= ~(1u << warp);
  return &fibers[warp * kWarpSize + lane];
}

void Block::give_way() {
  Fiber& from = running();
  Fiber* to = pick();
  if (to == &from) return;
  if (!to) {
    if (live) deadlock();
    switch_context(from.context, main);
    return;
  }
  current = to->linear;
  switch_context(from.context, to->context);
}

void Block::keep_turn(Fiber& f) {
  Warp& warp = warps[f.warp];
  if (!(warp.ready &= ~(1u << f.lane))) ready_warps &= ~(1u << f.warp);
}

void Block::abandon() {
  switch_context(running().context, main);
  __builtin_unreachable();
}

void Block::finish() {
  Fiber& fiber = running();
  fiber.state = State::kDone;
  live--;
  lane_exited(*this, fiber);
  give_way();
  __builtin_unreachable();
}

void Block::deadlock() {
  for (Fiber& f : fibers) {
    if (f.state == State::kBarrier) {
      const Barrier& b = barriers[f.call.id];
      device.report(&f, {EMU_FAULT_DEADLOCK, f.wait_site},
                    "deadlock: waits at barrier %u, where %u of %u threads have come; %u threads "
                    "are left and none can run",
                    f.call.id, b.arrived, b.expected ? b.expected : live_warps * kWarpSize, live);
      return;
    }
    if (f.state == State::kMeeting) {
      const uint32_t missing = f.meeting.mask & warps[f.warp].live & ~warps[f.warp].meeting;
      device.report(&f, {EMU_FAULT_DEADLOCK, f.wait_site},
                    "deadlock: waits in a warp collective of lanes %08x, of which %08x have not "
                    "come; %u threads are left and none can run",
                    f.meeting.mask, missing, live);
      return;
    }
  }
}

}  // namespace emu
