// Memory for results: NumPy arrays that begin on a cache line. Checksums.
#include <pybind11/numpy.h>

#include <cstdlib>
#include <new>

#include "bind.h"
#include "heap.h"

namespace pyi_bind {
namespace {

constexpr int kMostAxes = 8;

// Never destroyed: an array may outlive the module.
Heap& heap() {
  static auto* shared = new Heap;
  return *shared;
}

void* take(size_t bytes) {
  if (bytes >= Heap::kLeast) return heap().take(bytes);
  return std::aligned_alloc(Heap::kAlignment,
                            bytes / Heap::kAlignment * Heap::kAlignment + Heap::kAlignment);
}

void give(void* memory) {
  if (!heap().give(memory)) std::free(memory);
}

// An uninitialised C-contiguous array; NumPy counts its memory as another's. By NumPy's own
// functions: this is a tenth of what a small call costs.
py::object empty(const py::tuple& shape, const py::dtype& kind) {
  const auto axes = static_cast<int>(shape.size());
  if (axes > kMostAxes) throw py::value_error("empty: shape has more than eight axes");
  Py_intptr_t extents[kMostAxes];
  size_t bytes = static_cast<size_t>(kind.itemsize());
  for (int i = 0; i < axes; ++i) {
    extents[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape.ptr(), i));
    if (PyErr_Occurred()) throw py::error_already_set();
    if (extents[i] < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(extents[i]), &bytes)) {
      throw py::value_error("empty: shape has an extent below 0 or too large");
    }
  }
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  void* memory = take(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  PyObject* owner = PyCapsule_New(
      memory, nullptr, [](PyObject* capsule) { give(PyCapsule_GetPointer(capsule, nullptr)); });
  if (owner == nullptr) {
    give(memory);
    throw py::error_already_set();
  }
  auto keep = py::reinterpret_steal<py::object>(owner);
  using Api = py::detail::npy_api;
  const Api& numpy = Api::get();
  auto array = py::reinterpret_steal<py::object>(numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, kind.inc_ref().ptr(), axes, extents, nullptr, memory,
      Api::NPY_ARRAY_WRITEABLE_ | Api::NPY_ARRAY_ALIGNED_, nullptr));
  if (!array) throw py::error_already_set();
  if (numpy.PyArray_SetBaseObject_(array.ptr(), keep.release().ptr()) != 0) {
    throw py::error_already_set();
  }
  return array;
}

uint32_t crc32(const py::buffer& data) {
  Py_buffer view;
  if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  uint32_t crc = 0;
  run([&] {
    crc = pyi_crc32(view.buf, static_cast<size_t>(view.len));
    return PYI_OK;
  });
  PyBuffer_Release(&view);
  return crc;
}

}  // namespace

void register_memory(py::module_& m) {
  m.def("empty", &empty, py::arg("shape"), py::arg("dtype"));
  m.def("release_memory", [] { return heap().release(); });
  m.def("crc32", &crc32, py::arg("data"));
}

}  // namespace pyi_bind
