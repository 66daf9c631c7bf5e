// Device code whose counts and times the tests know; beside emulator_kernels.cpp.
#include <cstddef>

#include "device.h"

using namespace emu;
constexpr Space G = Space::kGlobal, S = Space::kShared;

namespace {
struct Params {
  uint64_t x, y;
  uint32_t which, n;
};
}  // namespace

// ---- counters ----------------------------------------------------------------------------------
extern "C" void counted(Thread& t, const char* params) {
  Params p;
  std::memcpy(&p, params, sizeof p);
  const uint32_t i = t.linear;
  for (uint32_t k = 0; k < 3; k++) {
    block_executed(t, 1);
    st<S>(t, 4 * i, 1.f, 2);                               // 1 wavefront a warp
    st<S>(t, 4096 * (1 + t.warp) + 128 * t.lane, 1.f, 3);  // 32-way conflict
    st<S>(t, 12288 + 16 * i, Vec<float, 4>{}, 4);          // 4 wavefronts
    bar_sync(t, 0, 0, 5);
    ld<S, float>(t, 0, 6);  // a broadcast: 1, ideal 1
    const auto quad = [&](uint32_t at, uint32_t site) {
      ld<S, Vec<float, 4>>(t, 12288 + 16 * at, site);
    };
    quad(t.lane / 2, 14);                                   // n and n ^ 1 agree: 2, ideal 2
    quad(t.lane / 4 * 2 + t.lane % 2, 15);                  // n and n ^ 2 agree: 2, ideal 2
    quad(t.lane / 16, 16);                                  // both: 2 still, ideal 1
    quad(t.lane % 16, 17);                                  // neither: 4, ideal 2
    ld<G, float>(t, p.x + 4 * i, 7);                        // 4 sectors
    ld<G, float>(t, p.x + 64 * (i % 32), 8);                // 32 sectors, ideal 4
    if ((i + k) % 2) ld<G, float>(t, p.x + 4 * i, 9);       // 4 sectors, half of the bytes
    cp_async(t, 16384 + 32 * i, p.x + 16 * i, 16, 16, 10);  // 8 wavefronts, 16 sectors
    cp_async_wait_all(t, 11);
    bar_sync(t, 0, 0, 12);
    back_edge(t, 13);
  }
}
EMU_ENTRY(counted, sizeof(Params), 0, 16, 16, nullptr, 0)

// ---- speed: every thread runs n rounds of a barrier or a collective ------------------------------
extern "C" void rounds(Thread& t, const char* params) {
  Params p;
  std::memcpy(&p, params, sizeof p);
  for (uint32_t k = 0; k < p.n; k++) {
    if (p.which == 0) bar_sync(t, 0, 0, 1);
    if (p.which == 1) warp_sync(t, ~0u, 2);
    back_edge(t, 3);
  }
}
EMU_ENTRY(rounds, sizeof(Params), 0, 16, 4, nullptr, 0)
