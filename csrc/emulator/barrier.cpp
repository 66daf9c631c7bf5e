// Barriers and warp collectives.
//
// Lanes of a warp meet at a collective; the last to come does its work for all. A barrier takes two
// steps: the lanes of a warp meet (so that a part of a warp at a barrier is seen for what it is),
// then the warp arrives as one, as in hardware.
#include "check.h"
#include "runtime.h"

namespace emu {

static bool same(const Fiber& a, const Fiber& b) {
  return a.meeting.key == b.meeting.key && a.meeting.mask == b.meeting.mask &&
         (!a.meeting.aligned || a.wait_site == b.wait_site);
}

static const char* what(const Meeting& m) {
  if (m.key == kKeyBarrier) return "a barrier";
  if (m.key == kKeySync) return "bar.warp.sync";
  if (m.key < kKeyVote) return "shfl";
  if (m.key < kKeyMatch) return "vote";
  if (m.key < kKeyRedux) return "match";
  if (m.key < kKeyElect) return "redux";
  return m.key == kKeyElect ? "elect" : "a matrix operation";
}

[[noreturn]] static void diverged(Fiber& f, const Fiber& o) {
  Fault fault{EMU_FAULT_BARRIER, f.wait_site};
  fault.other_site = o.wait_site;
  fault.other_thread = o.linear;
  fail(f, fault,
       "divergent warp: lane %u is at %s (lanes %08x) while lane %u waits at %s (lanes %08x)",
       f.lane, what(f.meeting), f.meeting.mask, o.lane, what(o.meeting), o.meeting.mask);
}

// Does the work of a complete meeting of f's warp. Its lanes may run then, or wait at the barrier.
static void complete(Block& block, Fiber& f, uint32_t present) {
  Warp& warp = block.warps[f.warp];
  Fiber* base = &block.fibers[f.warp * kWarpSize];
  warp.epoch++;
  warp.meeting &= ~present;
  if (f.meeting.key == kKeyBarrier) {
    block.arrive(f, present);
    return;
  }
  if (f.meeting.orders_memory) {
    if (block.device.checker) block.device.checker->join_lanes(f.warp, present);
  } else {
    Thread* lanes[kWarpSize] = {};
    void* records[kWarpSize] = {};
    for (uint32_t rest = present; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      lanes[lane] = &base[lane];
      records[lane] = base[lane].record;
    }
    f.run(lanes, records, present);
  }
  for (uint32_t rest = present; rest; rest &= rest - 1) block.set_ready(base[__builtin_ctz(rest)]);
}

static void meet_lanes(Fiber& f, const Meeting& meeting, uint32_t site, void* record,
                       Rendezvous run) {
  Block& block = *f.block;
  Warp& warp = block.warps[f.warp];
  Fiber* base = &block.fibers[f.warp * kWarpSize];
  f.meeting = meeting;
  f.wait_site = site;
  f.record = record;
  f.run = run;
  if (!(meeting.mask >> f.lane & 1))
    fail(f, {EMU_FAULT_BARRIER, site}, "%s: the calling lane %u is not in its mask %08x",
         what(meeting), f.lane, meeting.mask);
  if (meeting.aligned && (meeting.mask & ~warp.live))
    fail(f, {EMU_FAULT_BARRIER, site},
         "part of a warp at %s: lanes %08x of %08x have exited or do not exist", what(meeting),
         meeting.mask & ~warp.live, meeting.mask);
  if (warp.meeting && !((warp.meeting >> warp.latest & 1) && same(f, base[warp.latest])))
    for (uint32_t rest = warp.meeting; rest; rest &= rest - 1) {
      const Fiber& other = base[__builtin_ctz(rest)];
      if (!same(f, other) && (other.meeting.mask & meeting.mask)) diverged(f, other);
    }
  warp.meeting |= 1u << f.lane;
  warp.latest = f.lane;
  const uint32_t present = meeting.mask & warp.live;
  f.state = State::kMeeting;
  if (!(present & ~warp.meeting)) {
    complete(block, f, present);
    // In the fair order the last to come goes on at once: its turn is not over.
    if (f.state == State::kReady && block.device.config.order == EMU_FAIR) {
      block.keep_turn(f);
      return;
    }
  }
  block.give_way();
}

void collective(Thread& t, const Meeting& meeting, uint32_t site, void* record, Rendezvous run) {
  meet_lanes(fiber_of(t), meeting, site, record, run);
}

uint32_t barrier(Thread& t, const BarrierCall& call, uint32_t site) {
  Fiber& f = fiber_of(t);
  const Block& block = *f.block;
  const uint32_t threads = static_cast<uint32_t>(block.warps.size()) * kWarpSize;
  if (call.id >= kBarriers)
    fail(t, {EMU_FAULT_BARRIER, site}, "barrier %u: there are barriers 0 to %d", call.id,
         kBarriers - 1);
  if (call.count % kWarpSize || call.count > threads)
    fail(t, {EMU_FAULT_BARRIER, site},
         "barrier %u: the count %u is no multiple of 32 up to the %u threads of the block", call.id,
         call.count, threads);
  if (call.arrive_only && !call.count)
    fail(t, {EMU_FAULT_BARRIER, site}, "bar.arrive on barrier %u needs a count", call.id);
  f.call = call;
  meet_lanes(f, {kKeyBarrier, block.warps[f.warp].lanes, call.aligned, true}, site, nullptr,
             nullptr);
  return f.barrier_result;
}

// ---- the second step: a warp arrives -----------------------------------------------------------
void Block::arrive(Fiber& f, uint32_t present) {
  Fiber* base = &fibers[f.warp * kWarpSize];
  const BarrierCall& call = f.call;
  Barrier& b = barriers[call.id];
  uint32_t true_count = 0;
  for (uint32_t rest = present; rest; rest &= rest - 1) {
    Fiber& lane = base[__builtin_ctz(rest)];
    if (lane.call.id != call.id || lane.call.count != call.count ||
        lane.call.arrive_only != call.arrive_only || lane.call.red != call.red)
      fail(f, {EMU_FAULT_BARRIER, f.wait_site, lane.wait_site, lane.linear},
           "divergent barrier: lane %u asks for barrier %u of %u threads, lane %u for %u of %u",
           f.lane, call.id, call.count, lane.lane, lane.call.id, lane.call.count);
    true_count += lane.call.predicate;
    lane.state = State::kBarrier;
  }
  const uint32_t all = live_warps * kWarpSize;
  if (b.arrived) {
    Fault fault{EMU_FAULT_BARRIER, f.wait_site, b.site};
    if ((b.expected ? b.expected : all) != (call.count ? call.count : all) || b.red != call.red)
      fail(f, fault, "barrier %u: warp %u expects %u threads, others %u, or another reduction",
           call.id, f.warp, call.count ? call.count : all, b.expected ? b.expected : all);
    // Counted barriers are met at several statements by design: producers and consumers.
    if (call.aligned && !call.count && b.site != f.wait_site)
      fail(f, fault,
           "divergent barrier: warp %u is at one barrier of the whole block, others at another",
           f.warp);
  }
  b.expected = call.count;
  b.red = call.red;
  b.site = f.wait_site;
  b.arrived += kWarpSize;
  b.true_count += true_count;
  b.false_count += static_cast<uint32_t>(__builtin_popcount(present)) - true_count;
  if (device.checker) device.checker->arrive(call.id, f.warp);
  if (call.arrive_only) {
    for (uint32_t rest = present; rest; rest &= rest - 1) set_ready(base[__builtin_ctz(rest)]);
  } else {
    b.waiting |= 1u << f.warp;
  }
  release_if_complete(call.id);
}

void Block::release_if_complete(uint32_t id) {
  Barrier& b = barriers[id];
  if (!b.arrived || b.arrived < (b.expected ? b.expected : live_warps * kWarpSize)) return;
  uint32_t result = 0;
  if (b.red == BarrierRed::kPopc) result = b.true_count;
  if (b.red == BarrierRed::kAnd) result = b.false_count == 0;
  if (b.red == BarrierRed::kOr) result = b.true_count != 0;
  if (device.checker) device.checker->release(id, b.waiting);
  for (uint32_t rest = b.waiting; rest; rest &= rest - 1) {
    const int w = __builtin_ctz(rest);
    for (uint32_t lanes = warps[w].live; lanes; lanes &= lanes - 1) {
      Fiber& f = fibers[w * kWarpSize + __builtin_ctz(lanes)];
      f.barrier_result = result;
      set_ready(f);
    }
  }
  b = Barrier{};
  greedy_warp = kMaxWarps;  // a new lot
}

void lane_exited(Block& block, Fiber& fiber) {
  Warp& warp = block.warps[fiber.warp];
  Fiber* base = &block.fibers[fiber.warp * kWarpSize];
  warp.live &= ~(1u << fiber.lane);
  for (uint32_t rest = warp.meeting; rest; rest &= rest - 1) {
    Fiber& f = base[__builtin_ctz(rest)];
    if (!(warp.meeting >> f.lane & 1) || !(f.meeting.mask >> fiber.lane & 1)) continue;
    if (f.meeting.aligned) {
      block.device.report(&f, {EMU_FAULT_BARRIER, f.wait_site, kNoSite, fiber.linear},
                          "part of a warp at %s: lane %u has exited", what(f.meeting), fiber.lane);
      block.abandon();
    }
    const uint32_t present = f.meeting.mask & warp.live;
    if (!(present & ~warp.meeting)) complete(block, f, present);
  }
  if (!warp.live) {
    block.live_warps--;
    for (uint32_t id = 0; id < kBarriers; id++)
      if (!block.barriers[id].expected) block.release_if_complete(id);
  }
}

}  // namespace emu
