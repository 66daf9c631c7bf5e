// The C interface, and the launch that spreads blocks over host threads.
#include "emulator.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>

#include "check.h"
#include "count.h"
#include "runtime.h"

using namespace emu;

constexpr uint32_t kMaxThreads = 1024, kMaxWorkers = 64;
constexpr uint32_t kMaxShared = 227 << 10;  // of a block, on sm_90
constexpr uint32_t kMaxGridYZ = 65535, kMaxAlign = 1024;

static int refuse(Device& device, const char* format, unsigned long long a = 0,
                  unsigned long long b = 0) {
  std::snprintf(device.fault.text, sizeof device.fault.text, format, a, b);
  return EMU_INVALID;
}

static int check_launch(Device& d, const Entry& e, const emu_launch_record& l) {
  if (e.abi != kAbi)
    return refuse(d, "the translated file has interface %llu, the runtime %llu", e.abi, kAbi);
  const uint64_t threads = uint64_t{l.block[0]} * l.block[1] * l.block[2];
  for (int i = 0; i < 3; i++)
    if (!l.block[i] || l.block[i] > kMaxThreads || !l.grid[i])
      return refuse(d, "grid and block must be positive, a block at most 1024 threads");
  if (threads > kMaxThreads)
    return refuse(d, "a block of %llu threads; there are at most %llu", threads, kMaxThreads);
  if (l.grid[0] > 0x7fffffffu || l.grid[1] > kMaxGridYZ || l.grid[2] > kMaxGridYZ ||
      uint64_t{l.grid[0]} * l.grid[1] > 0xffffffffu / l.grid[2])
    return refuse(d, "the grid is too large: 2^31 - 1, 65535, 65535 and 2^32 blocks in all");
  if (e.shared_align > kMaxAlign || (e.shared_align & (e.shared_align - 1)))
    return refuse(d, "shared memory aligned to %llu; at most %llu", e.shared_align, kMaxAlign);
  const uint64_t shared = uint64_t{dynamic_offset(e)} + l.dynamic_shared_bytes;
  if (shared > kMaxShared)
    return refuse(d, "%llu bytes of shared memory for a block; there are at most %llu", shared,
                  kMaxShared);
  if (e.param_bytes != l.param_bytes)
    return refuse(d, "the entry takes %llu bytes of parameters, the launch gives %llu",
                  e.param_bytes, l.param_bytes);
  return EMU_OK;
}

// The order of blocks: as numbered, or a permutation by seed. i -> (a i + b) mod n with a prime to
// n needs no table.
struct BlockOrder {
  uint64_t n, a = 1, b = 0;
  BlockOrder(uint64_t blocks, const emu_config& config) : n(blocks) {
    if (config.order == EMU_FAIR || n < 2) return;
    Random random{config.seed};
    b = random.next() % n;
    do a = 1 + random.next() % (n - 1);
    while (gcd(a, n) != 1);
  }
  static uint64_t gcd(uint64_t x, uint64_t y) { return y ? gcd(y, x % y) : x; }
  uint32_t at(uint64_t i) const { return static_cast<uint32_t>((a * i + b) % n); }
};

static int launch(Device& device, const emu_launch_record& record) {
  const Entry& entry = *static_cast<const Entry*>(record.entry);
  if (const int status = check_launch(device, entry, record)) return status;
  for (uint32_t i = 0; i < entry.symbol_count; i++) {
    const Symbol& s = entry.symbols[i];
    device.buffers.adopt(s.address, s.bytes, s.name, s.writable != 0);
  }
  if (entry.checked && !device.checker) device.checker = std::make_unique<Checker>(device);
  if (entry.checked && device.config.count && !device.counters)
    device.counters = std::make_unique<Counters>();
  // Kept between launches, seen by hooks only while they are to be used.
  std::unique_ptr<Checker> idle_checker;
  std::unique_ptr<Counters> idle_counters;
  if (!entry.checked) device.checker.swap(idle_checker);
  if (!entry.checked || !device.config.count) device.counters.swap(idle_counters);

  const uint64_t blocks = uint64_t{record.grid[0]} * record.grid[1] * record.grid[2];
  const BlockOrder order(blocks, device.config);
  const uint32_t wanted =
      entry.checked ? 1 : std::min(std::max(device.config.workers, 1u), kMaxWorkers);
  const uint32_t workers = static_cast<uint32_t>(std::min<uint64_t>(wanted, blocks));
  std::atomic<uint64_t> next{0};
  std::atomic<bool> no_memory{false};
  const auto work = [&] {
    try {
      Block block(device, entry, record);
      const GuardHandler handler;
      for (uint64_t i; !device.stop && (i = next++) < blocks;) {
        block.run(order.at(i));
        if (device.stop_asked) device.stop = true;
      }
    } catch (const std::bad_alloc&) {
      no_memory = true;
      device.stop = true;
    }
  };
  std::vector<std::thread> others;
  try {
    for (uint32_t i = 1; i < workers; i++) others.emplace_back(work);
  } catch (const std::system_error&) {  // fewer threads, then
  }
  work();
  for (std::thread& thread : others) thread.join();

  if (device.checker) device.checker->end_launch();
  if (!entry.checked)  // nobody looked which bytes were written
    for (auto& buffer : device.buffers.all()) buffer->initialised = true;
  if (idle_checker) device.checker.swap(idle_checker);
  if (idle_counters) device.counters.swap(idle_counters);
  if (device.fault.kind != EMU_FAULT_NONE) return EMU_FAULT;
  if (no_memory) return EMU_NO_MEMORY;
  return device.stop_asked ? EMU_STOPPED : EMU_OK;
}

// ---- the interface -----------------------------------------------------------------------------
uint32_t emu_abi(void) { return kAbi; }

emu_device* emu_create(void) { return new (std::nothrow) emu_device; }
void emu_destroy(emu_device* device) { delete device; }

void* emu_alloc(emu_device* device, uint64_t bytes, const char* name, uint32_t initialised) {
  if (!name || !*name || std::strlen(name) >= sizeof(emu_fault::buffer)) return nullptr;
  const std::lock_guard<std::mutex> lock(device->buffers_mutex);
  if (device->is_running) return nullptr;
  try {
    return device->buffers.allocate(bytes, name, initialised != 0);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

int emu_free(emu_device* device, void* memory) {
  const std::lock_guard<std::mutex> lock(device->buffers_mutex);
  if (device->is_running) {
    device->left_over.push_back(memory);
    return EMU_OK;
  }
  return device->buffers.free(memory) ? EMU_OK : EMU_INVALID;
}

int emu_configure(emu_device* device, const emu_config* config) {
  if (config->order > EMU_GREEDY) return EMU_INVALID;
  device->config = *config;
  return EMU_OK;
}

int emu_launch(emu_device* device, const emu_launch_record* record) {
  device->fault = emu_fault{};
  device->stop_asked = false;
  device->stop = false;
  {
    const std::lock_guard<std::mutex> lock(device->buffers_mutex);
    device->is_running = true;
  }
  int status = EMU_NO_MEMORY;
  try {
    status = launch(*device, *record);
  } catch (const std::bad_alloc&) {
  }
  const std::lock_guard<std::mutex> lock(device->buffers_mutex);
  device->is_running = false;
  for (void* memory : device->left_over) device->buffers.free(memory);
  device->left_over.clear();
  return status;
}

void emu_stop(emu_device* device) {
  device->stop_asked = true;
  device->stop = true;
}

const emu_fault* emu_last_fault(const emu_device* device) { return &device->fault; }

uint32_t emu_counters(const emu_device* device, emu_counter* rows, uint32_t capacity) {
  if (!device->counters) return 0;
  uint32_t i = 0;
  for (const auto& [key, row] : device->counters->rows()) {
    if (i < capacity) rows[i] = row;
    i++;
  }
  return i;
}

void emu_clear_counters(emu_device* device) { device->counters.reset(); }
