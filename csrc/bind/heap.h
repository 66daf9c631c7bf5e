// Memory of large results, kept when it is freed and handed out again.
//
// A training step frees what it took and takes the same again. The system's allocator gives blocks
// of this size back to the kernel, which clears every page anew: an eighth of a step of GoogLeNet
// at batch 32. Here free neighbours join, the smallest block that fits is taken, and the whole lies
// in pages of 2 MB where the system has them. The GIL is the lock.
#pragma once

#include <cstddef>
#include <map>
#include <unordered_map>

namespace pyi_bind {

class Heap {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kLeast = 128 << 10;  // malloc serves what is smaller

  // At least `bytes`, uninitialised, from a cache line on; null where the system has no more.
  void* take(size_t bytes);
  // Back to the heap; false: it is not from here.
  bool give(void* memory);
  // Pages that no block holds go back to the system; how many bytes there were. They may be taken
  // again, and are faulted in anew.
  size_t release();

 private:
  using Free = std::map<char*, size_t>;
  Free::iterator best(size_t bytes);
  Free::iterator join(char* at, size_t bytes);
  Free::iterator grow(size_t bytes);
  Free free_;                               // address -> bytes, no two adjacent
  std::unordered_map<void*, size_t> held_;  // blocks handed out
};

}  // namespace pyi_bind
