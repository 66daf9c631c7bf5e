// Memory for results: NumPy arrays that begin on a cache line.
#include <pybind11/numpy.h>

#include <cstdlib>
#include <new>

#include "bind.h"

namespace pyi_bind {
namespace {

constexpr size_t kAlignment = 64;

// An uninitialised C-contiguous array; NumPy counts its memory as another's.
py::array empty(const std::vector<py::ssize_t>& shape, const py::dtype& kind) {
  size_t bytes = static_cast<size_t>(kind.itemsize());
  for (py::ssize_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(extent), &bytes)) {
      throw py::value_error("empty: shape has an extent below 0 or too large");
    }
  }
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t whole = bytes / kAlignment * kAlignment + kAlignment;
  void* memory = std::aligned_alloc(kAlignment, whole);
  if (memory == nullptr) throw std::bad_alloc();
  py::capsule owner(memory, [](void* pointer) { std::free(pointer); });
  return py::array(kind, shape, memory, owner);
}

}  // namespace

void register_memory(py::module_& m) { m.def("empty", &empty, py::arg("shape"), py::arg("dtype")); }

}  // namespace pyi_bind
