// Device code as the translator would emit it, written by hand: right programs and planted defects,
// one `case` each. Sites are the numbers given; the test knows them.
#include <cstddef>

#include "device.h"

using namespace emu;
constexpr Space G = Space::kGlobal, S = Space::kShared;

static const float table[4] = {1, 2, 3, 4};
static uint32_t counter = 0;

struct Params {
  uint64_t x, y;
  uint32_t which, n;
};

static float shared_float(Thread& t, uint32_t i, uint32_t site) {
  return ld<S, float>(t, 4 * i, site);
}
static void put_shared(Thread& t, uint32_t i, float v, uint32_t site) { st<S>(t, 4 * i, v, site); }
static float load(Thread& t, uint64_t p, uint32_t i, uint32_t site) {
  return ld<G, float>(t, p + 4ull * i, site);
}
static void store(Thread& t, uint64_t p, uint32_t i, float v, uint32_t site) {
  st<G>(t, p + 4ull * i, v, site);
}

__attribute__((noinline)) static void large_frame(Thread& t) {
  volatile char bytes[1 << 18];
  for (uint32_t k = 0; k < sizeof bytes; k += 64) bytes[k] = static_cast<char>(t.linear);
}

extern "C" void program(Thread& t, const char* params) {
  Params p;
  std::memcpy(&p, params, sizeof p);
  const uint32_t i = t.linear, n = t.ntid.x, lane = t.lane;
  switch (p.which) {
    // ---- right programs ----
    case 0:  // reverse within a block through shared memory, several times over
      for (uint32_t round = 0; round < 3; round++) {
        put_shared(t, i, load(t, p.x, t.ctaid.x * n + i, 1) + round, 2);
        bar_sync(t, 0, 0, 3);
        store(t, p.y, t.ctaid.x * n + i, shared_float(t, n - 1 - i, 4), 5);
        bar_sync(t, 0, 0, 6);
        back_edge(t, 7);
      }
      break;
    case 1: {  // producer warps fill, consumer warps read, two stages, barriers with counts
      const bool producer = t.warp < t.ntid.x / 64;
      const uint32_t half = n / 2, at = i % half;
      for (uint32_t round = 0; round < 5; round++) {
        const uint32_t stage = round & 1;
        if (producer) {
          if (round >= 2) bar_sync(t, 3 + stage, n, 10);  // empty
          put_shared(t, stage * half + at, load(t, p.x, at, 11) * (round + 1), 12);
          bar_arrive(t, 1 + stage, n, 13);  // full
        } else {
          bar_sync(t, 1 + stage, n, 14);
          store(t, p.y, round * half + at, shared_float(t, stage * half + half - 1 - at, 15), 16);
          if (round < 3) bar_arrive(t, 3 + stage, n, 17);
        }
        back_edge(t, 18);
      }
      break;
    }
    case 2: {  // bytes of one word belong to four threads
      st<S, uint8_t>(t, i, static_cast<uint8_t>(i), 20);
      bar_sync(t, 0, 0, 21);
      store(t, p.y, i, ld<S, uint8_t>(t, i ^ 1, 22), 23);
      break;
    }
    case 3: {  // a warp exchanges halves: lanes 0-15 and 16-31 meet apart
      put_shared(t, i, static_cast<float>(i), 30);
      warp_sync(t, lane < 16 ? 0xffffu : 0xffff0000u, lane < 16 ? 31 : 32);
      store(t, p.y, i, shared_float(t, i ^ 1, 33), 34);
      break;
    }
    case 4: {  // cp.async, two groups, the second with a short source
      cp_async(t, 16 * i, p.x + 16 * i, 16, 16, 40);
      cp_async_commit(t, 41);
      cp_async(t, 16 * (n + i), p.x + 16 * i, 16, i & 1 ? 8 : 0, 42);
      cp_async_commit(t, 43);
      cp_async_wait(t, 1, 44);
      bar_sync(t, 0, 0, 45);
      const auto a = ld<S, Vec<float, 4>>(t, 16 * (n - 1 - i), 46);
      cp_async_wait_all(t, 47);
      const auto b = ld<S, Vec<float, 4>>(t, 16 * (n + i), 48);
      st<G>(t, p.y + 32ull * i, a, 49);
      st<G>(t, p.y + 32ull * i + 16, b, 49);
      break;
    }
    case 5: {  // the last block sums what the others wrote: fence, counter, fence
      if (i == 0) store(t, p.x, 1 + t.ctaid.x, static_cast<float>(t.ctaid.x + 1), 50);
      if (i == 0) {
        fence(t, 51);
        const uint32_t before = atom<G, uint32_t>(t, p.x, 52, [](uint32_t v) { return v + 1; });
        fence(t, 53);
        if (before == t.nctaid.x - 1) {
          float sum = 0;
          for (uint32_t b = 0; b < t.nctaid.x; b++) sum += load(t, p.x, 1 + b, 54);
          store(t, p.y, 0, sum, 55);
        }
      }
      break;
    }
    case 6: {  // warp 1 spins on a flag that warp 0 sets
      if (i == 0) st<S, uint32_t>(t, 0, 0, 66);
      bar_sync(t, 0, 0, 67);
      if (t.warp == 0) {
        if (lane == 0) {
          put_shared(t, 1, 7.f, 60);
          st<S, uint32_t, Order::kRelease>(t, 0, 1, 61);
        }
      } else {
        while (ld<S, uint32_t, Order::kAcquire>(t, 0, 62) != 1) back_edge(t, 63);
        store(t, p.y, lane, shared_float(t, 1, 64), 65);
      }
      break;
    }
    case 7: {  // collectives
      const uint32_t full = ~0u;
      uint32_t sum = i;
      for (uint32_t d = 16; d; d /= 2) sum += shfl<Shfl::kBfly>(t, sum, d, 31, full, 70).value;
      const ShflResult up = shfl<Shfl::kUp>(t, i, 1, 0, full, 71);
      const ShflResult down = shfl<Shfl::kDown>(t, i, 3, 0x1807, full, 72);  // segments of 8
      const ShflResult idx = shfl<Shfl::kIdx>(t, i, 5, 31, full, 73);
      const uint32_t ballot = vote_ballot(t, lane % 3 == 0, full, 74);
      const uint32_t counted = bar_red<BarrierRed::kPopc>(t, 0, 0, i % 5 == 0, 75);
      const MatchAll all = match_all<uint32_t>(t, t.warp, full, 76);
      const uint32_t any = match_any<uint32_t>(t, lane / 4, full, 77);
      const uint32_t least = redux<Redux::kMinS>(t, 100 - i, full, 78);
      const Elected leader = elect(t, full, 79);
      const uint32_t values[] = {sum,
                                 up.value,
                                 up.predicate,
                                 down.value,
                                 down.predicate,
                                 idx.value,
                                 ballot,
                                 counted,
                                 all.mask,
                                 any,
                                 least,
                                 leader.lane,
                                 vote_all(t, true, full, 80),
                                 vote_any(t, false, full, 81),
                                 vote_uni(t, lane < 3, full, 82),
                                 all.predicate};
      for (uint32_t k = 0; k < 16; k++) st<G>(t, p.y + 4ull * (16 * i + k), values[k], 83);
      break;
    }
    case 8:  // lanes that are not there any more take no part in what is not aligned
      if (lane >= 20) return;
      store(t, p.y, i, static_cast<float>(vote_ballot(t, true, ~0u, 90)), 91);
      break;
    case 9: {  // barrier.sync without .aligned: lanes may stand at different statements
      put_shared(t, i, static_cast<float>(i), 400);
      if (lane % 2)
        bar_sync(t, 0, 0, 401, false);
      else
        bar_sync(t, 0, 0, 402, false);
      store(t, p.y, i, shared_float(t, n - 1 - i, 403), 404);
      break;
    }
    case 10: {  // generic addresses: shared memory, this thread's stack, parameters, a buffer
      alignas(16) char local[16];
      const uint64_t there = reinterpret_cast<uint64_t>(local);
      st<Space::kLocal>(t, there, static_cast<float>(i), 410);
      const float a = ld<Space::kGeneric, float>(t, there, 411);
      st<Space::kGeneric>(t, generic_of_shared(t, 4 * i), a + 1, 412);
      const float b = shared_float(t, i, 413);
      const uint32_t which = ld<Space::kGeneric, uint32_t>(
          t, reinterpret_cast<uint64_t>(params) + offsetof(Params, which), 414);
      st<Space::kGeneric>(t, p.y + 4 * i, b * which, 415);
      break;
    }
    case 11: {  // variables of the module
      const float c = ld<Space::kConst, float>(t, reinterpret_cast<uint64_t>(&table[i % 4]), 420);
      atom<G, uint32_t>(t, reinterpret_cast<uint64_t>(&counter), 421,
                        [](uint32_t v) { return v + 1; });
      store(t, p.y, t.ctaid.x * n + i, c, 422);
      break;
    }
    case 12:  // writes half of y; case 13 reads it in another launch
      store(t, p.y, i, 1.f, 430);
      break;
    case 13:
      store(t, p.x, i, load(t, p.y, i + p.n, 431), 432);
      break;
    case 14:     // as 5, with all threads of a block: fence, barrier, one counter, barrier, fence
    case 135: {  // ... without the first fence
      const uint64_t partial = p.x + 16 + 4ull * n * t.ctaid.x;
      store(t, partial, i, 1.f, 440);
      if (p.which == 14) fence(t, 441);
      bar_sync(t, 0, 0, 442);
      if (i == 0)
        st<S, uint32_t>(t, 0, atom<G, uint32_t>(t, p.x, 443, [](uint32_t v) { return v + 1; }),
                        444);
      bar_sync(t, 0, 0, 445);
      if (ld<S, uint32_t>(t, 0, 446) == t.nctaid.x - 1) {
        fence(t, 447);
        float sum = 0;
        for (uint32_t b = 0; b < t.nctaid.x; b++) sum += load(t, p.x + 16 + 4ull * n * b, i, 448);
        store(t, p.y, i, sum, 449);
      }
      break;
    }
    // ---- defects ----
    case 100:  // no barrier before reading (RAW)
      put_shared(t, i, 0.f, 104);
      bar_sync(t, 0, 0, 105);
      put_shared(t, i, 1.f, 101);
      store(t, p.y, i, shared_float(t, n - 1 - i, 102), 103);
      break;
    case 101:  // no barrier before overwriting (WAR)
      for (uint32_t round = 0; round < 3; round++) {
        put_shared(t, i, static_cast<float>(round), 111);
        bar_sync(t, 0, 0, 112);
        store(t, p.y, round * n + i, shared_float(t, n - 1 - i, 113), 114);
        back_edge(t, 115);
      }
      break;
    case 102:  // one past the end of a buffer
      store(t, p.y, i, load(t, p.x, p.n + i, 121), 122);
      break;
    case 103:  // beyond shared memory
      put_shared(t, t.shared_bytes / 4 + i, 1.f, 131);
      break;
    case 104:  // nobody wrote it
      put_shared(t, i, 1.f, 140);
      bar_sync(t, 0, 0, 141);
      store(t, p.y, i, shared_float(t, n + i, 142), 143);
      break;
    case 105:  // 16 bytes at 4
      st<G>(t, p.y + 4, Vec<float, 4>{{1, 2, 3, 4}}, 151);
      break;
    case 106:  // half a warp at a barrier
      if (lane < 16) bar_sync(t, 0, 0, 161);
      put_shared(t, i, 1.f, 162);
      bar_sync(t, 0, 0, 163);
      break;
    case 107:  // part of a warp has gone
      if (lane >= 16) return;
      bar_sync(t, 0, 0, 171);
      break;
    case 108:
      for (;;) back_edge(t, 181);
    case 109:  // no wait for the copy
      cp_async(t, 16 * i, p.x + 16 * i, 16, 16, 191);
      cp_async_commit(t, 192);
      bar_sync(t, 0, 0, 193);
      store(t, p.y, i, shared_float(t, 4 * i, 194), 195);
      break;
    case 110:  // waited for one's own copy, no barrier before reading another's
      st<S>(t, 16 * i, Vec<float, 4>{}, 205);
      bar_sync(t, 0, 0, 206);
      cp_async(t, 16 * i, p.x + 16 * i, 16, 16, 201);
      cp_async_wait_all(t, 202);
      store(t, p.y, i, shared_float(t, 4 * (n - 1 - i), 203), 204);
      break;
    case 111:  // a flag without release and acquire
      if (i < 2) st<S, uint32_t>(t, 4 * i, 0, 216);
      bar_sync(t, 0, 0, 217);
      if (t.warp == 0) {
        if (lane == 0) {
          put_shared(t, 1, 7.f, 210);
          st<S, uint32_t, Order::kRelaxed>(t, 0, 1, 211);
        }
      } else {
        while (ld<S, uint32_t, Order::kRelaxed>(t, 0, 212) != 1) back_edge(t, 213);
        store(t, p.y, lane, shared_float(t, 1, 214), 215);
      }
      break;
    case 112:  // two blocks write one element
      if (i == 0) store(t, p.y, 0, 1.f, 221);
      break;
    case 113:  // a warp reads what another lane wrote; shfl does not order memory
      put_shared(t, i, 1.f, 230);
      shfl<Shfl::kBfly>(t, i, 1, 31, ~0u, 231);
      store(t, p.y, i, shared_float(t, i ^ 1, 232), 233);
      break;
    case 114:  // warps at different barriers of the whole block
      if (t.warp == 0)
        bar_sync(t, 0, 0, 241);
      else
        bar_sync(t, 0, 0, 242);
      break;
    case 115:  // a barrier that waits for more threads than come
      if (t.warp == 0) bar_sync(t, 1, 64, 251);
      break;
    case 116:  // shfl from a lane that takes no part
      if (lane < 8) shfl<Shfl::kIdx>(t, i, 9, 31, 0xff, 261);
      break;
    case 117:  // the consumer forgets that the producer still owns stage 2
      if (t.warp == 0) {
        put_shared(t, lane, 1.f, 271);
        bar_arrive(t, 1, 64, 272);
        put_shared(t, lane, 2.f, 273);
      } else if (t.warp == 1) {
        bar_sync(t, 1, 64, 274);
        store(t, p.y, lane, shared_float(t, lane, 275), 276);
      }
      break;
    case 118:  // more on the stack than there is
      large_frame(t);
      break;
    case 119:  // a plain read beside an atomic
      if (i == 0)
        atom<G, uint32_t>(t, p.x, 291, [](uint32_t v) { return v + 1; });
      else
        store(t, p.y, i, load(t, p.x, 0, 292), 293);
      break;
    case 120:  // a wild address
      store(t, 0x10, 0, 1.f, 301);
      break;
    case 121:  // a collective of lanes that stand elsewhere
      if (lane < 16)
        vote_any(t, true, ~0u, 311);
      else
        redux<Redux::kAdd>(t, 1, ~0u, 312);
      break;
    case 122:  // reads a buffer that nobody filled
      store(t, p.y, i, load(t, p.y, n + i, 321), 322);
      break;
    case 123:
      trap(t, 331);
    case 124:  // a copy into bytes that others still read
      put_shared(t, i, 1.f, 340);
      bar_sync(t, 0, 0, 341);
      store(t, p.y, i, shared_float(t, n - 1 - i, 342), 343);
      if (i < n / 4) cp_async(t, 16 * i, p.x + 16 * i, 16, 16, 344);
      cp_async_wait_all(t, 345);
      break;
    case 125:
      bar_sync(t, 16, 0, 351);
      break;
    case 126:
      bar_sync(t, 1, 48, 352);
      break;
    case 127:
      bar_arrive(t, 1, 0, 353);
      break;
    case 128:  // two warps expect different numbers of threads
      bar_sync(t, 1, t.warp ? 96 : 64, 354);
      break;
    case 129:
      st<Space::kGeneric>(t, reinterpret_cast<uint64_t>(&table[0]), 1.f, 355);
      break;
    case 130:
      st<Space::kGeneric>(t, reinterpret_cast<uint64_t>(params), 1.f, 356);
      break;
    case 131:  // many blocks read what one of them writes
      store(t, p.y, t.ctaid.x * n + i, load(t, p.x, i, 357), 358);
      if (t.ctaid.x == t.nctaid.x - 1) store(t, p.x, i, 0, 359);
      break;
    case 132:  // a mask without its own lane
      warp_sync(t, ~(1u << lane), 360);
      break;
    case 133: {  // a copy of 16 bytes from an address of 4
      cp_async(t, 16 * i, p.x + 4, 16, 16, 361);
      break;
    }
    case 134:  // a byte of a word that another thread writes whole
      if (i == 0) st<S, uint32_t>(t, 0, 0, 362);
      if (i == 32) st<S, uint8_t>(t, 3, 1, 363);
      break;
  }
}
static const Symbol symbols[] = {
    {"table", const_cast<float*>(table), sizeof table, 0},
    {"counter", &counter, sizeof counter, 1},
};
EMU_ENTRY(program, sizeof(Params), 0, 16, 512, symbols, 2)
