#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "check.h"

namespace emu {

constexpr std::size_t kGuardPages = 16;
// Alignment of a buffer's first byte, that of cudaMalloc, as far as the last byte's allows: 16.
constexpr std::size_t kBufferAlign = 16;

std::size_t page_size() {
  static const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}
static std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

Mapping::Mapping(std::size_t bytes) : bytes_(bytes) {
  void* p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  begin_ = static_cast<char*>(p);
}
Mapping::~Mapping() {
  if (begin_) munmap(begin_, bytes_);
}
Mapping::Mapping(Mapping&& other) noexcept
    : begin_(std::exchange(other.begin_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(begin_, other.begin_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
void Mapping::open(std::size_t offset, std::size_t bytes) {
  if (bytes && mprotect(begin_ + offset, bytes, PROT_READ | PROT_WRITE) != 0)
    throw std::bad_alloc();
}

// ---- buffers -----------------------------------------------------------------------------------
Buffer::Buffer(Mapping m, char* l, char* h, std::string n, bool i, bool w)
    : mapping(std::move(m)), low(l), high(h), name(std::move(n)), initialised(i), writable(w) {}
Buffer::~Buffer() = default;
Buffers::Buffers() = default;
Buffers::~Buffers() = default;

void Buffers::insert(std::unique_ptr<Buffer> buffer) {
  const auto at = std::upper_bound(buffers_.begin(), buffers_.end(), buffer,
                                   [](const auto& a, const auto& b) { return a->low < b->low; });
  buffers_.insert(at, std::move(buffer));
  recent_ = nullptr;
}

void* Buffers::allocate(uint64_t bytes, const char* name, bool initialised) {
  if (bytes > (uint64_t{1} << 46)) throw std::bad_alloc();
  const std::size_t guard = kGuardPages * page_size(), body = round_up(bytes, page_size());
  Mapping mapping(body + 2 * guard);
  mapping.open(guard, body);
  char* low = mapping.begin() + guard + (body - round_up(bytes, kBufferAlign));
  std::memset(mapping.begin() + guard, 0xff, body);
  insert(std::make_unique<Buffer>(std::move(mapping), low, low + bytes, name, initialised, true));
  return low;
}

void Buffers::adopt(void* memory, uint64_t bytes, const char* name, bool writable) {
  char* low = static_cast<char*>(memory);
  for (const auto& b : buffers_)
    if (b->low == low) return;
  insert(std::make_unique<Buffer>(Mapping(), low, low + bytes, name, true, writable));
}

bool Buffers::free(void* memory) {
  for (auto it = buffers_.begin(); it != buffers_.end(); ++it)
    if ((*it)->low == memory) {
      buffers_.erase(it);
      recent_ = nullptr;
      return true;
    }
  return false;
}

static bool near_buffer(const Buffer& b, const char* p) {
  return (p >= b.low && p < b.high) || b.mapping.holds(p);
}

Buffer* Buffers::find(const char* p) {
  if (recent_ && near_buffer(*recent_, p)) return recent_;
  const auto above = std::upper_bound(buffers_.begin(), buffers_.end(), p,
                                      [](const char* q, const auto& b) { return q < b->low; });
  if (above != buffers_.begin() && near_buffer(**(above - 1), p))
    return recent_ = (above - 1)->get();
  if (above != buffers_.end() && near_buffer(**above, p)) return recent_ = above->get();
  return nullptr;
}

// ---- window and stacks -------------------------------------------------------------------------
Window::Window(uint32_t size, uint32_t align)
    : mapping((std::size_t{1} << 32) + (std::size_t{1} << 20)), bytes(size) {
  const std::size_t body = round_up(size, page_size());
  mapping.open(page_size(), body);
  base = mapping.begin() + page_size() + (body - round_up(size, align));
}

Stacks::Stacks(uint32_t count, std::size_t size)
    : stride(round_up(size, page_size()) + kStackGuard), bytes(round_up(size, page_size())) {
  mapping = Mapping(stride * count);
  for (uint32_t i = 0; i < count; i++) mapping.open(i * stride + kStackGuard, bytes);
}

}  // namespace emu
