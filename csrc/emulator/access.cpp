// What an address means: bounds, misalignment, guard pages.
#include <signal.h>
#include <ucontext.h>

#include <cstring>

#include "check.h"
#include "count.h"
#include "runtime.h"

namespace emu {

static const char* verb(Access access) {
  switch (access) {
    case Access::kMatrix:
    case Access::kRead:
      return "read";
    case Access::kWrite:
      return "write";
    default:
      return "atomic";
  }
}
static const char* name(Space space) {
  static const char* const kNames[] = {"global", "shared", "local", "const", "param", "generic"};
  return kNames[static_cast<int>(space)];
}

// Where an address lies, for the checker and for messages.
struct Target {
  Space space;        // kGlobal, kShared, kLocal, kParam
  Buffer* buffer;     // kGlobal; null: no buffer is near
  const char* label;  // of the memory
  int64_t offset;
  uint64_t size;
};

static Target locate(Fiber& f, Space space, uint64_t address) {
  const char* p = reinterpret_cast<const char*>(address);
  Block& block = *f.block;
  if (space == Space::kShared)
    return {Space::kShared, nullptr, "shared memory", static_cast<int64_t>(address),
            f.shared_bytes};
  if (block.window.mapping.holds(p))
    return {Space::kShared, nullptr, "shared memory", p - f.shared, f.shared_bytes};
  if (p >= f.stack && p < f.stack + block.stacks.bytes)
    return {Space::kLocal, nullptr, "local memory", p - f.stack, block.stacks.bytes};
  if (p >= f.params && p < f.params + f.param_bytes)
    return {Space::kParam, nullptr, "the parameters", p - f.params, f.param_bytes};
  if (Buffer* b = block.device.buffers.find(p))
    return {Space::kGlobal, b, b->name.c_str(), p - b->low,
            static_cast<uint64_t>(b->high - b->low)};
  return {Space::kGlobal, nullptr, "", 0, 0};
}

static bool allows(Space asked, Space found) {
  switch (asked) {
    case Space::kGeneric:
      return true;
    case Space::kConst:
      return found == Space::kGlobal;
    default:
      return asked == found;
  }
}

[[noreturn]] static void out_of_bounds(Fiber& f, Space space, const Target& target,
                                       uint64_t address, uint32_t bytes, Access access,
                                       uint32_t site) {
  Fault fault{EMU_FAULT_OUT_OF_BOUNDS, site};
  fault.bytes = bytes, fault.offset = target.offset, fault.buffer = target.label;
  if (!*target.label)
    fail(f, fault, "out-of-bounds %s %s of %u bytes at address 0x%llx, which no buffer holds",
         name(space), verb(access), bytes, static_cast<unsigned long long>(address));
  fail(f, fault, "out-of-bounds %s %s of %u bytes at byte %lld of %s (%llu bytes)", name(space),
       verb(access), bytes, static_cast<long long>(target.offset), target.label,
       static_cast<unsigned long long>(target.size));
}

static Target checked_target(Fiber& f, Space space, uint64_t address, uint32_t bytes, Access access,
                             uint32_t site) {
  const Target target = locate(f, space, address);
  if (!*target.label || !allows(space, target.space) || target.offset < 0 ||
      static_cast<uint64_t>(target.offset) + bytes > target.size)
    out_of_bounds(f, space, target, address, bytes, access, site);
  if (access != Access::kRead &&
      (target.space == Space::kParam || (target.buffer && !target.buffer->writable))) {
    Fault fault{EMU_FAULT_READ_ONLY, site};
    fault.bytes = bytes, fault.offset = target.offset, fault.buffer = target.label;
    fail(f, fault, "%s of %u bytes at byte %lld of %s, which is read-only", verb(access), bytes,
         static_cast<long long>(target.offset), target.label);
  }
  return target;
}

static void check_target(Fiber& f, const Target& target, uint32_t bytes, Access access, Order order,
                         uint32_t site) {
  Checker* checker = f.block->device.checker.get();
  if (!checker) return;
  const uint64_t offset = static_cast<uint64_t>(target.offset);
  if (target.space == Space::kShared)
    checker->shared(f, static_cast<uint32_t>(offset), bytes, access, order, site);
  else if (target.buffer)
    checker->global(f, *target.buffer, offset, bytes, access, order, site);
}

void check_access(Fiber& f, Space space, uint64_t address, uint32_t bytes, Access access,
                  Order order, uint32_t site) {
  check_target(f, checked_target(f, space, address, bytes, access, site), bytes, access, order,
               site);
}

void access(Thread& t, Space space, uint64_t address, uint32_t bytes, Access access, Order order,
            uint32_t site) {
  Fiber& f = fiber_of(t);
  f.site = site;
  const Access kind = access == Access::kMatrix ? Access::kRead : access;
  const Target target = checked_target(f, space, address, bytes, kind, site);
  check_target(f, target, bytes, kind, order, site);
  Counters* counters = f.block->device.counters.get();
  if (!counters) return;
  if (target.space == Space::kShared)
    counters->shared(f, static_cast<uint32_t>(target.offset), bytes, access, site);
  else if (target.buffer)
    counters->global(f, address, bytes, access, site);
}

void misaligned(Thread& t, Space space, uint64_t address, uint32_t bytes, Access access,
                uint32_t site) {
  Fiber& f = fiber_of(t);
  const Target target = locate(f, space, address);
  Fault fault{EMU_FAULT_MISALIGNED, site};
  fault.bytes = bytes, fault.offset = target.offset, fault.buffer = target.label;
  fail(t, fault,
       "misaligned %s %s of %u bytes at byte %lld of %s: the address is no multiple of %u",
       name(space), verb(access), bytes, static_cast<long long>(target.offset),
       *target.label ? target.label : "no buffer", bytes);
}

// ---- guard pages -------------------------------------------------------------------------------
constexpr std::size_t kSignalStack = 64 << 10;
static std::mutex handler_mutex;
static int handler_users = 0;
static struct sigaction previous_action;

// Runs on the signal stack. The faulting fiber never goes on, so the handler leaves for the
// scheduler without returning; SA_NODEFER keeps the signal unblocked.
static void on_segv(int signal, siginfo_t* info, void* context) {
  Block* block = tls_block;
  if (!block || !block->in_fiber) {
    // Not ours. Back to whoever had the signal before; the access repeats and is theirs.
    sigaction(signal, &previous_action, nullptr);
    return;
  }
  Fiber& f = block->running();
  const char* p = static_cast<const char*>(info->si_addr);
  const char* what = "access";
#if defined(__x86_64__)
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  what = registers[REG_ERR] & 2 ? "write" : "read";
  const char* top = reinterpret_cast<const char*>(registers[REG_RSP]);
  const bool overflown = top < f.stack || top > f.stack + block->stacks.bytes;
#else
  (void)context;
  const bool overflown = p < f.stack && p >= f.stack - kStackGuard;
#endif
  if (overflown) {
    block->device.report(&f, {EMU_FAULT_STACK, f.site},
                         "a fiber's stack of %llu bytes is too small for this kernel's registers "
                         "and local arrays",
                         static_cast<unsigned long long>(block->stacks.bytes));
    block->abandon();
  }
  const Target target = locate(f, Space::kGeneric, reinterpret_cast<uint64_t>(p));
  Fault fault{EMU_FAULT_OUT_OF_BOUNDS, f.site};
  fault.offset = target.offset, fault.buffer = target.label;
  if (*target.label)
    block->device.report(&f, fault, "out-of-bounds %s at byte %lld of %s (%llu bytes)", what,
                         static_cast<long long>(target.offset), target.label,
                         static_cast<unsigned long long>(target.size));
  else
    block->device.report(&f, fault, "out-of-bounds %s at address %p, which no buffer holds", what,
                         static_cast<const void*>(p));
  block->abandon();
}

GuardHandler::GuardHandler() : stack_(new char[kSignalStack]) {
  stack_t stack{};
  stack.ss_sp = stack_.get();
  stack.ss_size = kSignalStack;
  sigaltstack(&stack, &previous_stack_);
  std::lock_guard<std::mutex> lock(handler_mutex);
  if (handler_users++ == 0) {
    struct sigaction action{};
    action.sa_sigaction = on_segv;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous_action);
  }
}

GuardHandler::~GuardHandler() {
  {
    std::lock_guard<std::mutex> lock(handler_mutex);
    if (--handler_users == 0) sigaction(SIGSEGV, &previous_action, nullptr);
  }
  sigaltstack(&previous_stack_, nullptr);
}

}  // namespace emu
