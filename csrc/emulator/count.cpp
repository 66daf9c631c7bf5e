#include "count.h"

#include <algorithm>

namespace emu {

constexpr uint32_t kKinds = 16;
constexpr uint32_t kPassBytes = 128, kBanks = 32, kSectorBytes = 32;

static uint64_t key_of(uint32_t site, uint32_t kind, uint32_t warp) {
  return (static_cast<uint64_t>(site) * kKinds + kind) * kMaxWarps + warp;
}

static bool is_shared(uint32_t kind) {
  return (kind >= EMU_COUNT_SHARED_READ && kind <= EMU_COUNT_SHARED_COPY) ||
         kind == EMU_COUNT_SHARED_MATRIX;
}

// Number of distinct values; sorts them.
static uint32_t distinct(std::vector<uint64_t>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return static_cast<uint32_t>(values.size());
}

// Do all lanes that take part and whose neighbours do, n and n ^ apart, want one address?
static bool pairs_agree(const uint64_t* address, uint32_t lanes, uint32_t apart) {
  const auto takes_part = [&](uint32_t lane) { return lanes >> lane & 1; };
  for (uint32_t lane = 0; lane < kWarpSize; lane++)
    if (takes_part(lane) && takes_part(lane ^ apart) && address[lane] != address[lane ^ apart])
      return false;
  return true;
}

void Counters::close(uint32_t site, uint32_t kind, uint32_t width, const Instruction& i) {
  emu_counter& row =
      rows_.try_emplace({site, kind}, emu_counter{site, kind, width, 0, 0, 0, 0, 0}).first->second;
  if (!i.lanes) return;
  row.instructions++;
  row.width = std::max(row.width, width);
  if (kind == EMU_COUNT_EXECUTED) return;
  uint64_t units = 0, ideal = 0;
  std::vector<uint64_t> words, bytes;
  if (is_shared(kind)) {
    uint32_t lanes = width <= 4 ? kWarpSize : kPassBytes / width;
    if (width > 4 && kind == EMU_COUNT_SHARED_READ &&
        (pairs_agree(i.address, i.lanes, 1) || pairs_agree(i.address, i.lanes, 2)))
      lanes *= 2;
    for (uint32_t first = 0; first < kWarpSize; first += lanes) {
      words.clear();
      for (uint32_t lane = first; lane < first + lanes; lane++)
        if (i.lanes >> lane & 1)
          for (uint64_t a = i.address[lane] / 4; a <= (i.address[lane] + width - 1) / 4; a++)
            words.push_back(a);
      uint32_t busy[kBanks] = {}, most = 0;
      distinct(words);
      for (const uint64_t word : words) most = std::max(most, ++busy[word % kBanks]);
      units += most;
      bytes.insert(bytes.end(), words.begin(), words.end());
    }
    ideal = (distinct(bytes) + kBanks - 1) / kBanks;
    if (kind == EMU_COUNT_SHARED_MATRIX)
      ideal = static_cast<uint64_t>(__builtin_popcount(i.lanes)) * width / kPassBytes;
  } else {
    for (uint32_t lane = 0; lane < kWarpSize; lane++) {
      if (!(i.lanes >> lane & 1)) continue;
      const uint64_t a = i.address[lane];
      for (uint64_t s = a / kSectorBytes; s <= (a + width - 1) / kSectorBytes; s++)
        words.push_back(s);
      for (uint32_t b = 0; b < width; b++) bytes.push_back(a + b);
    }
    units = distinct(words);
    ideal = (distinct(bytes) + kSectorBytes - 1) / kSectorBytes;
  }
  row.units += units;
  row.ideal_units += ideal;
  row.worst_units = std::max(row.worst_units, units);
}

void Counters::close_all(uint64_t key, Open& open) {
  for (const Instruction& instruction : open.instructions)
    close(static_cast<uint32_t>(key / kMaxWarps / kKinds),
          static_cast<uint32_t>(key / kMaxWarps % kKinds), open.width, instruction);
  open.instructions.clear();
  open.closed = 0;
  std::fill_n(open.passed, kWarpSize, 0);
}

void Counters::add(Fiber& f, uint64_t address, uint32_t width, emu_counter_kind kind, uint32_t site,
                   bool moves) {
  const uint64_t key = key_of(site, kind, f.warp);
  Open& open = open_[key];
  const Warp& warp = f.block->warps[f.warp];
  if (open.epoch != warp.epoch) {
    close_all(key, open);
    open.epoch = warp.epoch;
  }
  open.width = std::max(open.width, width);
  const uint32_t k = open.passed[f.lane]++ - open.closed;
  if (k == open.instructions.size()) open.instructions.emplace_back();
  Instruction& instruction = open.instructions[k];
  instruction.address[f.lane] = address;
  if (moves) instruction.lanes |= 1u << f.lane;
  instruction.came |= 1u << f.lane;
  if (k == 0 && !(warp.live & ~instruction.came)) {
    close(site, kind, open.width, instruction);
    open.instructions.pop_front();
    open.closed++;
  }
}

static emu_counter_kind kind_of(Access access, emu_counter_kind read) {
  return static_cast<emu_counter_kind>(read + static_cast<int>(access));
}
static_assert(static_cast<int>(Access::kWrite) == 1 && static_cast<int>(Access::kAtomic) == 2 &&
                  EMU_COUNT_SHARED_ATOMIC == EMU_COUNT_SHARED_READ + 2 &&
                  EMU_COUNT_GLOBAL_ATOMIC == EMU_COUNT_GLOBAL_READ + 2,
              "kinds follow Access");

void Counters::shared(Fiber& f, uint32_t offset, uint32_t bytes, Access access, uint32_t site) {
  const bool matrix = access == Access::kMatrix;
  add(f, offset, bytes, matrix ? EMU_COUNT_SHARED_MATRIX : kind_of(access, EMU_COUNT_SHARED_READ),
      site);
}
void Counters::global(Fiber& f, uint64_t address, uint32_t bytes, Access access, uint32_t site) {
  add(f, address, bytes, kind_of(access, EMU_COUNT_GLOBAL_READ), site);
}
void Counters::copy(Fiber& f, const Copy& c) {
  add(f, c.dst, c.bytes, EMU_COUNT_SHARED_COPY, c.site);
  add(f, c.src, c.src_bytes, EMU_COUNT_GLOBAL_COPY, c.site, c.src_bytes != 0);
}
void Counters::executed(Fiber& f, uint32_t site) { add(f, 0, 1, EMU_COUNT_EXECUTED, site); }

void Counters::end_block() {
  for (auto& [key, open] : open_) close_all(key, open);
  open_.clear();
}

}  // namespace emu
