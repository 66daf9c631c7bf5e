#include "heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace pyi_bind {
namespace {

constexpr size_t kHugePage = 2 << 20;
constexpr size_t kRegion = 256 << 20;  // of addresses: pages that nobody touches take no memory

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// `bytes` of addresses from a huge page on, a multiple of huge pages; null: none.
char* map_pages(size_t bytes) {
  void* all = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  char* first = static_cast<char*>(all);
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(first) % kHugePage) % kHugePage;
  if (skip > 0) munmap(first, skip);
  munmap(first + skip + bytes, kHugePage - skip);
  madvise(first + skip, bytes, MADV_HUGEPAGE);  // a kernel without them has small ones
  return first + skip;
}

}  // namespace

void* Heap::take(size_t bytes) {
  if (bytes > SIZE_MAX / 2) return nullptr;
  bytes = round_up(std::max<size_t>(bytes, 1), kAlignment);
  auto block = best(bytes);
  if (block == free_.end()) block = grow(bytes);
  if (block == free_.end()) return nullptr;
  char* at = block->first;
  const size_t rest = block->second - bytes;
  free_.erase(block);
  if (rest > 0) free_.emplace(at + bytes, rest);
  held_.emplace(at, bytes);
  return at;
}

bool Heap::give(void* memory) {
  auto held = held_.find(memory);
  if (held == held_.end()) return false;
  join(static_cast<char*>(memory), held->second);
  held_.erase(held);
  return true;
}

size_t Heap::release() {
  size_t bytes = 0;
  for (const auto& [at, size] : free_) {
    const uintptr_t first = round_up(reinterpret_cast<uintptr_t>(at), kHugePage);
    const uintptr_t last = (reinterpret_cast<uintptr_t>(at) + size) / kHugePage * kHugePage;
    if (first >= last) continue;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
    bytes += last - first;
  }
  return bytes;
}

Heap::Free::iterator Heap::best(size_t bytes) {
  auto found = free_.end();
  for (auto block = free_.begin(); block != free_.end(); ++block) {
    if (block->second < bytes) continue;
    if (found == free_.end() || block->second < found->second) found = block;
  }
  return found;
}

Heap::Free::iterator Heap::join(char* at, size_t bytes) {
  auto after = free_.lower_bound(at);
  if (after != free_.end() && at + bytes == after->first) {
    bytes += after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    auto before = std::prev(after);
    if (before->first + before->second == at) {
      before->second += bytes;
      return before;
    }
  }
  return free_.emplace_hint(after, at, bytes);
}

Heap::Free::iterator Heap::grow(size_t bytes) {
  const size_t needed = round_up(bytes, kHugePage);
  for (size_t size : {std::max(needed, kRegion), needed}) {
    if (char* first = map_pages(size)) return join(first, size);
  }
  return free_.end();
}

}  // namespace pyi_bind
