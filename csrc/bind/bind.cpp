// Arrays in, exceptions out.
#include "bind.h"

#include <pybind11/numpy.h>
#include <unistd.h>

#include <cstring>

#include "dlpack.h"

namespace pyi_bind {
namespace {

std::string type_name(const py::object& object) {
  return py::str(py::type::of(object).attr("__qualname__"));
}

[[noreturn]] void read_only(const char* function, const char* name) {
  throw py::value_error(std::string(function) + ": " + name +
                        " is read-only, expected a writable array");
}

unsigned long main_thread = 0;

// ml_dtypes' bfloat16, which has no buffer format: lent as the integers of its bits.
bool is_bfloat16(const py::object& object) {
  if (!py::isinstance<py::array>(object)) return false;
  const py::dtype dtype = py::reinterpret_borrow<py::array>(object).dtype();
  return dtype.char_() == 'E' && dtype.itemsize() == 2 &&
         py::str(dtype.attr("name")).cast<std::string>() == "bfloat16";
}

}  // namespace

Array::Array(const char* function, const char* name, const py::object& given, bool output)
    : owner_(given) {
  if (given.is_none()) return;
  present_ = true;
  const bool turned = PyTuple_Check(given.ptr()) && PyTuple_GET_SIZE(given.ptr()) == 2;
  if (turned) owner_ = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(given.ptr(), 0));
  const py::object object = owner_;
  if (PyObject_CheckBuffer(object.ptr())) {
    from_buffer(function, name, output);
  } else if (exports(object.ptr())) {
    from_dlpack(function, name, output);
  } else {
    throw py::type_error(std::string(function) + ": " + name + " is a " + type_name(object) +
                         ", expected an array (NumPy, DLPack or the buffer protocol)");
  }
  if (turned) turn(function, name, py::reinterpret_borrow<py::object>(given)[py::int_(1)]);
  if (LaunchList* list = recording()) {
    // An export of the buffer, not only its owner: an owner may resize what nobody holds.
    bool buffer = held_.view.obj != nullptr;
    list->keep(buffer ? py::reinterpret_steal<py::object>(PyMemoryView_FromObject(owner_.ptr()))
                      : owner_);
  }
}

void Array::turn(const char* function, const char* name, const py::object& order) {
  const int ndim = tensor_.ndim;
  std::vector<int64_t> shape(ndim), strides(ndim);
  uint64_t seen = 0;
  const bool fits = PyTuple_Check(order.ptr()) && PyTuple_GET_SIZE(order.ptr()) == ndim;
  for (int to = 0; fits && ndim < 64 && tensor_.strides != nullptr && to < ndim; ++to) {
    PyObject* axis = PyTuple_GET_ITEM(order.ptr(), to);
    int overflow = 0;
    const long from = PyLong_Check(axis) ? PyLong_AsLongAndOverflow(axis, &overflow) : -1;
    if (from < 0 || from >= ndim) break;
    seen |= uint64_t{1} << from;
    shape[to] = shape_[from], strides[to] = strides_[from];
  }
  if (ndim < 1 || ndim > 63 || seen + 1 != uint64_t{1} << ndim) {
    throw py::value_error(std::string(function) + ": " + name + " is an array and " +
                          std::string(py::repr(order)) + ", expected the order of its " +
                          std::to_string(ndim) + " axes");
  }
  shape_.swap(shape), strides_.swap(strides);
  tensor_.shape = shape_.data(), tensor_.strides = strides_.data();
}

void Array::from_buffer(const char* function, const char* name, bool output) {
  bool bfloat16 = false;
  if (PyObject_GetBuffer(owner_.ptr(), &held_.view, PyBUF_RECORDS_RO) != 0) {
    py::error_already_set error;
    bfloat16 = is_bfloat16(owner_);
    if (!bfloat16) throw error;
    owner_ = owner_.attr("view")("uint16");
    if (PyObject_GetBuffer(owner_.ptr(), &held_.view, PyBUF_RECORDS_RO) != 0) {
      throw py::error_already_set();
    }
  }
  const Py_buffer& buffer = held_.view;
  const std::string format = buffer.format ? buffer.format : "B";
  const char code = format.size() == 1 ? format[0] : 0;
  const char* kinds[] = {"bhilqn", "BHILQN", "efd"};
  int kind = -1;
  for (int i = 0; i < 3; ++i) {
    if (code != 0 && std::strchr(kinds[i], code) != nullptr) kind = i;
  }
  if (kind < 0) {
    throw py::type_error(std::string(function) + ": " + name + " has dtype '" + format +
                         "', expected native float32");
  }
  if (output && buffer.readonly) read_only(function, name);
  for (int i = 0; i < buffer.ndim; ++i) {
    shape_.push_back(buffer.shape[i]);
    if (buffer.strides[i] % buffer.itemsize != 0) {
      throw py::value_error(std::string(function) + ": " + name +
                            " has strides that are no multiple of its element size");
    }
    strides_.push_back(buffer.strides[i] / buffer.itemsize);
  }
  tensor_ = {buffer.buf,
             {1, 0},
             buffer.ndim,
             {static_cast<uint8_t>(kind), static_cast<uint8_t>(buffer.itemsize * 8), 1},
             shape_.data(),
             strides_.data(),
             0};
  if (bfloat16) tensor_.dtype.code = 4;  // kDLBfloat
}

void Array::from_dlpack(const char* function, const char* name, bool output) {
  DLTensor lent;
  // A loan says nothing of read-only memory and ends with the call.
  if (!output && recording() == nullptr && borrow(owner_.ptr(), &lent)) return describe(lent);
  if (PyErr_Occurred()) throw py::error_already_set();
  py::object capsule = exchange(owner_);
  try {
    if (!capsule) {
      capsule = owner_.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
    }
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = owner_.attr("__dlpack__")();  // a producer of before DLPack 1.0
  }
  Taken taken = take_dlpack(function, name, capsule);
  if (output && taken.read_only) read_only(function, name);
  describe(*taken.tensor);
  owner_ = py::make_tuple(owner_, taken.owner);
}

void Array::describe(const DLTensor& from) {
  tensor_ = from;
  shape_.assign(from.shape, from.shape + from.ndim);
  tensor_.shape = shape_.data();
  if (from.strides != nullptr) {
    strides_.assign(from.strides, from.strides + from.ndim);
    tensor_.strides = strides_.data();
  }
}

LaunchList*& recording() {
  static thread_local LaunchList* list = nullptr;
  return list;
}

void LaunchList::run(int threads) {
  Options options("", "", threads);
  options.c.launches = nullptr;
  pyi_bind::run([&] { return pyi_launches_run(launches_, &options.c); });
}

void spread(const std::vector<Slot>& slots, const py::object& x, const py::object& y, int threads) {
  Options options("", "", threads);
  const char* name = "launches_spread";
  const Array from(name, "x", x), to(name, "y", y, true);
  std::vector<std::unique_ptr<Array>> held;
  std::vector<pyi_slot> places;
  for (const auto& [list, slot_x, slot_y] : slots) {
    held.push_back(std::make_unique<Array>(name, "slot's x", slot_x, true));
    held.push_back(std::make_unique<Array>(name, "slot's y", slot_y));
    places.push_back({list->get(), **(held.end() - 2), *held.back()});
  }
  run([&] {
    const int count = static_cast<int>(places.size());
    return pyi_launches_spread(places.data(), count, from, to, &options.c);
  });
}

Options::Options(std::string algorithm_, std::string level_, int threads)
    : algorithm(std::move(algorithm_)), level(std::move(level_)) {
  LaunchList* list = recording();
  c = {};
  c.algorithm = algorithm.c_str(), c.level = level.c_str(), c.threads = threads;
  c.launches = list ? list->get() : nullptr, c.interrupt = poll_interrupt;
}

void remember_main_thread() {
  py::object main = py::module_::import("threading").attr("main_thread")();
  main_thread = main.attr("ident").cast<unsigned long>();
}

int poll_interrupt() {
  if (PyThread_get_thread_ident() != main_thread) return 0;
  PyGILState_STATE state = PyGILState_Ensure();
  int stop = PyErr_CheckSignals();  // leaves KeyboardInterrupt set on this thread
  PyGILState_Release(state);
  return stop;
}

void raise_for(pyi_status status) {
  if (status == PYI_OK) return;
  if (PyErr_Occurred()) throw py::error_already_set();
  const char* message = pyi_last_error();
  switch (status) {
    case PYI_INVALID_TYPE:
      throw py::type_error(message);
    case PYI_UNSUPPORTED:
      PyErr_SetString(PyExc_NotImplementedError, message);
      throw py::error_already_set();
    case PYI_OUT_OF_MEMORY:
      PyErr_SetString(PyExc_MemoryError, message);
      throw py::error_already_set();
    case PYI_INTERRUPTED:
      PyErr_SetString(PyExc_KeyboardInterrupt, message);
      throw py::error_already_set();
    default:
      throw py::value_error(message);
  }
}

// A daemon thread that comes back after the interpreter has gone must never touch it again.
void restore_thread(PyThreadState* state) {
#if PY_VERSION_HEX >= 0x030D0000
  const bool gone = Py_IsFinalizing();
#else
  const bool gone = _Py_IsFinalizing();
#endif
  while (gone) pause();
  PyEval_RestoreThread(state);
}

}  // namespace pyi_bind
