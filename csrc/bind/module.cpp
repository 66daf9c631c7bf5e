// The extension module pyinception._C: registers only.
#include <algorithm>

#include "bind.h"
#include "dlpack.h"

namespace py = pybind11;
using pyi_bind::LaunchList;

namespace {

// `with record() as launches`: calls of this thread append to `launches` and run nothing.
struct Recorder {
  std::shared_ptr<LaunchList> list;
  LaunchList* outer = nullptr;
};

py::list kernels() {
  py::list rows;
  pyi_program_info info;
  for (int i = 0; pyi_program(i, &info); ++i) {
    py::dict d;
    d["name"] = info.name, d["level"] = info.level;
    d["MR"] = info.mr, d["NR"] = info.nr, d["VL"] = info.vl;
    d["wgrad_MR"] = info.wgrad_mr, d["wgrad_NR"] = info.wgrad_nr;
    d["runs_here"] = info.runs_here != 0;
    rows.append(d);
  }
  return rows;
}

std::vector<std::string> usable_levels() {
  std::vector<std::string> names;
  pyi_program_info info;
  for (int i = 0; pyi_program(i, &info); ++i) {
    bool listed = std::find(names.begin(), names.end(), info.level) != names.end();
    if (info.runs_here && !listed) names.emplace_back(info.level);
  }
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Checked entry points of the compiled kernels; see csrc/core/pyinception.h.";
  py::class_<LaunchList, std::shared_ptr<LaunchList>>(m, "LaunchList")
      .def(py::init<>())
      .def("run", &LaunchList::run, py::arg("threads") = 0)
      .def("__len__", [](LaunchList& list) { return pyi_launches_size(list.get()); });
  m.def("spread", &pyi_bind::spread, py::arg("slots"), py::arg("x"), py::arg("y"),
        py::arg("threads") = 0);
  py::class_<Recorder>(m, "Recorder")
      .def("__enter__",
           [](Recorder& r) {
             r.outer = pyi_bind::recording();
             pyi_bind::recording() = r.list.get();
             return r.list;
           })
      .def("__exit__", [](Recorder& r, py::args) { pyi_bind::recording() = r.outer; });
  m.def("record", [] { return Recorder{std::make_shared<LaunchList>()}; });
  m.def("kernels", &kernels);
  m.def("host_level", [] { return std::string(pyi_host_level()); });
  m.def("levels", &usable_levels);
  m.def("default_threads", &pyi_default_threads);
  m.def("replace_program", [](std::string level, std::string name, int64_t address) {
    using Program = void (*)(int64_t, int64_t, int64_t);
    pyi_bind::raise_for(
        pyi_replace_program(level.c_str(), name.c_str(), reinterpret_cast<Program>(address)));
  });
  pyi_bind::remember_main_thread();
  pyi_bind::register_dlpack(m);
  pyi_bind::register_conv(m);
  pyi_bind::register_ops(m);
  pyi_bind::register_cuda_plan(m);
  pyi_bind::register_looks(m);
  pyi_bind::register_memory(m);
}
