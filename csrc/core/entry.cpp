// What every entry point passes through: the table of linked programs, options, errors, memory.
#include <sys/mman.h>

#include <atomic>
#include <mutex>

#include "core.h"

// The table that the build step wrote: one declaration and one row per program and level.
#define PYI_LEVEL(symbol, name, vl, mr, half, nv, wgrad_mr, wgrad_nv)
#define PYI_PROGRAM(symbol, name) \
  extern "C" void pyi_##symbol##_##name(int64_t args, int64_t tile, int64_t scratch);
#include "programs.inc"
#undef PYI_LEVEL
#undef PYI_PROGRAM

namespace pyi {
namespace {

#define PYI_PROGRAM(symbol, name)
#define PYI_LEVEL(symbol, name, vl, mr, half, nv, wgrad_mr, wgrad_nv) \
  constexpr const char* kLevel_##symbol = name;
#include "programs.inc"
#undef PYI_LEVEL
#undef PYI_PROGRAM

std::vector<ProgramRow>& program_table() {
#define PYI_LEVEL(symbol, name, vl, mr, half, nv, wgrad_mr, wgrad_nv)
#define PYI_PROGRAM(symbol, name) {kLevel_##symbol, #name, pyi_##symbol##_##name},
  static auto* table = new std::vector<ProgramRow>{
#include "programs.inc"
  };
#undef PYI_LEVEL
#undef PYI_PROGRAM
  return *table;
}

std::string& last_error() {
  static thread_local std::string message;
  return message;
}

// Eager calls build their list in memory that the thread keeps: no page is faulted in twice.
pyi_launches& thread_list() {
  static thread_local pyi_launches list;
  return list;
}

constexpr size_t kHugePage = 2 << 20;

bool is(const char* value, const char* word) { return std::strcmp(value, word) == 0; }

}  // namespace

const std::vector<ProgramRow>& programs() { return program_table(); }

const std::vector<Level>& levels() {
#define PYI_PROGRAM(symbol, name)
#define PYI_LEVEL(symbol, name, vl, mr, half, nv, wgrad_mr, wgrad_nv) \
  {name, vl, mr, half, nv, wgrad_mr, wgrad_nv},
  static const auto* table = new std::vector<Level>{
#include "programs.inc"
  };
#undef PYI_LEVEL
#undef PYI_PROGRAM
  return *table;
}

Program Level::program(const char* wanted) const {
  for (const ProgramRow& row : program_table()) {
    if (is(row.level, name) && is(row.name, wanted)) return row.program;
  }
  fail(PYI_UNSUPPORTED, "no program ", wanted, " for ", name, " in this build");
}

bool runs_here(const Level& level) {
  __builtin_cpu_init();
  if (is(level.name, "x86-64-v4")) return __builtin_cpu_supports("x86-64-v4");
  if (is(level.name, "x86-64-v3")) return __builtin_cpu_supports("x86-64-v3");
  return false;
}

const Level& pick_level(const char* name) {
  const bool best = name == nullptr || *name == 0 || is(name, "auto");
  std::string known;
  for (const Level& level : levels()) {
    if (best ? runs_here(level) : is(level.name, name)) {
      if (!runs_here(level)) {
        fail(PYI_UNSUPPORTED, "level ", name, " is compiled in, but this CPU has not its features");
      }
      return level;
    }
    known += text(known.empty() ? "" : ", ", level.name);
  }
  if (best) fail(PYI_UNSUPPORTED, "this CPU has none of the levels compiled in: ", known);
  fail(PYI_INVALID_VALUE, "level is '", name, "', expected one of ", known);
}

void* Arena::take(size_t bytes) {
  bytes = static_cast<size_t>(round_up(static_cast<int64_t>(bytes ? bytes : 1), 64));
  while (at_ < blocks_.size() && blocks_[at_].size - blocks_[at_].used < bytes) ++at_;
  if (at_ == blocks_.size()) {
    size_t size = std::max<size_t>(bytes, 1 << 16);
    if (!blocks_.empty()) size = std::max(size, blocks_.back().size);
    // Large blocks in huge pages: a map of a megabyte costs 256 entries of the TLB otherwise.
    const size_t align = size >= kHugePage ? kHugePage : 64;
    size = static_cast<size_t>(round_up(static_cast<int64_t>(size), static_cast<int64_t>(align)));
    void* data = aligned_alloc(align, size);
    if (data == nullptr) fail(PYI_OUT_OF_MEMORY, "cannot allocate ", size, " bytes of workspace");
    if (align == kHugePage) madvise(data, size, MADV_HUGEPAGE);
    blocks_.push_back({std::unique_ptr<void, Free>(data), size, 0});
  }
  Block& block = blocks_[at_];
  void* at = static_cast<char*>(block.data.get()) + block.used;
  block.used += bytes;
  return at;
}

void Arena::rewind() {
  for (Block& block : blocks_) block.used = 0;
  at_ = 0;
}

void Arena::reset() {
  if (blocks_.size() > 1) {  // one block that would have held it all
    size_t total = 0;
    for (const Block& block : blocks_) total += block.size;
    blocks_.clear();
    at_ = 0;
    take(total);
  }
  rewind();
}

const float* zero_row(int64_t count) {
  static std::mutex mutex;
  static const float* zeros = nullptr;  // never freed: recorded launches keep its address
  static int64_t size = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (count > size) {
    int64_t wanted = std::max<int64_t>(round_up(count, 64), 1 << 14);
    void* data = aligned_alloc(64, static_cast<size_t>(wanted) * sizeof(float));
    if (data == nullptr) fail(PYI_OUT_OF_MEMORY, "cannot allocate a row of ", wanted, " zeros");
    std::memset(data, 0, static_cast<size_t>(wanted) * sizeof(float));
    zeros = static_cast<const float*>(data), size = wanted;
  }
  return zeros;
}

pyi_status enter(const char* function, const pyi_options* options, void (*body)(Call&, void*),
                 void* context) {
  static const pyi_options defaults = {};
  const pyi_options& o = options ? *options : defaults;
  try {
    const char* algorithm = o.algorithm && *o.algorithm ? o.algorithm : "auto";
    if (!is(algorithm, "auto") && !is(algorithm, "direct") && !is(algorithm, "winograd") &&
        !is(algorithm, "plain") && !is(algorithm, "winograd_plain")) {
      fail(PYI_INVALID_VALUE, function, ": algorithm is '", algorithm,
           "', expected one of auto, direct, winograd, plain, winograd_plain");
    }
    if (o.threads < 0) {
      fail(PYI_INVALID_VALUE, function, ": threads is ", o.threads, ", expected 0 or more");
    }
    if (o.workspace_needed != nullptr) *o.workspace_needed = 0;
    std::unique_ptr<pyi_launches> nested;  // the thread's own list is being walked
    if (!o.launches && walking_here()) nested = std::make_unique<pyi_launches>();
    pyi_launches& list = o.launches ? *o.launches : nested ? *nested : thread_list();
    if (!o.launches) list.clear();
    int threads = o.threads ? o.threads : default_threads();
    Call call{Check(function),
              list,
              pick_level(o.level),
              threads,
              is(algorithm, "plain"),
              !is(algorithm, "direct") && !is(algorithm, "plain"),
              is(algorithm, "auto"),
              is(algorithm, "winograd_plain"),
              o};
    // A call that fails half-way must leave a recorded list as it was.
    const size_t before = list.launches.size();
    try {
      // Calls of a list run one after the other, so each may use the workspace of the one before.
      list.barrier();
      list.between.rewind();
      body(call, context);
    } catch (...) {
      list.launches.resize(before);
      throw;
    }
    if (o.launches) return PYI_OK;
    pyi_status status = walk(list, threads, o.interrupt);
    if (status == PYI_INTERRUPTED) last_error() = text(function, ": interrupted");
    return status;
  } catch (const Error& error) {
    last_error() = error.message;
    return error.status;
  } catch (const std::exception& error) {
    last_error() = text(function, ": out of memory or threads (", error.what(), ")");
    return PYI_OUT_OF_MEMORY;
  }
}

pyi_status guard(void (*body)(void*), void* context) {
  try {
    body(context);
    return PYI_OK;
  } catch (const Error& error) {
    last_error() = error.message;
    return error.status;
  } catch (const std::exception& error) {
    last_error() = text("out of memory (", error.what(), ")");
    return PYI_OUT_OF_MEMORY;
  }
}

}  // namespace pyi

extern "C" {

const char* pyi_last_error(void) { return pyi::last_error().c_str(); }

const char* pyi_host_level(void) {
  for (const pyi::Level& level : pyi::levels()) {
    if (pyi::runs_here(level)) return level.name;
  }
  return "";
}

int pyi_default_threads(void) { return pyi::default_threads(); }

int pyi_program(int index, pyi_program_info* info) {
  const auto& rows = pyi::programs();
  if (index < 0 || static_cast<size_t>(index) >= rows.size()) return 0;
  for (const pyi::Level& level : pyi::levels()) {
    if (!pyi::is(level.name, rows[index].level)) continue;
    *info = {rows[index].name,
             level.name,
             level.vl,
             level.mr,
             level.nr(),
             level.wgrad_mr,
             level.wgrad_nv * level.vl,
             pyi::runs_here(level)};
  }
  return 1;
}

pyi_status pyi_replace_program(const char* level, const char* name, pyi::Program program) {
  for (pyi::ProgramRow& row : pyi::program_table()) {
    if (pyi::is(row.level, level) && pyi::is(row.name, name)) {
      row.program = program;
      return PYI_OK;
    }
  }
  pyi::last_error() = pyi::text("replace_program: no program ", name, " for ", level);
  return PYI_INVALID_VALUE;
}

int64_t pyi_launches_size(const pyi_launches* launches) {
  return static_cast<int64_t>(launches->launches.size());
}

pyi_launches* pyi_launches_create(void) { return new pyi_launches; }

pyi_status pyi_launches_run(pyi_launches* launches, const pyi_options* options) {
  if (launches->running.exchange(true)) {
    pyi::last_error() =
        "launches_run: the list is being run by another call, expected one at a time";
    return PYI_INVALID_VALUE;
  }
  pyi_status status;
  try {
    int threads = options && options->threads > 0 ? options->threads : pyi::default_threads();
    status = pyi::walk(*launches, threads, options ? options->interrupt : nullptr);
    if (status == PYI_INTERRUPTED) pyi::last_error() = "launches_run: interrupted";
  } catch (const pyi::Error& error) {
    pyi::last_error() = error.message;
    status = error.status;
  } catch (const std::exception& error) {
    pyi::last_error() = pyi::text("launches_run: out of memory or threads (", error.what(), ")");
    status = PYI_OUT_OF_MEMORY;
  }
  launches->running.store(false);
  return status;
}

void pyi_launches_destroy(pyi_launches* launches) { delete launches; }

}  // extern "C"
