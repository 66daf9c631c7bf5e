// Memory between guard pages: device buffers, the shared window of a block, the stacks of fibers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace emu {

std::size_t page_size();

// An address range without access rights, parts of which can be opened.
class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(std::size_t bytes);  // throws std::bad_alloc
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  void open(std::size_t offset, std::size_t bytes);
  char* begin() const { return begin_; }
  char* end() const { return begin_ + bytes_; }
  bool holds(const char* p) const { return p >= begin_ && p < end(); }

 private:
  char* begin_ = nullptr;
  std::size_t bytes_ = 0;
};

struct Shadow;  // of the checker

struct Buffer {
  Mapping mapping;  // empty for memory that a translated file owns
  char *low, *high;
  std::string name;
  bool initialised, writable;
  std::unique_ptr<Shadow> shadow;

  Buffer(Mapping mapping, char* low, char* high, std::string name, bool initialised, bool writable);
  ~Buffer();
};

// The buffers of a device, by address.
class Buffers {
 public:
  Buffers();
  ~Buffers();
  void* allocate(uint64_t bytes, const char* name, bool initialised);
  void adopt(void* memory, uint64_t bytes, const char* name, bool writable);
  bool free(void* memory);
  // The buffer that holds p, or whose guard pages do; null: none.
  Buffer* find(const char* p);
  std::vector<std::unique_ptr<Buffer>>& all() { return buffers_; }

 private:
  void insert(std::unique_ptr<Buffer> buffer);
  std::vector<std::unique_ptr<Buffer>> buffers_;
  Buffer* recent_ = nullptr;
};

// Shared memory of a block. All 2^32 offsets stay inside the mapping, so that none of them reaches
// other memory; what lies behind the window's last byte is a guard page.
struct Window {
  Mapping mapping;
  char* base = nullptr;
  uint32_t bytes = 0;
  Window() = default;
  Window(uint32_t bytes, uint32_t align);
};

// Stacks of fibers, each above a guard area that a large frame cannot skip unseen.
constexpr std::size_t kStackGuard = 64 << 10;
struct Stacks {
  Mapping mapping;
  std::size_t stride = 0, bytes = 0;
  Stacks() = default;
  Stacks(uint32_t count, std::size_t bytes);
  char* low(uint32_t i) const { return mapping.begin() + i * stride + (stride - bytes); }
};

}  // namespace emu
