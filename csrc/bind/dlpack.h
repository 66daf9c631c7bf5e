// DLPack capsules of other libraries, taken over as the protocol asks.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "pyinception.h"

namespace pyi_bind {

namespace py = pybind11;

// The tensor of a capsule that is now used up. `owner` calls the producer's deleter once, with the
// GIL, when it dies; the tensor lives as long.
struct Taken {
  const DLTensor* tensor;
  bool read_only;
  py::capsule owner;
};

// Takes over what `__dlpack__` returned. TypeError for anything but a fresh capsule of DLPack 0 or
// 1; such a capsule stays as it was.
Taken take_dlpack(const char* function, const char* name, const py::object& capsule);

// Whether `object` speaks DLPack.
bool exports(PyObject* object);

// The memory of `object` as a capsule, by its type's table; a null object where there is none.
py::object exchange(const py::object& object);

// `object` as a tensor that stays its own, by its type's table: valid while nobody changes its
// shape. False where there is no such table, or with a Python error where it refuses.
bool borrow(PyObject* object, DLTensor* tensor);

// The stream (cudaStream_t) that the library of `object` works on now, by its type's table; nothing
// where it has none.
std::optional<uintptr_t> current_stream(const py::object& object);

void register_dlpack(py::module_& m);

}  // namespace pyi_bind
