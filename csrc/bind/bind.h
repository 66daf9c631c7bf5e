// Borrowed arrays, options and errors: what every binding needs. No logic of the library is here.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "pyinception.h"

namespace pyi_bind {

namespace py = pybind11;
using Pair = std::array<int64_t, 2>;

// A caller's array as a DLTensor, for the time of a call: NumPy, DLPack (versioned or not) or the
// buffer protocol; None is the missing optional array; a pair (array, order) is the array with its
// axes in that order, as numpy.transpose has it. Outputs must be writable.
class Array {
 public:
  Array(const char* function, const char* name, const py::object& object, bool output = false);
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  operator const DLTensor*() const { return present_ ? &tensor_ : nullptr; }

 private:
  void turn(const char* function, const char* name, const py::object& order);
  void from_buffer(const char* function, const char* name, bool output);
  void from_dlpack(const char* function, const char* name, bool output);
  void describe(const DLTensor& from);
  DLTensor tensor_{};
  std::vector<int64_t> shape_, strides_;
  py::object owner_;  // keeps the memory alive
  struct Held {       // a buffer held while the array is borrowed, released whatever happens
    Py_buffer view{};
    ~Held() {
      if (view.obj != nullptr) PyBuffer_Release(&view);
    }
  } held_;
  bool present_ = false;
};

// Launches recorded by `with record() as launches`; keeps the recorded arrays alive.
class LaunchList {
 public:
  LaunchList() : launches_(pyi_launches_create()) {}
  ~LaunchList() { pyi_launches_destroy(launches_); }
  LaunchList(const LaunchList&) = delete;
  LaunchList& operator=(const LaunchList&) = delete;
  pyi_launches* get() { return launches_; }
  void keep(py::object object) { kept_.push_back(std::move(object)); }
  void run(int threads);

 private:
  pyi_launches* launches_;
  std::vector<py::object> kept_;
};

using Slot = std::tuple<std::shared_ptr<LaunchList>, py::object, py::object>;  // list, x, y
void spread(const std::vector<Slot>& slots, const py::object& x, const py::object& y, int threads);

// The list that the current thread records into, or null.
LaunchList*& recording();

// For its own life, another list that the current thread records into, or null.
class RecordingInto {
 public:
  explicit RecordingInto(LaunchList* list) : before_(recording()) { recording() = list; }
  ~RecordingInto() { recording() = before_; }
  RecordingInto(const RecordingInto&) = delete;
  RecordingInto& operator=(const RecordingInto&) = delete;

 private:
  LaunchList* before_;
};

// The trailing arguments of every op, as the core wants them.
struct Options {
  std::string algorithm, level;
  pyi_options c;
  Options(std::string algorithm_, std::string level_, int threads);
};

void raise_for(pyi_status status);
void remember_main_thread();  // once, with the GIL
int poll_interrupt();         // by the calling thread of a walk, without it

// Runs a core call without the GIL and turns its status into an exception.
void restore_thread(PyThreadState* state);
template <class Call>
void run(Call call) {
  PyThreadState* state = PyEval_SaveThread();
  pyi_status status = call();
  restore_thread(state);
  raise_for(status);
}

void register_conv(py::module_& m);
void register_ops(py::module_& m);
void register_cuda_plan(py::module_& m);
void register_looks(py::module_& m);
void register_memory(py::module_& m);

}  // namespace pyi_bind
