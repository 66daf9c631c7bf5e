// Warp collectives as translated code calls them. Each builds a record, meets the other lanes of
// its mask and reads its result: see Rendezvous. A lane that has exited takes no part, as in PTX;
// reading the value of a lane that takes no part is a fault, not a guess.
#pragma once
#include "device.h"

namespace emu {

inline void meet(Thread& t, uint32_t key, uint32_t mask, uint32_t site, void* record,
                 Rendezvous run, bool aligned = false) {
  t.runtime->collective(t, {key, mask, aligned, false}, site, record, run);
}

// bar.warp.sync: the only warp collective that orders memory.
inline void warp_sync(Thread& t, uint32_t mask, uint32_t site) {
  t.runtime->collective(t, {kKeySync, mask, false, true}, site, nullptr,
                        [](Thread* const*, void* const*, uint32_t) {});
}

// ---- shfl --------------------------------------------------------------------------------------
enum class Shfl : uint8_t { kUp, kDown, kBfly, kIdx };
struct ShflResult {
  uint32_t value;
  bool predicate;  // the source lane was in range
};
struct ShflRecord {
  uint32_t value, source, site;
  bool in_range;
  uint32_t result;
};

// b: lane or distance, c: clamp in bits 0-4, segment mask in bits 8-12, as in PTX.
template <Shfl kMode>
inline ShflResult shfl(Thread& t, uint32_t value, uint32_t b, uint32_t c, uint32_t mask,
                       uint32_t site) {
  const uint32_t lane = t.lane, clamp = c & 31, segment = c >> 8 & 31;
  const uint32_t last = (lane & segment) | (clamp & ~segment), first = lane & segment;
  b &= 31;
  uint32_t source;
  bool in_range;
  if constexpr (kMode == Shfl::kUp) {
    // The clamp is a lower bound here: a segment begins at its first lane.
    source = lane - b, in_range = static_cast<int32_t>(source) >= static_cast<int32_t>(last);
  } else if constexpr (kMode == Shfl::kDown) {
    source = lane + b, in_range = source <= last;
  } else if constexpr (kMode == Shfl::kBfly) {
    source = lane ^ b, in_range = source <= last;
  } else {
    source = first | (b & ~segment), in_range = source <= last;
  }
  ShflRecord record{value, in_range ? source : lane, site, in_range, 0};
  meet(t, kKeyShfl + static_cast<uint32_t>(kMode), mask, site, &record,
       [](Thread* const* lanes, void* const* records, uint32_t present) {
         for (int i = 0; i < kWarpSize; i++) {
           if (!(present >> i & 1)) continue;
           auto* own = static_cast<ShflRecord*>(records[i]);
           if (!(present >> own->source & 1))
             fault(*lanes[i], own->site, "shfl reads a lane that takes no part in it");
           own->result = static_cast<ShflRecord*>(records[own->source])->value;
         }
       });
  return {record.result, record.in_range};
}

// ---- vote --------------------------------------------------------------------------------------
struct VoteRecord {
  bool predicate;
  uint32_t ballot, present;
};
inline VoteRecord vote(Thread& t, uint32_t key, bool predicate, uint32_t mask, uint32_t site) {
  VoteRecord record{predicate, 0, 0};
  meet(t, key, mask, site, &record, [](Thread* const*, void* const* records, uint32_t present) {
    uint32_t ballot = 0;
    for (int i = 0; i < kWarpSize; i++)
      if ((present >> i & 1) && static_cast<VoteRecord*>(records[i])->predicate) ballot |= 1u << i;
    for (int i = 0; i < kWarpSize; i++)
      if (present >> i & 1) {
        static_cast<VoteRecord*>(records[i])->ballot = ballot;
        static_cast<VoteRecord*>(records[i])->present = present;
      }
  });
  return record;
}
inline bool vote_all(Thread& t, bool predicate, uint32_t mask, uint32_t site) {
  const VoteRecord r = vote(t, kKeyVote, predicate, mask, site);
  return r.ballot == r.present;
}
inline bool vote_any(Thread& t, bool predicate, uint32_t mask, uint32_t site) {
  return vote(t, kKeyVote + 1, predicate, mask, site).ballot != 0;
}
inline bool vote_uni(Thread& t, bool predicate, uint32_t mask, uint32_t site) {
  const VoteRecord r = vote(t, kKeyVote + 2, predicate, mask, site);
  return r.ballot == 0 || r.ballot == r.present;
}
inline uint32_t vote_ballot(Thread& t, bool predicate, uint32_t mask, uint32_t site) {
  return vote(t, kKeyVote + 3, predicate, mask, site).ballot;
}

// ---- match -------------------------------------------------------------------------------------
struct MatchRecord {
  uint64_t value;
  uint32_t same, present;
};
template <class T>
inline MatchRecord match(Thread& t, uint32_t key, T value, uint32_t mask, uint32_t site) {
  MatchRecord record{value, 0, 0};
  meet(t, key, mask, site, &record, [](Thread* const*, void* const* records, uint32_t present) {
    for (int i = 0; i < kWarpSize; i++) {
      if (!(present >> i & 1)) continue;
      auto* own = static_cast<MatchRecord*>(records[i]);
      own->present = present;
      for (int j = 0; j < kWarpSize; j++)
        if ((present >> j & 1) && static_cast<MatchRecord*>(records[j])->value == own->value)
          own->same |= 1u << j;
    }
  });
  return record;
}
template <class T>
inline uint32_t match_any(Thread& t, T value, uint32_t mask, uint32_t site) {
  return match(t, kKeyMatch + sizeof(T), value, mask, site).same;
}
struct MatchAll {
  uint32_t mask;
  bool predicate;
};
template <class T>
inline MatchAll match_all(Thread& t, T value, uint32_t mask, uint32_t site) {
  const MatchRecord r = match(t, kKeyMatch + 1 + sizeof(T), value, mask, site);
  const bool all = r.same == r.present;
  return {all ? r.same : 0, all};
}

// ---- redux -------------------------------------------------------------------------------------
enum class Redux : uint8_t { kAdd, kMinU, kMaxU, kMinS, kMaxS, kAnd, kOr, kXor };
struct ReduxRecord {
  uint32_t value;
};
template <Redux kOp>
inline uint32_t reduce(uint32_t a, uint32_t b) {
  if constexpr (kOp == Redux::kAdd) return a + b;
  if constexpr (kOp == Redux::kMinU) return a < b ? a : b;
  if constexpr (kOp == Redux::kMaxU) return a > b ? a : b;
  if constexpr (kOp == Redux::kMinS)
    return static_cast<int32_t>(a) < static_cast<int32_t>(b) ? a : b;
  if constexpr (kOp == Redux::kMaxS)
    return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b;
  if constexpr (kOp == Redux::kAnd) return a & b;
  if constexpr (kOp == Redux::kOr) return a | b;
  return a ^ b;
}
template <Redux kOp>
inline uint32_t redux(Thread& t, uint32_t value, uint32_t mask, uint32_t site) {
  ReduxRecord record{value};
  meet(t, kKeyRedux + static_cast<uint32_t>(kOp), mask, site, &record,
       [](Thread* const*, void* const* records, uint32_t present) {
         uint32_t sum = 0;
         bool first = true;
         for (int i = 0; i < kWarpSize; i++)
           if (present >> i & 1) {
             const uint32_t own = static_cast<ReduxRecord*>(records[i])->value;
             sum = first ? own : reduce<kOp>(sum, own);
             first = false;
           }
         for (int i = 0; i < kWarpSize; i++)
           if (present >> i & 1) static_cast<ReduxRecord*>(records[i])->value = sum;
       });
  return record.value;
}

// ---- who is here -------------------------------------------------------------------------------
// Any set that holds the caller is a legal answer; this one makes code fail that takes the answer
// for the whole warp.
inline uint32_t activemask(Thread& t) { return 1u << t.lane; }

struct Elected {
  uint32_t lane;
  bool is_leader;
};
inline Elected elect(Thread& t, uint32_t mask, uint32_t site) {
  uint32_t leader = 0;
  meet(t, kKeyElect, mask, site, &leader,
       [](Thread* const*, void* const* records, uint32_t present) {
         for (int i = 0; i < kWarpSize; i++)
           if (present >> i & 1)
             *static_cast<uint32_t*>(records[i]) = static_cast<uint32_t>(__builtin_ctz(present));
       });
  return {leader, leader == t.lane};
}

}  // namespace emu
