// What checks read of arguments, as bytes: a call is known again by the looks of what it is given.
#include <pybind11/numpy.h>

#include "bind.h"
#include "dlpack.h"

namespace pyi_bind {
namespace {

class Looks {
 public:
  explicit Looks(const py::tuple& plain) : plain_(plain) { text_.reserve(kUsual); }

  // False for what has no looks: its call takes the long way.
  bool add(PyObject* object, int depth = 0) {
    if (object == Py_None) return put('-');
    if (PyTuple_CheckExact(object)) {
      if (depth == kDeepest) return false;
      put('(');
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
        if (!add(PyTuple_GET_ITEM(object, i), depth + 1)) return false;
      }
      return put(')');
    }
    PyTypeObject* type = Py_TYPE(object);
    if (type == &PyLong_Type || type == &PyBool_Type) return add_integer(object);
    if (type == &PyFloat_Type) return put('f') && put(PyFloat_AS_DOUBLE(object));
    if (type == &PyUnicode_Type) return add_text(object);
    if (type == py::detail::npy_api::get().PyArray_Type_) return add_numpy(object);
    for (py::handle one : plain_) {
      if (reinterpret_cast<PyObject*>(type) == one.ptr()) return add_tensor(object);
    }
    return add_named(object);
  }

  py::bytes bytes() const { return py::bytes(text_); }

 private:
  static constexpr int kDeepest = 8;     // no option nests deeper
  static constexpr size_t kUsual = 600;  // bytes of a call with five arrays, with room to spare

  template <class T>
  bool put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return true;
  }

  bool add_integer(PyObject* object) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    put(PyBool_Check(object) ? 'b' : 'i');  // 1 and True are equal, and one of them is an integer
    return put(value) && overflow == 0;
  }

  bool add_text(PyObject* object) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == nullptr) {
      PyErr_Clear();
      return false;
    }
    put('s'), put(size);
    text_.append(text, size);
    return true;
  }

  bool add_numpy(PyObject* object) {
    const auto* array = py::detail::array_proxy(object);
    static const PyObject* known[] = {
        py::dtype::of<float>().release().ptr(), py::dtype::of<double>().release().ptr(),
        py::dtype::of<uint8_t>().release().ptr(), py::dtype::of<int64_t>().release().ptr()};
    char code = 0;
    while (code < 4 && array->descr != known[static_cast<int>(code)]) ++code;
    if (code == 4) return false;
    using Api = py::detail::npy_api;
    constexpr int kRead = Api::NPY_ARRAY_ALIGNED_ | Api::NPY_ARRAY_WRITEABLE_;
    put('n'), put(code), put(static_cast<char>(array->nd)), put(array->flags & kRead);
    for (int i = 0; i < array->nd; ++i) put(array->dimensions[i]), put(array->strides[i]);
    return true;
  }

  bool add_tensor(PyObject* object) {
    DLTensor t;
    if (!borrow(object, &t)) {
      PyErr_Clear();
      return false;
    }
    put('t'), put(t.device), put(t.dtype), put(static_cast<char>(t.ndim));
    int64_t size = 1;
    for (int i = 0; i < t.ndim; ++i) {
      put(t.shape[i]), put(t.strides == nullptr ? int64_t{-1} : t.strides[i]);
      size *= t.shape[i];
    }
    return t.data != nullptr || size == 0;
  }

  // Any other object may say by itself how it looks, in bytes: packed filters do.
  bool add_named(PyObject* object) {
    static PyObject* name = PyUnicode_InternFromString("looks");
    auto said = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, name));
    PyErr_Clear();
    if (!said || !PyBytes_CheckExact(said.ptr())) return false;
    put('p'), put(PyBytes_GET_SIZE(said.ptr()));
    text_.append(PyBytes_AS_STRING(said.ptr()), PyBytes_GET_SIZE(said.ptr()));
    return true;
  }

  py::tuple plain_;
  std::string text_;
};

}  // namespace

void register_looks(py::module_& m) {
  m.def(
      "looks",
      [](const py::tuple& arguments, const py::tuple& plain,
         const py::tuple& switches) -> py::object {
        Looks looks(plain);
        for (py::handle value : switches) {
          if (!looks.add(value.ptr())) return py::none();
        }
        if (!looks.add(arguments.ptr())) return py::none();
        return looks.bytes();
      },
      py::arg("arguments"), py::arg("plain"), py::arg("switches"));
}

}  // namespace pyi_bind
