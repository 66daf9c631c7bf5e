// The access checker: races, uninitialised reads, copies not waited for, over shadow memory.
//
// Happens-before. Every warp w keeps a vector clock: entry u is the latest epoch of warp u that w
// has seen end; its own entry is the epoch it is in. Arriving at a barrier joins the clock into the
// barrier's and begins a new epoch; leaving joins the barrier's into the warp's. Within a warp each
// lane keeps a clock over the lanes, joined by bar.warp.sync and by barriers. Other collectives do
// not order memory, as in the PTX memory model. Release and acquire (fence and atomic, or .release
// and .acquire) go through the address they meet at, also between blocks.
//
// Shadow. One cell for four bytes with the last write and the reads since; a cell that is accessed
// in parts is split into four, so the checker works byte by byte. Reads that nothing orders are
// kept apart by warp, so a later write is held against all of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "runtime.h"

namespace emu {

// An access and when it happened.
struct Epoch {
  uint32_t block, warp_clock, lane_clock, site;
  uint16_t thread;
  uint8_t strong;
  uint8_t kind;
};
enum : uint8_t { kNone, kOne, kSet, kManyBlocks };  // kSet: Epoch::lane_clock is its index

struct Cell {
  Epoch write, read;
  uint32_t parts;  // index of its four byte cells, 0: not split
  uint8_t pending, initialised;
};

struct Shadow {
  explicit Shadow(std::size_t bytes);
  ~Shadow();
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;
  Cell* cells;  // zeroed, committed by the host page by page
  std::size_t count;
};

// Epochs of (block, warp), sparse: what a thread knows through release and acquire.
using Known = std::unordered_map<uint64_t, uint32_t>;

class Checker {
 public:
  explicit Checker(Device& device) : device_(device) {}
  void begin_block(Block& block);
  // The bytes are in bounds and naturally aligned.
  void shared(Fiber& f, uint32_t offset, uint32_t bytes, Access, Order, uint32_t site);
  void global(Fiber& f, Buffer& buffer, uint64_t offset, uint32_t bytes, Access, Order,
              uint32_t site);
  void issue_copy(Fiber& f, const Copy& copy);
  void land_copy(Fiber& f, const Copy& copy);
  void join_lanes(uint32_t warp, uint32_t lanes);  // bar.warp.sync
  void arrive(uint32_t barrier, uint32_t warp);
  void release(uint32_t barrier, uint32_t warps);
  void fence(Fiber& f);
  void end_launch();  // forgets who accessed what, keeps what is initialised

 private:
  using Clock = std::array<uint32_t, kMaxWarps>;
  struct WarpState {
    Clock clock;                                                   // over warps
    std::array<std::array<uint32_t, kWarpSize>, kWarpSize> lanes;  // [a][b]: what a has seen of b
    Known known;                                                   // of other blocks
    Known fenced, observed;  // of other threads, handed over by barriers: see ThreadState
  };
  struct BarrierState {
    Clock clock{};
    Known known, fenced, observed;
  };
  struct ThreadState {
    Known at_fence;  // what the next strong write releases
    Known observed;  // by strong reads; known from the next fence on
  };
  struct SetEntry {  // the reads of one warp
    uint32_t warp_clock, lane_clock, lanes, site;
    uint8_t strong;
  };
  struct Pool {  // what cells of one memory spill into
    std::vector<std::array<Cell, 4>> parts{1};
    std::vector<SetEntry> sets;
    std::vector<uint32_t> free_sets;
  };
  struct Place {
    Pool& pool;
    const char* buffer;
    bool needs_init;
  };

  void span(Fiber& f, const Place& place, Cell* cells, uint64_t offset, uint32_t bytes, Access,
            bool strong, uint32_t site);
  void one(Fiber& f, const Place& place, Cell& cell, uint64_t offset, uint32_t bytes, Access,
           const Epoch& mine);
  void on_read(Fiber& f, Pool& pool, Cell& cell, const Epoch& mine);
  // An earlier read that nothing orders before an access of f now; false: none.
  bool unordered_read(const Fiber& f, Pool& pool, const Cell& cell, bool strong, Epoch* found);
  bool before(const Epoch& e, const Fiber& f) const;
  bool before(const SetEntry& e, uint32_t block, uint32_t warp, const Fiber& f) const;
  Epoch now(const Fiber& f, bool strong, uint32_t site) const;
  SetEntry* set(Pool& pool, const Cell& cell) const {
    return &pool.sets[static_cast<std::size_t>(cell.read.lane_clock) * warps_];
  }
  uint32_t take_set(Pool& pool) const;
  void strong_access(Fiber& f, uint64_t address, Access, Order);
  Known everything_known(uint32_t warp) const;
  void learn(uint32_t warp, const Known& news);
  [[noreturn]] void race(Fiber& f, const char* kind, const Place& place, uint64_t offset,
                         uint32_t bytes, const Epoch& other, uint32_t site);

  Device& device_;
  uint32_t block_ = 0, warps_ = 0;
  std::vector<WarpState> states_;
  std::vector<ThreadState> threads_;
  std::array<BarrierState, kBarriers> barriers_;
  std::unique_ptr<Shadow> shared_;
  Pool shared_pool_, global_pool_;
  std::unordered_map<uint64_t, Known> released_;  // by address
};

}  // namespace emu
