// The runtime's own view of a device, a block under way and its fibers.
#pragma once

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"
#include "emulator.h"
#include "fiber.h"
#include "memory.h"

namespace emu {

class Checker;
class Counters;
struct Block;

constexpr uint32_t kNoSite = EMU_NO_SITE;
constexpr int kMaxWarps = 32, kBarriers = 16;
constexpr uint32_t kKeyBarrier = 0;

struct Copy {  // one cp.async under way
  uint32_t dst;
  uint64_t src;
  uint32_t bytes, src_bytes, site;
};

enum class State : uint8_t { kReady, kMeeting, kBarrier, kDone };

struct Fiber : Thread {
  Block* block = nullptr;
  State state = State::kDone;
  Context context;
  char* stack = nullptr;
  Meeting meeting{};
  uint32_t wait_site = kNoSite;
  void* record = nullptr;
  Rendezvous run = nullptr;
  BarrierCall call{};
  uint32_t barrier_result = 0;
  uint64_t slices = 0;
  std::vector<Copy> copies;          // oldest first
  std::vector<uint32_t> group_ends;  // of committed groups, indices into copies
};

struct Warp {
  uint32_t lanes = 0;    // that exist
  uint32_t live = 0;     // that have not exited
  uint32_t ready = 0;    // that could run
  uint32_t meeting = 0;  // that wait in a collective
  uint32_t latest = 0;   // the lane that came to one last
  uint64_t epoch = 0;    // of counters: how often lanes have met
};

struct Barrier {
  uint32_t expected = 0;  // threads; 0: all live ones
  uint32_t arrived = 0;
  uint32_t waiting = 0;  // warps
  uint32_t site = kNoSite;
  BarrierRed red = BarrierRed::kNone;
  uint32_t true_count = 0, false_count = 0;
};

// SplitMix64: small, seeded per block, the same on every machine.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
};

struct Fault {  // what report() needs beside the thread
  emu_fault_kind kind;
  uint32_t site;
  uint32_t other_site = kNoSite, other_thread = EMU_NO_THREAD, other_block = 0;
  uint64_t bytes = 0;
  int64_t offset = 0;
  const char* buffer = "";
};

struct Device {
  emu_config config{};
  Buffers buffers;
  std::mutex buffers_mutex;  // of allocation; a buffer that dies during a launch goes after it
  bool is_running = false;
  std::vector<void*> left_over;
  std::atomic<bool> stop{false}, stop_asked{false};
  std::mutex mutex;  // of `fault`
  emu_fault fault{};
  std::unique_ptr<Checker> checker;  // of a checked launch
  std::unique_ptr<Counters> counters;

  // Keeps the first fault, ends the launch. `fiber` is null where no one thread is at fault.
  void report(const Fiber* fiber, const Fault& fault, const char* format, ...)
      __attribute__((format(printf, 4, 5)));
};

// One block under way on one host thread; blocks follow one another in it.
struct Block {
  Device& device;
  const Entry& entry;
  const emu_launch_record& launch;
  Window window;
  Stacks stacks;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  uint32_t live = 0, ready_warps = 0, live_warps = 0;
  uint32_t current = 0;  // linear index of the running fiber
  uint32_t greedy_warp = kMaxWarps;
  uint32_t index = 0;  // linear, of the block in its grid
  Random random{0};
  Context main;
  bool in_fiber = false;

  Block(Device& device, const Entry& entry, const emu_launch_record& launch);
  void run(uint32_t index);
  Fiber& running() { return fibers[current]; }
  void set_ready(Fiber& fiber);
  // Leaves the running fiber, whose state says why; back here when its turn comes again.
  void give_way();
  void keep_turn(Fiber& running);            // it was made ready and goes on without giving way
  [[noreturn]] void abandon();               // the launch is over; no destructor of the fiber runs
  [[noreturn]] void finish();                // the running fiber is done
  void arrive(Fiber& last, uint32_t lanes);  // the warp of `last` arrives at its barrier
  void release_if_complete(uint32_t id);

 private:
  Fiber* pick();
  void deadlock();
};

// Where dynamic shared memory begins, behind the static variables.
uint32_t dynamic_offset(const Entry& entry);

extern thread_local Block* tls_block;  // the block of this host thread, while one runs

inline Fiber& fiber_of(Thread& t) { return static_cast<Fiber&>(t); }

// Reports and abandons the running fiber.
[[noreturn]] void fail(Thread& t, const Fault& fault, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// A lane of `warp` has exited: collectives and barriers may be complete now.
void lane_exited(Block& block, Fiber& fiber);

// The functions of the table that translated code calls.
uint32_t barrier(Thread&, const BarrierCall&, uint32_t site);
void collective(Thread&, const Meeting&, uint32_t site, void* record, Rendezvous);
void cp_async_issue(Thread&, uint32_t dst, uint64_t src, uint32_t bytes, uint32_t src_bytes,
                    uint32_t site);
void cp_async_close_group(Thread&, uint32_t site);
void cp_async_wait_groups(Thread&, uint32_t groups_left, uint32_t site);
void cp_async_land_all(Fiber&);  // at exit
void access(Thread&, Space, uint64_t address, uint32_t bytes, Access, Order, uint32_t site);
// Bounds, then the checker; `access` counts as well.
void check_access(Fiber&, Space, uint64_t address, uint32_t bytes, Access, Order, uint32_t site);
void misaligned(Thread&, Space, uint64_t address, uint32_t bytes, Access, uint32_t site);

// While alive, a fault at a guard page becomes an emulator fault on this host thread.
class GuardHandler {
 public:
  GuardHandler();
  ~GuardHandler();
  GuardHandler(const GuardHandler&) = delete;
  GuardHandler& operator=(const GuardHandler&) = delete;

 private:
  std::unique_ptr<char[]> stack_;
  stack_t previous_stack_{};
};

}  // namespace emu

struct emu_device : emu::Device {};
