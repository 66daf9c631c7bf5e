#include "check.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace emu {

Shadow::Shadow(std::size_t bytes) : count((bytes + 3) / 4) {
  cells = static_cast<Cell*>(std::calloc(std::max<std::size_t>(count, 1), sizeof(Cell)));
  if (!cells) throw std::bad_alloc();
}
Shadow::~Shadow() { std::free(cells); }

// ---- clocks ------------------------------------------------------------------------------------
static uint64_t key_of(uint32_t block, uint32_t warp) {
  return static_cast<uint64_t>(block) * kMaxWarps + warp;
}
static void join(Known& into, const Known& from) {
  for (const auto& [key, clock] : from) {
    uint32_t& known = into[key];
    known = std::max(known, clock);
  }
}

void Checker::begin_block(Block& block) {
  block_ = block.index;
  warps_ = static_cast<uint32_t>(block.warps.size());
  states_.resize(warps_);
  for (uint32_t w = 0; w < warps_; w++) {
    WarpState& s = states_[w];
    s.clock.fill(0);
    s.clock[w] = 1;
    for (int a = 0; a < kWarpSize; a++) s.lanes[a].fill(0), s.lanes[a][a] = 1;
    s.known.clear();
    s.fenced.clear();
    s.observed.clear();
  }
  threads_.assign(block.fibers.size(), ThreadState{});
  barriers_.fill(BarrierState{});
  const std::size_t words = (block.window.bytes + 3) / 4;
  if (!shared_ || shared_->count != words)
    shared_ = std::make_unique<Shadow>(block.window.bytes);
  else
    std::memset(static_cast<void*>(shared_->cells), 0, words * sizeof(Cell));
  shared_pool_ = Pool{};
}

Epoch Checker::now(const Fiber& f, bool strong, uint32_t site) const {
  const WarpState& s = states_[f.warp];
  return {block_,
          s.clock[f.warp],
          s.lanes[f.lane][f.lane],
          site,
          static_cast<uint16_t>(f.linear),
          static_cast<uint8_t>(strong),
          kOne};
}

inline bool Checker::before(const Epoch& e, const Fiber& f) const {
  const WarpState& s = states_[f.warp];
  const uint32_t warp = e.thread / kWarpSize, lane = e.thread % kWarpSize;
  if (e.block != block_) {
    if (s.known.empty()) return false;
    const auto it = s.known.find(key_of(e.block, warp));
    return it != s.known.end() && it->second >= e.warp_clock;
  }
  if (warp != f.warp) return s.clock[warp] >= e.warp_clock;
  return lane == f.lane || s.lanes[f.lane][lane] >= e.lane_clock;
}

bool Checker::before(const SetEntry& e, uint32_t block, uint32_t warp, const Fiber& f) const {
  for (uint32_t rest = e.lanes; rest; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    const uint16_t thread = static_cast<uint16_t>(warp * kWarpSize + lane);
    if (!before(Epoch{block, e.warp_clock, e.lane_clock, e.site, thread, e.strong, kOne}, f))
      return false;
    if (block != block_ || warp != f.warp) break;  // lanes of another warp share its clock
  }
  return true;
}

void Checker::join_lanes(uint32_t warp, uint32_t lanes) {
  auto& rows = states_[warp].lanes;
  std::array<uint32_t, kWarpSize> joined{};
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const auto& row = rows[__builtin_ctz(rest)];
    for (int i = 0; i < kWarpSize; i++) joined[i] = std::max(joined[i], row[i]);
  }
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    rows[lane] = joined;
    rows[lane][lane]++;
  }
}

void Checker::arrive(uint32_t barrier, uint32_t warp) {
  BarrierState& b = barriers_[barrier];
  WarpState& s = states_[warp];
  for (uint32_t w = 0; w < warps_; w++) b.clock[w] = std::max(b.clock[w], s.clock[w]);
  join(b.known, s.known);
  // A fence of each thread, then a barrier, then one thread's flag: the flag releases for all.
  join(b.fenced, s.fenced);
  join(b.observed, s.observed);
  const std::size_t first = warp * std::size_t{kWarpSize};
  for (std::size_t i = first; i < std::min(first + kWarpSize, threads_.size()); i++) {
    join(b.fenced, threads_[i].at_fence);
    join(b.observed, threads_[i].observed);
  }
  s.clock[warp]++;
}

void Checker::release(uint32_t barrier, uint32_t warps) {
  BarrierState& b = barriers_[barrier];
  for (uint32_t rest = warps; rest; rest &= rest - 1) {
    const uint32_t w = static_cast<uint32_t>(__builtin_ctz(rest));
    WarpState& s = states_[w];
    for (uint32_t u = 0; u < warps_; u++) s.clock[u] = std::max(s.clock[u], b.clock[u]);
    join(s.known, b.known);
    join(s.fenced, b.fenced);
    join(s.observed, b.observed);
    join_lanes(w, ~0u);
  }
  b = BarrierState{};
}

// ---- release and acquire
// -------------------------------------------------------------------------
Known Checker::everything_known(uint32_t warp) const {
  const WarpState& s = states_[warp];
  Known all = s.known;
  for (uint32_t w = 0; w < warps_; w++)
    if (s.clock[w]) all[key_of(block_, w)] = s.clock[w];
  return all;
}

void Checker::learn(uint32_t warp, const Known& news) {
  WarpState& s = states_[warp];
  for (const auto& [key, clock] : news) {
    const uint32_t w = static_cast<uint32_t>(key % kMaxWarps);
    uint32_t& known = key / kMaxWarps == block_ ? s.clock[w] : s.known[key];
    if (key != key_of(block_, warp)) known = std::max(known, clock);
  }
}

void Checker::fence(Fiber& f) {
  ThreadState& t = threads_[f.linear];
  learn(f.warp, t.observed);
  learn(f.warp, states_[f.warp].observed);
  t.observed.clear();
  t.at_fence = everything_known(f.warp);
  states_[f.warp].clock[f.warp]++;  // what follows is not released by this fence
}

void Checker::strong_access(Fiber& f, uint64_t address, Access access, Order order) {
  ThreadState& t = threads_[f.linear];
  const bool acquires = order == Order::kAcquire || order == Order::kAcqRel;
  const bool releases = order == Order::kRelease || order == Order::kAcqRel;
  if (access != Access::kWrite) {
    const auto it = released_.find(address);
    if (it != released_.end()) {
      if (acquires)
        learn(f.warp, it->second);
      else
        join(t.observed, it->second);
    }
  }
  if (access == Access::kRead) return;
  if (access == Access::kWrite)
    released_.erase(address);  // a read-modify-write continues the chain
  if (releases) {
    join(released_[address], everything_known(f.warp));
    states_[f.warp].clock[f.warp]++;
  } else if (!t.at_fence.empty() || !states_[f.warp].fenced.empty()) {
    join(released_[address], t.at_fence);
    join(released_[address], states_[f.warp].fenced);
  }
}

// ---- cells -------------------------------------------------------------------------------------
void Checker::race(Fiber& f, const char* kind, const Place& place, uint64_t offset, uint32_t bytes,
                   const Epoch& other, uint32_t site) {
  Fault fault{EMU_FAULT_RACE, site, other.site, other.thread, other.block};
  fault.bytes = bytes, fault.offset = static_cast<int64_t>(offset), fault.buffer = place.buffer;
  fail(f, fault, "data race (%s) at byte %llu of %s: nothing orders the two accesses", kind,
       static_cast<unsigned long long>(offset), place.buffer);
}

uint32_t Checker::take_set(Pool& pool) const {
  uint32_t index;
  if (!pool.free_sets.empty()) {
    index = pool.free_sets.back();
    pool.free_sets.pop_back();
  } else {
    index = static_cast<uint32_t>(pool.sets.size() / warps_);
    pool.sets.resize(pool.sets.size() + warps_);
  }
  std::fill_n(&pool.sets[static_cast<std::size_t>(index) * warps_], warps_, SetEntry{});
  return index;
}

bool Checker::unordered_read(const Fiber& f, Pool& pool, const Cell& cell, bool strong,
                             Epoch* found) {
  const Epoch& r = cell.read;
  if (r.kind == kNone) return false;
  if (r.kind != kSet) {
    *found = r;
    if (strong && r.strong) return false;
    return r.kind == kManyBlocks || !before(r, f);
  }
  const SetEntry* entries = set(pool, cell);
  for (uint32_t w = 0; w < warps_; w++) {
    const SetEntry& e = entries[w];
    if (!e.lanes || (strong && e.strong) || before(e, r.block, w, f)) continue;
    uint32_t lanes = e.lanes;
    if (w == f.warp && r.block == block_) lanes &= ~(1u << f.lane);
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(lanes));
    *found = Epoch{
        r.block,  e.warp_clock, e.lane_clock, e.site, static_cast<uint16_t>(w * kWarpSize + lane),
        e.strong, kOne};
    return true;
  }
  return false;
}

void Checker::on_read(Fiber& f, Pool& pool, Cell& cell, const Epoch& mine) {
  Epoch& r = cell.read;
  const bool strong = mine.strong;
  const uint32_t lane = 1u << f.lane;
  if (r.kind == kSet && r.block == block_) {  // the common case: a tile that all warps read
    SetEntry& e = set(pool, cell)[f.warp];
    if (e.warp_clock == mine.warp_clock && e.lane_clock == mine.lane_clock) {
      e.lanes |= lane;
      e.strong = e.strong && strong;
      return;
    }
  }
  if (r.kind == kNone || (r.kind == kOne && before(r, f) && (r.strong || !strong))) {
    r = mine;
    return;
  }
  if (r.kind == kManyBlocks) {
    r.strong = r.strong && strong;
    return;
  }
  if (r.block != block_) {
    Epoch other;
    if (r.kind == kSet) {
      const bool ordered = !unordered_read(f, pool, cell, false, &other);
      pool.free_sets.push_back(r.lane_clock);
      if (ordered) {
        r = mine;
        return;
      }
      r = other;
    }
    r.kind = kManyBlocks;
    r.strong = r.strong && strong;
    return;
  }
  if (r.kind == kOne) {
    const Epoch first = r;
    r.kind = kSet;
    r.lane_clock = take_set(pool);
    set(pool, cell)[first.thread / kWarpSize] = {first.warp_clock, first.lane_clock,
                                                 1u << first.thread % kWarpSize, first.site,
                                                 first.strong};
  }
  SetEntry& e = set(pool, cell)[f.warp];
  if (!e.lanes || before(e, block_, f.warp, f))
    e = {mine.warp_clock, mine.lane_clock, lane, mine.site, mine.strong};
  else
    e = {mine.warp_clock, std::max(e.lane_clock, mine.lane_clock), e.lanes | lane, mine.site,
         static_cast<uint8_t>(e.strong && strong)};
}

inline void Checker::one(Fiber& f, const Place& place, Cell& cell, uint64_t offset, uint32_t bytes,
                         Access access, const Epoch& mine) {
  const bool is_read = access == Access::kRead, strong = mine.strong;
  const Epoch& w = cell.write;
  if (w.kind != kNone && !(strong && w.strong) && !before(w, f))
    race(f, is_read ? "read after write" : "write after write", place, offset, bytes, w, mine.site);
  if (is_read) {
    on_read(f, place.pool, cell, mine);
    return;
  }
  Epoch other;
  if (unordered_read(f, place.pool, cell, strong, &other))
    race(f, "write after read", place, offset, bytes, other, mine.site);
  if (cell.read.kind == kSet) place.pool.free_sets.push_back(cell.read.lane_clock);
  cell.read.kind = kNone;
  cell.write = mine;
}

void Checker::span(Fiber& f, const Place& place, Cell* cells, uint64_t offset, uint32_t bytes,
                   Access access, bool strong, uint32_t site) {
  const uint64_t end = offset + bytes;
  const Epoch mine = now(f, strong, site);
  for (uint64_t at = offset; at < end; at = at / 4 * 4 + 4) {
    Cell& cell = cells[at / 4];
    const uint32_t first = at % 4,
                   count = static_cast<uint32_t>(std::min<uint64_t>(4 - first, end - at));
    const uint8_t mask = static_cast<uint8_t>(((1u << count) - 1) << first);
    if (cell.pending) {
      const Epoch& copy = cell.parts ? place.pool.parts[cell.parts][first].write : cell.write;
      Fault fault{EMU_FAULT_COPY_NOT_WAITED, site, copy.site, copy.thread, copy.block};
      fault.bytes = bytes, fault.offset = static_cast<int64_t>(at), fault.buffer = place.buffer;
      fail(f, fault, "%s of byte %llu of %s, the target of a cp.async not yet waited for",
           access == Access::kRead ? "read" : "write", static_cast<unsigned long long>(at),
           place.buffer);
    }
    if (place.needs_init && access != Access::kWrite && (mask & ~cell.initialised)) {
      Fault fault{EMU_FAULT_UNINITIALISED, site};
      fault.bytes = bytes, fault.offset = static_cast<int64_t>(at), fault.buffer = place.buffer;
      fail(f, fault, "uninitialised read of %u bytes at byte %llu of %s", bytes,
           static_cast<unsigned long long>(at), place.buffer);
    }
    if (access != Access::kRead) cell.initialised |= mask;
    if (!cell.parts && count < 4) {
      cell.parts = static_cast<uint32_t>(place.pool.parts.size());
      Cell copy = cell;
      copy.parts = 0;
      place.pool.parts.push_back({copy, copy, copy, copy});
      if (cell.read.kind == kSet) {  // each part owns its set
        auto& parts = place.pool.parts.back();
        for (int i = 1; i < 4; i++) {
          const uint32_t index = take_set(place.pool);
          parts[i].read.lane_clock = index;
          std::copy_n(set(place.pool, cell), warps_, set(place.pool, parts[i]));
        }
      }
    }
    if (!cell.parts)
      one(f, place, cell, at, bytes, access, mine);
    else
      for (uint32_t i = 0; i < count; i++)
        one(f, place, place.pool.parts[cell.parts][first + i], at + i, bytes, access, mine);
  }
}

static bool is_strong(Access access, Order order) {
  return access == Access::kAtomic || order != Order::kWeak;
}

void Checker::shared(Fiber& f, uint32_t offset, uint32_t bytes, Access access, Order order,
                     uint32_t site) {
  const bool strong = is_strong(access, order);
  span(f, {shared_pool_, "shared memory", true}, shared_->cells, offset, bytes, access, strong,
       site);
  if (strong) strong_access(f, reinterpret_cast<uint64_t>(f.shared) + offset, access, order);
}

void Checker::global(Fiber& f, Buffer& buffer, uint64_t offset, uint32_t bytes, Access access,
                     Order order, uint32_t site) {
  const bool strong = is_strong(access, order);
  if (!buffer.shadow)
    buffer.shadow = std::make_unique<Shadow>(static_cast<std::size_t>(buffer.high - buffer.low));
  span(f, {global_pool_, buffer.name.c_str(), !buffer.initialised}, buffer.shadow->cells, offset,
       bytes, access, strong, site);
  if (strong) strong_access(f, reinterpret_cast<uint64_t>(buffer.low) + offset, access, order);
}

// The copy writes some time between issue and wait: it must be ordered after what came before the
// issue, and nobody may touch its bytes until the wait.
void Checker::issue_copy(Fiber& f, const Copy& c) {
  if (c.src_bytes)
    check_access(f, Space::kGlobal, c.src, c.src_bytes, Access::kRead, Order::kWeak, c.site);
  span(f, {shared_pool_, "shared memory", true}, shared_->cells, c.dst, c.bytes, Access::kWrite,
       false, c.site);
  for (uint32_t at = c.dst / 4; at < (c.dst + c.bytes) / 4; at++) shared_->cells[at].pending = 1;
}

void Checker::land_copy(Fiber& f, const Copy& c) {
  for (uint32_t at = c.dst / 4; at < (c.dst + c.bytes) / 4; at++) shared_->cells[at].pending = 0;
  span(f, {shared_pool_, "shared memory", true}, shared_->cells, c.dst, c.bytes, Access::kWrite,
       false, c.site);
}

void Checker::end_launch() {
  for (auto& buffer : device_.buffers.all()) {
    if (!buffer->shadow) continue;
    if (buffer->initialised) {
      buffer->shadow.reset();
      continue;
    }
    for (std::size_t i = 0; i < buffer->shadow->count; i++) {
      Cell& cell = buffer->shadow->cells[i];
      if (!cell.initialised) continue;
      const uint8_t initialised = cell.initialised;
      cell = Cell{};
      cell.initialised = initialised;
    }
  }
  global_pool_ = Pool{};
  released_.clear();
}

}  // namespace emu
