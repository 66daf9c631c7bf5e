// The inside of the core: errors, checked maps, launches. Entry points check, fill records, append
// launches; the walker runs lists of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "args.h"
#include "pyinception.h"

namespace pyi {

struct Error {
  pyi_status status;
  std::string message;
};

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(pyi_status status, const Parts&... parts) {
  throw Error{status, text(parts...)};
}

// ---- Programs
// ------------------------------------------------------------------------------------

using Program = void (*)(int64_t args, int64_t tile, int64_t scratch);

// One CPU level: its tile sizes (kernels/cpu/target.py) and its programs.
struct Level {
  const char* name;
  int64_t vl, mr, half, nv, wgrad_mr, wgrad_nv;
  int64_t nr() const { return nv * vl; }
  Program program(const char* name) const;
};

struct ProgramRow {
  const char* level;
  const char* name;
  Program program;
};

const std::vector<Level>& levels();         // compiled in, best first
const std::vector<ProgramRow>& programs();  // every level's programs
bool runs_here(const Level& level);         // CPU and operating system have its features
const Level& pick_level(const char* name);  // "" or NULL: best that runs here

// ---- Checked operands
// ----------------------------------------------------------------------------

// A float32 map (N, H, W, C) with unit channel stride; strides in elements. With size = 2 one of
// bfloat16, which only the host's forward programs take.
struct Map {
  float* data = nullptr;
  int64_t N = 0, H = 0, W = 0, C = 0;
  int64_t n = 0, h = 0, w = 0;
  int64_t size = 4;  // bytes of an element
  void advance(int64_t elements) {
    data = reinterpret_cast<float*>(reinterpret_cast<char*>(data) + elements * size);
  }
  int64_t address() const { return reinterpret_cast<int64_t>(data); }
  bool empty() const { return N == 0 || H == 0 || W == 0 || C == 0; }
};

// A filter (K, R, S, C), strides in elements, or (data, packed) a packed one.
struct Filter {
  float* data = nullptr;
  int64_t K = 0, R = 0, S = 0, C = 0;
  int64_t k = 0, r = 0, s = 0, c = 0;
  bool packed = false;
  bool winograd = false;  // the format it is packed in, or is to be packed in
  int64_t size = 4;       // bytes of an element, as of the maps
};

// Bytes that an operand lies in, last exclusive.
struct Span {
  const char *first, *last;
  bool output;
  bool meets(const Span& other) const { return first < other.last && other.first < last; }
};

// Checks of one call, in the order kind, dtype, rank, shape, strides, alignment, overlap.
class Check {
 public:
  explicit Check(const char* function) : function_(function) {}
  const char* function() const { return function_; }
  // All operands may lie on one CUDA device instead; call before all operands.
  void allow_cuda() { cuda_allowed_ = true; }
  // Maps and filters may be bfloat16, all of them, in host memory; call before all operands.
  void allow_bfloat16() { bfloat16_allowed_ = true; }
  bool on_cuda() const { return device_.device_type == kCudaMemory; }
  Map map(const DLTensor* t, const char* name, bool output = false);
  Map matrix(const DLTensor* t, const char* name, bool output = false);  // (N, C) as (1, 1, N, C)
  Filter filter(const DLTensor* t, const char* name, int64_t R, int64_t S);
  float* vector(const DLTensor* t, const char* name, int64_t length, bool output = false);
  float* packed(const DLTensor* t, const char* name, int64_t length);  // an output, as filters are
  // A vector that may not be missing.
  float* needed(const DLTensor* t, const char* name, int64_t length, bool output = false);
  uint8_t* bytes(const DLTensor* t, const char* name, const Map& like, bool output);
  const int64_t* labels(const DLTensor* t, const char* name, int64_t N, int64_t K);
  // An output of exactly this shape, C-contiguous.
  float* contiguous(const DLTensor* t, const char* name, std::initializer_list<int64_t> shape);
  Filter filter_gradient(const DLTensor* t, const char* name);
  void extents(const char* name, const Map& map, int64_t N, int64_t H, int64_t W, int64_t C,
               const char* letters);
  void range(const char* name, int64_t value, int64_t low, int64_t high);
  void disjoint();  // every output against every other operand; call after all operands
  std::vector<Span> spans() const;  // of all operands so far

 private:
  struct Operand {
    std::string name;
    bool output;
    const char *first, *last;          // byte range, last exclusive
    int64_t pixel, offset, row_bytes;  // channel slices of one buffer may interleave
  };
  static constexpr int kHostMemory = 1, kCudaMemory = 2;  // of DLPack
  void kind(const DLTensor* t, const char* name, int code, int bits, int ndim);
  void storage(const DLTensor* t, const char* name, int ndim);  // kind() of a map or filter
  float* numbers(const DLTensor* t, const char* name, int64_t length, bool output);
  void remember(const DLTensor* t, const char* name, bool output);
  const char* function_;
  bool cuda_allowed_ = false, bfloat16_allowed_ = false;
  int64_t size_ = 0;          // of an element of maps and filters; 0: none seen yet
  DLDevice device_ = {0, 0};  // of the first operand
  std::vector<Operand> operands_;
};

std::string shape_text(const int64_t* shape, int ndim);

// ---- Launches
// ------------------------------------------------------------------------------------

// A tile program, its record and how many tiles it has. Launches of one phase run side by side.
struct Launch {
  Program program;
  void* args;
  int64_t tiles;
  size_t scratch;
  int phase;
};

// Memory that is handed out in slices and taken back all at once; it grows to the largest use.
class Arena {
 public:
  void* take(size_t bytes);
  void reset();   // take all back; what was handed out may move
  void rewind();  // hand the same memory out again; addresses stay good

 private:
  struct Free {
    void operator()(void* p) const { free(p); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    size_t size, used;
  };
  std::vector<Block> blocks_;
  size_t at_ = 0;  // the block that slices come from
};

}  // namespace pyi

struct pyi_launches {
  std::vector<pyi::Launch> launches;
  pyi::Arena memory;   // records and tables
  pyi::Arena between;  // packed filters and maps between the phases of one call
  pyi::Arena scratch;
  int phase = 0;
  std::vector<pyi::Span> packs;  // operands of the packs in phase packs_phase
  int packs_phase = -1;
  std::atomic<bool> running{false};  // one walk of a list at a time: it has one scratch

  template <class Record>
  Record* record(int64_t count = 1) {
    void* at = memory.take(sizeof(Record) * static_cast<size_t>(count));
    std::memset(at, 0, sizeof(Record) * static_cast<size_t>(count));
    return static_cast<Record*>(at);
  }
  float* floats(int64_t count) {
    return static_cast<float*>(between.take(sizeof(float) * static_cast<size_t>(count)));
  }
  void add(pyi::Program program, void* args, int64_t tiles, size_t scratch_bytes) {
    if (tiles > 0) launches.push_back({program, args, tiles, scratch_bytes, phase});
  }
  void barrier() { ++phase; }
  void clear() {
    launches.clear();
    memory.reset();
    between.reset();
    packs.clear();
    phase = 0, packs_phase = -1;
  }
};

namespace pyi {

// What an entry point works with: where launches go, how they are chosen.
struct Call {
  Check check;
  pyi_launches& list;
  const Level& level;
  int threads;
  bool plain, winograd;        // winograd: asked for, or allowed by auto
  bool automatic, plain_twin;  // plain_twin: the plain programs of Winograd
  const pyi_options& options;
};

int default_threads();
bool walking_here();  // this thread is inside a walk (a signal handler called back)
pyi_status walk(pyi_launches& list, int threads, int (*interrupt)());
// work(data, member, members) on another library's OpenMP team, member 0 here; false: there is none
// that fits, and nothing was called.
bool run_on_borrowed_team(int members, void (*work)(void*, int, int), void* data);
const float* zero_row(int64_t count);  // at least `count` zeros, valid for ever

// Runs `body(call)`, then the launches it appended unless they are being recorded.
pyi_status enter(const char* function, const pyi_options* options, void (*body)(Call&, void*),
                 void* context);
template <class Body>
pyi_status entry(const char* function, const pyi_options* options, Body body) {
  return enter(
      function, options, [](Call& call, void* f) { (*static_cast<Body*>(f))(call); }, &body);
}

// Runs `body()`; what it throws becomes a status and a message.
pyi_status guard(void (*body)(void*), void* context);
template <class Body>
pyi_status guarded(Body body) {
  return guard([](void* f) { (*static_cast<Body*>(f))(); }, &body);
}

inline int64_t address(const void* p) { return reinterpret_cast<int64_t>(p); }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// A channel slice of a map.
inline Map slice(Map m, int64_t first, int64_t channels) {
  m.advance(first);
  m.C = channels;
  return m;
}
inline Map images(Map m, int64_t first, int64_t count) {
  m.advance(first * m.n);
  m.N = count;
  return m;
}

}  // namespace pyi
