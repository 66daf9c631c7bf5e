// Counters by PTX statement: wavefronts of shared memory, sectors of global memory, executions.
//
// A warp instruction is put together from its lanes: the k-th access of each lane at one statement
// since the warp last met. Shared memory: an instruction goes in passes of 128 bytes (all lanes at
// 4 bytes or less, half a warp at 8, a quarter at 16); a pass takes as many wavefronts as the
// busiest of the 32 banks has distinct words. A read of 8 or 16 bytes returns a register a
// wavefront, two where all lanes n and n ^ 1, or all n and n ^ 2, want one address: its passes are
// twice as wide then. Global memory: distinct 32-byte sectors. The ideal is what the distinct bytes
// need, so that a broadcast counts as little as it moves. A model, not a profiler.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "runtime.h"

namespace emu {

class Counters {
 public:
  void shared(Fiber& f, uint32_t offset, uint32_t bytes, Access, uint32_t site);
  void global(Fiber& f, uint64_t address, uint32_t bytes, Access, uint32_t site);
  void copy(Fiber& f, const Copy& copy);
  void executed(Fiber& f, uint32_t site);
  void end_block();  // closes what the block left open
  const std::map<std::tuple<uint32_t, uint32_t>, emu_counter>& rows() const { return rows_; }

 private:
  struct Instruction {  // lanes of one warp instruction so far
    uint64_t address[kWarpSize];
    uint32_t lanes = 0;  // with an address
    uint32_t came = 0;   // with or without
  };
  struct Open {  // of one warp, statement and kind
    uint64_t epoch = 0;
    uint32_t width = 0;
    uint32_t passed[kWarpSize] = {};  // accesses of each lane in this epoch
    uint32_t closed = 0;              // instructions of this epoch already counted
    std::deque<Instruction> instructions;
  };
  void add(Fiber& f, uint64_t address, uint32_t bytes, emu_counter_kind kind, uint32_t site,
           bool moves = true);
  void close(uint32_t site, uint32_t kind, uint32_t width, const Instruction& instruction);
  void close_all(uint64_t key, Open& open);

  std::unordered_map<uint64_t, Open> open_;  // by (site, kind, warp)
  std::map<std::tuple<uint32_t, uint32_t>, emu_counter> rows_;
};

}  // namespace emu
