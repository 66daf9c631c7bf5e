// One deleter call for every capsule taken, whatever happens after.
#include "dlpack.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

namespace pyi_bind {
namespace {

// DLPack's managed tensors, before and since version 1.0.
struct Managed {
  DLTensor tensor;
  void* context;
  void (*deleter)(Managed*);
};
struct ManagedVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  DLTensor tensor;
};
constexpr uint64_t kReadOnly = 1;
constexpr uint32_t kMajor = 1;

constexpr const char* kPlain = "dltensor";
constexpr const char* kVersioned = "dltensor_versioned";

// The table of C functions that a type of arrays may carry (DLPack 1.3): an export through it costs
// a tenth of a call of __dlpack__, a loan even less. Only the head of the table is used.
struct Exchange {
  uint32_t major, minor;
  Exchange* older;
  void* allocate;
  int (*to_managed)(void* object, ManagedVersioned** out);
  void* from_managed;
  int (*lend)(void* object, DLTensor* out);  // may be null
  int (*current_stream)(int device_type, int32_t device_id, void** out);
};

Exchange* read_table(PyTypeObject* type) {
  static PyObject* name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  auto capsule =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name));
  if (!capsule || !PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
    PyErr_Clear();
    return nullptr;
  }
  auto* api = static_cast<Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return api->major == 1 ? api : nullptr;
}

// The table of the type of `object`, or null. The first types that have one are remembered, and
// kept alive with it: a call asks a dozen times.
Exchange* table_of(PyObject* object) {
  constexpr int kMost = 4;
  static PyTypeObject* types[kMost];
  static Exchange* tables[kMost];
  static int known = 0;  // under the GIL
  PyTypeObject* type = Py_TYPE(object);
  for (int i = 0; i < known; ++i) {
    if (types[i] == type) return tables[i];
  }
  Exchange* table = read_table(type);
  if (table != nullptr && known < kMost) {
    Py_INCREF(type);
    types[known] = type, tables[known] = table, ++known;
  }
  return table;
}

void delete_unused(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, kVersioned)) return;
  auto* managed = static_cast<ManagedVersioned*>(PyCapsule_GetPointer(capsule, kVersioned));
  if (managed->deleter != nullptr) managed->deleter(managed);
}

template <class Any>
void destroy(void* managed) {
  py::error_scope keep;  // a deleter may run while an exception is on its way
  auto* tensor = static_cast<Any*>(managed);
  if (tensor->deleter != nullptr) tensor->deleter(tensor);
}

template <class Any>
Taken take(const py::object& capsule, const char* name, const char* used) {
  auto* managed = static_cast<Any*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  return {&managed->tensor, false, py::capsule(managed, destroy<Any>)};
}

std::string dtype_text(DLDataType type) {
  const char* kinds[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  std::string text = type.code < 7 ? kinds[type.code] : "DLPack code " + std::to_string(type.code);
  if (type.code == 6) return text;
  text += type.code < 7 ? std::to_string(type.bits) : ", " + std::to_string(type.bits) + " bits";
  return type.lanes == 1 ? text : text + "x" + std::to_string(type.lanes);
}

// The NumPy dtype, for the types that an argument may have.
py::dtype dtype_of(const char* function, const char* name, DLDataType type) {
  if (type.lanes == 1) {
    if (type.code == 2 && type.bits == 32) return py::dtype::of<float>();
    if (type.code == 2 && type.bits == 64) return py::dtype::of<double>();
    if (type.code == 1 && type.bits == 8) return py::dtype::of<uint8_t>();
  }
  throw py::type_error(std::string(function) + ": " + name + " has dtype " + dtype_text(type) +
                       ", expected float32");
}

py::array from_dlpack(const std::string& function, const std::string& name,
                      const py::object& capsule) {
  Taken taken = take_dlpack(function.c_str(), name.c_str(), capsule);
  const DLTensor& t = *taken.tensor;
  if (t.device.device_type != 1 && t.device.device_type != 3) {  // host memory, plain or pinned
    throw py::type_error(function + ": " + name + " lives on DLPack device type " +
                         std::to_string(t.device.device_type) + ", expected host memory");
  }
  py::dtype dtype = dtype_of(function.c_str(), name.c_str(), t.dtype);
  std::vector<py::ssize_t> shape(t.shape, t.shape + t.ndim), strides(shape.size());
  py::ssize_t dense = dtype.itemsize();
  for (size_t i = shape.size(); i-- > 0; dense *= shape[i]) {
    strides[i] = t.strides == nullptr ? dense : t.strides[i] * dtype.itemsize();
  }
  char* data = static_cast<char*>(t.data) + t.byte_offset;
  py::array array(dtype, shape, strides, data, taken.owner);
  if (taken.read_only) {
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  }
  return array;
}

}  // namespace

bool exports(PyObject* object) {
  static PyObject* name = PyUnicode_InternFromString("__dlpack__");
  return table_of(object) != nullptr || PyObject_HasAttr(object, name) != 0;
}

py::object exchange(const py::object& object) {
  Exchange* api = table_of(object.ptr());
  ManagedVersioned* managed = nullptr;
  if (api == nullptr) return {};
  if (api->to_managed(object.ptr(), &managed) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(PyCapsule_New(managed, kVersioned, delete_unused));
}

bool borrow(PyObject* object, DLTensor* tensor) {
  Exchange* api = table_of(object);
  return api != nullptr && api->lend != nullptr && api->lend(object, tensor) == 0;
}

std::optional<uintptr_t> current_stream(const py::object& object) {
  Exchange* api = table_of(object.ptr());
  if (api == nullptr || api->current_stream == nullptr) return {};
  const auto device = py::cast<std::pair<int, int>>(object.attr("__dlpack_device__")());
  void* stream = nullptr;
  if (api->current_stream(device.first, device.second, &stream) != 0) throw py::error_already_set();
  return reinterpret_cast<uintptr_t>(stream);
}

Taken take_dlpack(const char* function, const char* name, const py::object& capsule) {
  const std::string where = std::string(function) + ": " + name;
  if (PyCapsule_IsValid(capsule.ptr(), kPlain)) {
    return take<Managed>(capsule, kPlain, "used_dltensor");
  }
  if (PyCapsule_IsValid(capsule.ptr(), kVersioned)) {
    auto* managed = static_cast<ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), kVersioned));
    if (managed->major > kMajor) {  // beyond the deleter its layout is unknown: left to its capsule
      throw py::type_error(where + " comes as DLPack " + std::to_string(managed->major) + "." +
                           std::to_string(managed->minor) + ", expected version 1 or earlier");
    }
    const bool read_only = (managed->flags & kReadOnly) != 0;
    Taken taken = take<ManagedVersioned>(capsule, kVersioned, "used_dltensor_versioned");
    taken.read_only = read_only;
    return taken;
  }
  const bool used = PyCapsule_IsValid(capsule.ptr(), "used_dltensor") ||
                    PyCapsule_IsValid(capsule.ptr(), "used_dltensor_versioned");
  throw py::type_error(where + (used ? ".__dlpack__() gave a capsule that is used up, expected a "
                                       "fresh one from each call"
                                     : ".__dlpack__() gave no DLPack capsule"));
}

void register_dlpack(py::module_& m) {
  m.def("from_dlpack", &from_dlpack, py::arg("function"), py::arg("argument"), py::arg("capsule"));
  m.def("current_stream", &current_stream, py::arg("array"));
}

}  // namespace pyi_bind
